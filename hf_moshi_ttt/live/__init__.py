"""Live streams: a session of sound in and sound out, its codec's state, and its memory as a file."""
