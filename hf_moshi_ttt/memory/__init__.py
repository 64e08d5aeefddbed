"""The test-time-training layer: what remembers a stream after the attention window has moved on."""
