"""Networks. `emphasis.models.stacked` holds many multilayer perceptrons as one batched computation."""
