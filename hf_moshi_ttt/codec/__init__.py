"""Sound and words to rows of codes and back: audio files, codecs, text rows."""
