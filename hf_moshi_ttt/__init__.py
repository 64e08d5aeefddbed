"""TTT-Moshi for HuggingFace."""
