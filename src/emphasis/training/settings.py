"""What training is told: the solver, and the objective of each method. Plain data, no framework."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from emphasis.weighting import MaxMargin, Weighting

Normalization = Literal["integral", "batch"] | None


@dataclass(frozen=True)
class Objective:
    """A weighting and how `emphasis.torch.emphasis_loss` is to use it.

    Attributes:
        weighting: w(p).
        normalization: "integral", "batch" or None.
        max_margin: No derivative beyond this margin: a number, "auto" or None.
    """

    weighting: Weighting
    normalization: Normalization = None
    max_margin: MaxMargin = "auto"

    def __post_init__(self) -> None:
        if self.normalization not in ("integral", "batch", None):
            raise ValueError(f'normalization={self.normalization!r} is not allowed; use "integral", "batch" or None')
        self.weighting.max_margin(self.max_margin)
        if self.normalization == "integral":
            _ = self.weighting.log_normalizer  # raises if the integral is infinite


@dataclass(frozen=True)
class Solver:
    """Stochastic gradient descent with momentum, without weight decay or schedule.

    Attributes:
        iterations: Number of steps, >= 1.
        batch_size: Examples per step and network, >= 1.
        learning_rate: > 0.
        momentum: In [0, 1).
    """

    iterations: int
    batch_size: int
    learning_rate: float
    momentum: float

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not allowed; use a whole number >= 1")
        if not 0.0 < self.learning_rate < float("inf"):
            raise ValueError(f"learning_rate={self.learning_rate} is not allowed; use a finite number > 0")
        if not 0.0 <= self.momentum < 1.0:
            raise ValueError(f"momentum={self.momentum} is not allowed; use a number in [0, 1)")
