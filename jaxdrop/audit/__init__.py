"""What dropout does in a given model, and what is wrong with it."""
