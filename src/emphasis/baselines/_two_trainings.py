"""Base class of methods that train twice: the second training restarts with the results of the first."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from emphasis.baselines.protocol import Baseline, Epoch, Problem

_END = 1.0 - 1e-9  # the last position of a schedule, which is in [0, 1)


class TwoTrainings(Baseline):
    """A method the second training of which begins with the first epoch at or after `split`.

    Args:
        problem: The labels.
        split: Share of the first training, in (0, 1), which the subclass checks.
    """

    first_rate_alone: ClassVar[bool] = False
    """Whether the first training has a constant learning rate; otherwise it has the whole schedule, too."""

    began: Tensor

    def __init__(self, problem: Problem, split: float) -> None:
        super().__init__(problem)
        self.split = split
        self.register_buffer("began", torch.tensor(-1.0, dtype=torch.float64))

    @property
    def second(self) -> bool:
        """Whether the second training has begun."""
        return bool(self.began >= 0.0)

    def due(self, epoch: Epoch) -> bool:
        """Return whether the second training begins with this epoch."""
        return not self.second and epoch.progress >= self.split

    def begin_second(self, epoch: Epoch) -> None:
        """Begin the second training, from the initial parameters."""
        self.began.fill_(epoch.progress)
        epoch.restore_weights()

    def schedule(self, progress: float) -> float:
        """Return the position of a step in the schedule of the learning rate, all of which each training has.

        Between `split` and the end of the epoch the first training stays at the end of its schedule.
        """
        if self.second:
            began = float(self.began)
            return min((progress - began) / (1.0 - began), _END)
        return 0.0 if self.first_rate_alone else min(progress / self.split, _END)
