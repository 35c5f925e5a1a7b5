"""Fused kernels behind `emphasis.torch`: one module for each way to run them, all with the same three functions.

`loss_and_derivative` does everything from a weighting's table in one sweep over memory; `margins` and
`write_derivative` are its two halves, between which the caller may do with the margins what it likes (batch
normalisation, a weighting without a table). logits are (outer, classes, ...), an example is one (outer, ...).
"""

from emphasis.errors import EmphasisValueError


class ExampleError(EmphasisValueError):
    """An example that has no loss: its label is not allowed, or one of its logits is not finite.

    Attributes:
        example: Its index in labels.flatten().
        is_label: Whether it is the label.
    """

    def __init__(self, example: int, is_label: bool) -> None:
        super().__init__(f"example {example}: {'label' if is_label else 'logits'} not allowed")
        self.example = example
        self.is_label = is_label
