"""Which examples each step sees: a pure function of seed and iteration, so that a resumed run goes on alike."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Which examples each step takes, on a device: an epoch's order is copied there once, and each step is a slice.

    An epoch leaves out its incomplete last batch. The orders of two epochs are kept: who decodes ahead asks for the
    next one's while the last one's is in use.

    Args:
        seeds: One per row of the indices.
        num_examples: N.
        batch_size: Examples per step, at most N.
        device: Where the indices are wanted.

    Attributes:
        per_epoch: Steps of an epoch.

    Raises:
        ValueError: `batch_size` exceeds `num_examples`.
    """

    def __init__(self, seeds: Sequence[int], num_examples: int, batch_size: int, device: torch.device) -> None:
        _place(0, num_examples, batch_size)
        self._seeds, self._num_examples, self._batch_size, self._device = seeds, num_examples, batch_size, device
        self.per_epoch = num_examples // batch_size
        self._orders: dict[int, Tensor] = {}

    def indices(self, iteration: int) -> Tensor:
        """Return the examples of the step after `iteration` steps, (len(seeds), batch_size) int64."""
        epoch, window = _place(iteration, self._num_examples, self._batch_size)
        if epoch not in self._orders:
            generators = [np.random.default_rng([seed, epoch]) for seed in self._seeds]
            order = np.stack([generator.permutation(self._num_examples) for generator in generators])
            kept = dict(list(self._orders.items())[-1:])
            self._orders = kept | {epoch: torch.from_numpy(order).to(self._device, non_blocking=True)}
        return self._orders[epoch][:, window]


def step_seed(seed: int, iteration: int, purpose: int) -> int:
    """Return a seed for what one step draws, such as crops; `purpose` keeps several draws of a step apart."""
    return int(np.random.SeedSequence([seed, iteration, purpose]).generate_state(1, np.uint64)[0] >> 1)


def _place(iteration: int, num_examples: int, batch_size: int) -> tuple[int, slice]:
    """Return the epoch of a step, and where in it the step's examples stand."""
    if batch_size > num_examples:
        raise ValueError(f"batch_size={batch_size} exceeds the {num_examples} training examples; use a smaller one")
    epoch, batch = divmod(iteration, num_examples // batch_size)
    return epoch, slice(batch * batch_size, (batch + 1) * batch_size)
