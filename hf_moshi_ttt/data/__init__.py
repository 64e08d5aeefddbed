"""Corpora as `datasets`: from audio files to batches of codes `[B, 17, T]`."""
