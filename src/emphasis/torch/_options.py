"""What a loss computes, all tensors aside: checked and resolved once.

Everything that costs time or cannot be traced (modes, integrals, tables) is computed here, on the first use of a
weighting, and kept a while: `emphasis_loss(logits, labels, DM(...))` in a loop pays for it once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import torch

from emphasis.weighting import MaxMargin, Weighting

Normalization = Literal["integral", "batch"] | None
Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class Options:
    """Resolved options; see `emphasis_loss` for their meaning.

    Attributes:
        log_normalizer: Log of the integral under "integral", else 0.
        log_largest: Log of the largest weight before reduction; inf if unbounded, -inf if the batch bounds it.
    """

    weighting: Weighting
    normalization: Normalization
    reduction: Reduction
    max_margin: float
    log_normalizer: float
    log_largest: float
    process_group: Any = None

    @property
    def unbounded(self) -> bool:
        """Whether the weighting is unbounded, so that weights saturate."""
        return self.weighting.log_peak == math.inf

    def check_range(self, dtype: torch.dtype) -> None:
        """Raise OverflowError if the weights cannot be held in `dtype`."""
        if not self.unbounded and self.log_largest > math.log(torch.finfo(dtype).max):
            raise OverflowError(
                f"{self.weighting!r} reaches w = exp({self.log_largest:.4g}), more than {dtype} holds; use "
                'normalization="batch", which is finite for any beta, or a smaller beta'
            )


@cache
def make_options(
    weighting: Weighting,
    normalization: Normalization,
    reduction: Reduction,
    max_margin: MaxMargin,
    process_group: Any,
) -> Options:
    """Return the options, or raise ValueError that names the bad one and what is allowed."""
    if normalization not in (None, "integral", "batch"):
        raise ValueError(f'normalization={normalization!r} is not allowed; use None, "integral" or "batch"')
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'reduction={reduction!r} is not allowed; use "mean", "sum" or "none"')
    largest = weighting.max_margin(max_margin)
    log_normalizer = weighting.log_normalizer if normalization == "integral" else 0.0
    log_largest = -math.inf
    if normalization != "batch":
        log_largest = weighting.log_peak - log_normalizer
        if log_largest < math.log(torch.finfo(torch.float64).max) or log_largest == math.inf:
            weighting.prepare(largest)
    return Options(weighting, normalization, reduction, largest, log_normalizer, log_largest, process_group)


_known: list[Options] = []


@cache
def handle_of(options: Options) -> int:
    """Return the number by which `options_of` gives these options back, in this process."""
    _known.append(options)
    return len(_known) - 1


def options_of(handle: int) -> Options:
    """Return the options of a number."""
    return _known[handle]
