"""`Backend`: the interface of the kernels that compute a loss.

Functions that compute a derivative return it; callers do not pass buffers.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from emphasis.compatibility.torch import dispatch_modes_are_active, is_tracing, transforms_are_active
from emphasis.errors import EmphasisValueError
from emphasis.kernels.batch_statistics import BatchStatistics
from emphasis.weighting.options import Reduction

Wrong = Literal["label", "logits", "probabilities"]
GradientIn = Literal["new memory", "the logits", "nothing"]
"""Memory of the derivative; "nothing" if only the loss is computed."""


def is_watched() -> bool:
    """Return whether operations on tensors are recorded, by torch.jit.trace or a dispatch mode such as that of make_fx.

    Values read from a tensor, or written to its memory by address, would not be recorded.
    """
    return is_tracing() or dispatch_modes_are_active()


def can_be_read(tensor: Tensor) -> bool:
    """Return whether values of a tensor can be read, which needs no wait for a device and no transform such as vmap."""
    return tensor.is_cpu and not transforms_are_active() and not is_watched()


class Result(NamedTuple):
    """The result of a loss.

    Attributes:
        loss: Losses of the shape of the labels for reduction "none", else a scalar; float64 for float64 logits and
            float32 otherwise.
        gradient: Derivative of the loss, of the shape and dtype of the logits; None if it was not requested.
        pending_scale: Factor that the gradient has to be multiplied by. It is 1 except for float16, in which the
            derivative of a mean may underflow before a gradient scaler has multiplied it.
    """

    loss: Tensor
    gradient: Tensor | None
    pending_scale: Tensor | float


class Margins(NamedTuple):
    """The first half of the computation; the caller computes weights from it for `Backend.derivative`, the second half.

    Attributes:
        margin: Margins of the shape of the labels, 0 for ignored examples; float64 for float64 logits and float32
            otherwise.
        lead: Logits of the labels minus the largest other logits, of the same shape and dtype; undefined for ignored
            examples.
        state: Values that `Backend.derivative` of the same backend needs.
    """

    margin: Tensor
    lead: Tensor
    state: Any


class ExampleError(EmphasisValueError):
    """An example has a label that is not allowed or a logit that is not finite.

    Attributes:
        example: Index of the example in labels.flatten().
        what: The part that is not allowed: "label", "logits" or "probabilities".
    """

    def __init__(self, example: int, what: Wrong) -> None:
        super().__init__(f"example {example}: {what} not allowed")
        self.example = example
        self.what = what


class Backend(Protocol):
    """An implementation of the kernels.

    Logits are contiguous (outer, C, ...), and labels contiguous (outer, ...) int64 in [0, C) or `ignore_index`; each
    (outer, ...) is an example. `factor` has the shape of the labels: float64 weights >= 0 of the examples, or None for
    1. `table` is `MarginTable.packed` on the device of the logits; that table is exact if the logits are float64. A
    mean divides by the sum of the factors of examples that are not ignored. With `is_batch` weights are shares of their
    sum over the batch, and the loss is the weighted cross-entropy; "mean" and "sum" are then the same.

    A bad example raises `ExampleError` on the CPU; on other devices, where reading a value would stall, its loss is
    NaN.
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

        `trust` is `Weighting.trust`; the table contains it too, but reading it from a device would stall.
        """

    def batch_statistics(self, logits: Tensor, labels: Tensor, share: Tensor, ignore_index: int) -> BatchStatistics:
        """Return the statistics for weightings that depend on the batch.

        `share` is the weight of each example, float64 >= 0 of the shape of the labels, 0 for ignored examples.
        """

    def margins(self, logits: Tensor, labels: Tensor, ignore_index: int, gradient_in: GradientIn) -> Margins:
        """Return the margins; `gradient_in` is that of the later call of `derivative`."""

    def derivative(
        self,
        logits: Tensor,
        labels: Tensor,
        half: Tensor,
        state: Any,
        ignore_index: int,
        gradient_in: GradientIn,
    ) -> Tensor:
        """Return the derivative dz_y = -half, dz_j = half q_j of the same logits; 0 for ignored examples."""

    def scale(self, gradient: Tensor, factor: Tensor, pending_scale: Tensor | float) -> Tensor:
        """Return gradient * factor * pending_scale in the gradient's memory.

        `factor` is a scalar, or a tensor with a number for each example and size 1 for C.
        """


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
            logits: Contiguous logits, (N, C).
            targets: Probabilities (N, C), float64 for float64 logits and float32 otherwise; each row sums to 1.
            class_weight: Factors of the probabilities by class, (C,) float64 >= 0, or None for 1.
            factor: Weights of the examples, (N,) float64 >= 0, or None for 1.
            table: `MarginTable.packed`.
            compact: `MarginTable.compact`, or None.
            reduction: "mean" divides by the sum of factor * class_weight * targets.
            is_batch: Whether weights are shares of the batch's sum.
            gradient_in: "new memory" or "nothing".
            trust: `Weighting.trust`.

        Raises:
            ExampleError: A logit is not finite, or a row does not hold probabilities. On a GPU the loss is NaN instead.
        """
