"""Recognises, opens, converts, loads, saves, adapts and describes checkpoints of every layout."""
