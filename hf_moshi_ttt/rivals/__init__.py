"""Published methods that are no learner of a layer: models of their own, to compare the memory with."""
