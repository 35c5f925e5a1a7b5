"""Training: the loop that trains many networks at once, its evaluation and its checkpoints."""
