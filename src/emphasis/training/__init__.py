"""Training of one or many networks at once: the loop, evaluation and checkpoints."""
