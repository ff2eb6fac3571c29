"""Models of the examples, to be copied."""
