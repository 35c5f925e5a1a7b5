"""What a loss asks of the kernels that compute it: `Backend`, and which of the three a tensor gets.

Every function that computes a derivative returns it: there is no buffer that a caller makes and nobody writes.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from emphasis.compatibility.torch import dispatch_modes_are_active, is_tracing, transforms_are_active
from emphasis.errors import EmphasisValueError
from emphasis.kernels.batch_statistics import BatchStatistics
from emphasis.weighting.options import Reduction

Wrong = Literal["label", "logits", "probabilities"]
GradientIn = Literal["new memory", "the logits", "nothing"]
"""Where the derivative goes; "nothing" for the loss alone."""


def is_watched() -> bool:
    """Return whether somebody records what is done to tensors: torch.jit.trace, or a dispatch mode such as make_fx's.

    What is read of a tensor, or written to its memory by address, would not be in the record.
    """
    return is_tracing() or dispatch_modes_are_active()


def can_be_read(tensor: Tensor) -> bool:
    """Return whether a value can be read without stalling a device, and has one value."""
    return tensor.is_cpu and not transforms_are_active() and not is_watched()


class Result(NamedTuple):
    """What a loss comes to.

    Attributes:
        loss: Like the labels for reduction "none", else (); float64 for float64 logits, float32 otherwise.
        gradient: The loss's derivative, of the logits' shape and dtype, or None if none was asked for.
        pending_scale: What the gradient is still to be multiplied by. It is 1 but for float16, which could not hold the
            derivative of a mean before a gradient scaler has multiplied it.
    """

    loss: Tensor
    gradient: Tensor | None
    pending_scale: Tensor | float


class Margins(NamedTuple):
    """The first half of a derivative, between which and the second a caller weighs the examples.

    Attributes:
        margin: Like the labels, 0 for ignored examples; float64 for float64 logits, float32 otherwise.
        lead: Of the same shape and dtype, the label's logit less the largest other one; anything for ignored examples.
        state: What `Backend.derivative` of the same backend needs.
    """

    margin: Tensor
    lead: Tensor
    state: Any


class ExampleError(EmphasisValueError):
    """An example that has no loss: its label is not allowed, or one of its logits is not finite.

    Attributes:
        example: Its index in labels.flatten().
        what: "label", "logits" or "probabilities", whichever is not allowed.
    """

    def __init__(self, example: int, what: Wrong) -> None:
        super().__init__(f"example {example}: {what} not allowed")
        self.example = example
        self.what = what


class Backend(Protocol):
    """One way to run the kernels.

    logits are (outer, C, ...) and contiguous, labels (outer, ...) int64, contiguous, in [0, C) or `ignore_index`; an
    example is one (outer, ...). `factor` has the labels' shape: float64 weights >= 0 of the examples, or None for 1.
    `table` is `MarginTable.packed` on the logits' device, of a table that is exact where the logits are float64.
    A mean divides by the sum of the factors of the examples that count. With `is_batch` weights are shares of the
    batch's sum instead, and the loss is the weighted cross-entropy; "mean" and "sum" are the same then.

    Where reading a value costs nothing, an example that is wrong raises `ExampleError`; elsewhere its loss is NaN.
    """

    name: str

    def takes(self, dtype: torch.dtype) -> bool:
        """Return whether there are kernels for logits of this dtype."""

    def loss_of_labels(
        self,
        logits: Tensor,
        labels: Tensor,
        factor: Tensor | None,
        table: Tensor,
        ignore_index: int,
        reduction: Reduction,
        is_batch: bool,
        gradient_in: GradientIn,
        trust: tuple[float, float] = (0.0, 0.0),
    ) -> Result:
        """Return the loss of class labels and its derivative.

        trust: `Weighting.trust`, which the table has as well, but on a device where reading it would stall.
        """

    def batch_statistics(self, logits: Tensor, labels: Tensor, share: Tensor, ignore_index: int) -> BatchStatistics:
        """Return what a weighting that depends on the batch has to know of it.

        share: Of the labels' shape, float64 >= 0: what each example counts, 0 for those that are ignored.
        """

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:
        """Return each example's margin; `gradient_in` says what will be asked of `derivative`."""

    def derivative(
        self,
        logits: Tensor,
        labels: Tensor,
        half: Tensor,
        state: Any,
        ignore_index: int,
        gradient_in: GradientIn,
    ) -> Tensor:
        """Return dz_y = -half, dz_j = half q_j of the same logits, 0 for ignored examples; half: half the weights."""

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in the gradient's memory.

        factor: One number, or one for each example with size 1 for C.
        """


@runtime_checkable
class TargetsBackend(Backend, Protocol):
    """A backend that also has kernels for rows of probabilities instead of labels."""

    def loss_of_targets(
        self,
        logits: Tensor,
        targets: Tensor,
        class_weight: Tensor | None,
        factor: Tensor | None,
        table: Tensor,
        compact: Tensor | None,
        reduction: Reduction,
        is_batch: bool,
        gradient_in: GradientIn,
        trust: tuple[float, float] = (0.0, 0.0),
    ) -> Result:
        """Return the loss of rows of probabilities and its derivative.

        Args:
            logits: (N, C), contiguous.
            targets: (N, C), float64 for float64 logits and float32 otherwise; each row sums to 1.
            class_weight: (C,) float64 >= 0, which multiplies the rows, or None for 1.
            factor: (N,) float64 >= 0, the weights of the examples, or None for 1.
            table: `MarginTable.packed`.
            compact: `MarginTable.compact`, or None.
            reduction: "mean" divides by the sum of factor * class_weight * targets.
            is_batch: Whether weights are shares of the batch's sum.
            gradient_in: "new memory" or "nothing".
            trust: `Weighting.trust`.

        Raises:
            ExampleError: A logit is not finite, or a row does not hold probabilities. On a GPU the loss is NaN instead.
        """
