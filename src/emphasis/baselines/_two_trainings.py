"""What methods share that train twice: the second training starts anew, with what the first has found."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from emphasis.baselines.protocol import Baseline, Epoch, Problem

_END = 1.0 - 1e-9  # of a schedule, whose places are in [0, 1)


class TwoTrainings(Baseline):
    """The second training begins with the first epoch that begins at `split` or later.

    Args:
        problem: The labels.
        split: The first training's share, in (0, 1); the method checks it, by the name that it has there.
    """

    first_rate_alone: ClassVar[bool] = False
    """Whether the first training keeps the first learning rate; if not, it has the whole schedule, too."""

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
        """Return whether the second training is to begin with this epoch."""
        return not self.second and epoch.progress >= self.split

    def begin_second(self, epoch: Epoch) -> None:
        """Begin the second training, from the first parameters on."""
        self.began.fill_(epoch.progress)
        epoch.restore_weights()

    def schedule(self, progress: float) -> float:
        """Return where in the learning rate's schedule a step stands; each training has the whole of it.

        Between `split` and the epoch's end the first training stays at the end of its own.
        """
        if self.second:
            began = float(self.began)
            return min((progress - began) / (1.0 - began), _END)
        return 0.0 if self.first_rate_alone else min(progress / self.split, _END)
