"""The options that every front end shares, their checks, and the errors that all front ends raise alike."""

from __future__ import annotations

import math
import operator
from typing import Literal

from emphasis.errors import EmphasisOverflowError, EmphasisTypeError, EmphasisValueError
from emphasis.validation import check
from emphasis.weighting.base import Weighting

Normalization = Literal["integral", "batch"] | None
Reduction = Literal["mean", "sum", "none"]

SATURATION = 2.0
"""An unbounded weight stops at exp(-2) of the dtype's largest number, so that sums stay finite."""


def check_options(normalization: Normalization, reduction: Reduction = "mean") -> None:
    """Check two options of a loss.

    Raises:
        ValueError: An option is not allowed; the message lists the allowed values.
    """
    check(
        normalization in (None, "integral", "batch"), "normalization", normalization, 'use None, "integral" or "batch"'
    )
    check(reduction in ("mean", "sum", "none"), "reduction", reduction, 'use "mean", "sum" or "none"')


def check_ignore_index(ignore_index: object) -> int:
    """Return `ignore_index` as a Python integer.

    Raises:
        TypeError: It is not an integer.
        ValueError: It does not fit into 64 bits.
    """
    if type(ignore_index) is not int:
        if isinstance(ignore_index, bool) or not hasattr(ignore_index, "__index__"):
            raise EmphasisTypeError(f"ignore_index must be an integer, got {ignore_index!r}")
        ignore_index = operator.index(ignore_index)
    if not -(2**63) <= ignore_index < 2**63:
        raise EmphasisValueError(
            f"ignore_index={ignore_index} does not fit the 64 bits of a label; use one such as -100"
        )
    return ignore_index


def check_weights_fit(
    weighting: Weighting, log_largest: float, dtype: object, largest: float, largest_in_arithmetic: float
) -> None:
    """Check that a dtype can hold the weights, and the dtype of the arithmetic their logarithms.

    Args:
        weighting: The weighting; unbounded ones saturate and are not checked.
        log_largest: Logarithm of the largest weight after normalization; -inf where the batch bounds it.
        dtype: The dtype of the logits, for the message.
        largest: Largest number of that dtype.
        largest_in_arithmetic: Largest number of the dtype in which the loss is computed.

    Raises:
        OverflowError: The weights do not fit; the message says what to use.
    """
    if weighting.log_peak == math.inf:
        return
    if weighting.log_peak > 0.5 * largest_in_arithmetic:
        raise EmphasisOverflowError(f"log w of {weighting!r} is more than {dtype} holds; use a smaller beta")
    if log_largest > math.log(largest):
        raise EmphasisOverflowError(
            f"{weighting!r} reaches w = exp({log_largest:.4g}), more than {dtype} holds; use "
            'normalization="batch", which is finite for any beta, a smaller beta, or logits of a wider dtype'
        )


def factor_overflow(weighting: Weighting, largest: float, dtype: object) -> EmphasisOverflowError:
    """Return the error for class and sample weights, at most `largest`, with which the loss exceeds a dtype."""
    return EmphasisOverflowError(
        f"class_weight and sample_weight come to {largest:.3g}, with which {weighting!r} exceeds what {dtype} holds; "
        "scale the weights down"
    )


def label_out_of_range(label: int, num_classes: int, ignore_index: int) -> EmphasisValueError:
    """Return the error for a label that is no class and is not ignored."""
    return EmphasisValueError(
        f"label {label} is outside 0..{num_classes - 1} (C={num_classes}) and is not "
        f"ignore_index={ignore_index}; relabel the classes from 0, or widen the network's last layer"
    )


def nonfinite_logits(example: tuple[int, ...]) -> EmphasisValueError:
    """Return the error for logits of which an example, given by its index, is not finite."""
    return EmphasisValueError(
        f"logits hold NaN or infinity, first for the example at index {example}: training has diverged or the "
        "input is broken. Lower the learning rate, clip gradients or check the inputs; to rule a class out use "
        "a large negative number such as -1e4, not -inf"
    )
