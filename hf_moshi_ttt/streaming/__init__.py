"""One frame in, one frame out: the state of a stream, `step_with_logits` and `generate`."""
