"""Measurements: loss over position in long recordings, paired likelihoods, text perplexity, conversations."""
