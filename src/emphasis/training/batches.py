"""Which examples each step sees: a pure function of seed and iteration, so that a resumed run goes on alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emphasis.errors import EmphasisValueError

Rows = NDArray[np.int64]
Draw = Callable[[np.random.Generator], Rows]
"""Returns the examples of an epoch in the order in which they are seen, always as many."""


class Batches:
    """Which examples each step takes, on a device: an epoch's order is copied there once, and each step is a slice.

    An epoch leaves out its incomplete last batch. The orders of two epochs are kept: who decodes ahead asks for the
    next one's while the last one's is in use.

    Args:
        seeds: One per row of the indices.
        num_examples: N.
        batch_size: Examples per step, at most N.
        device: Where the indices are wanted.
        draw: Of N places for each epoch; None: of 0 to N - 1 in any order.

    Attributes:
        per_epoch: Steps of an epoch.

    Raises:
        ValueError: `batch_size` exceeds `num_examples`.
    """

    def __init__(
        self, seeds: Sequence[int], num_examples: int, batch_size: int, device: torch.device, draw: Draw | None = None
    ) -> None:
        _place(0, num_examples, batch_size)
        self._seeds, self._num_examples, self._batch_size, self._device = seeds, num_examples, batch_size, device
        self._draw = draw or (lambda generator: generator.permutation(num_examples))
        self.per_epoch = num_examples // batch_size
        self._orders: dict[int, Tensor] = {}

    def indices(self, iteration: int) -> Tensor:
        """Return the examples of the step after `iteration` steps, (len(seeds), batch_size) int64."""
        epoch, window = _place(iteration, self._num_examples, self._batch_size)
        if epoch not in self._orders:
            order = np.stack([self._draw(np.random.default_rng([seed, epoch])) for seed in self._seeds])
            kept = dict(list(self._orders.items())[-1:])
            self._orders = kept | {epoch: torch.from_numpy(order).to(self._device, non_blocking=True)}
        return self._orders[epoch][:, window]


def clips(video: Rows, labels: Rows, clip: int, together: int = 1) -> tuple[int, Draw]:
    """Return how many frames an epoch of clips has, and what draws them.

    An epoch shows each video once: `clip` of its frames in their order, one drawn at random from each of `clip` parts
    of equal length (restricted random sampling: S. Li et al., CVPR 2018, Section 3.1). `together` videos of one person
    follow each other; where a person's number of videos is no multiple of it, some of them are shown once more.

    Args:
        video: (N,) that each example is a frame of, rising; its frames follow each other.
        labels: (N,) the label of each; a video's is that of its first frame.
        clip: Frames of a video, >= 1.
        together: Videos of a person, >= 1.
    """
    first = np.flatnonzero(np.diff(video, prepend=video[0] - 1))
    length = np.diff(first, append=len(video))
    by_label = [np.flatnonzero(labels[first] == label) for label in np.unique(labels)]
    groups = sum(-(-len(own) // together) for own in by_label)

    def draw(generator: np.random.Generator) -> Rows:
        shuffled = (generator.permutation(own) for own in by_label)
        # `resize` begins again at the first where there are too few.
        grouped = np.concatenate([np.resize(own, (-(-len(own) // together), together)) for own in shuffled])
        chosen = grouped[generator.permutation(groups)].ravel()
        within = (np.arange(clip) + generator.random((len(chosen), clip))) / clip
        places: Rows = first[chosen, None] + np.floor(within * length[chosen, None]).astype(np.int64)
        return places.ravel()

    return groups * together * clip, draw


def step_seed(seed: int, iteration: int, purpose: int) -> int:
    """Return a seed for what one step draws, such as crops; `purpose` keeps several draws of a step apart."""
    return int(np.random.SeedSequence([seed, iteration, purpose]).generate_state(1, np.uint64)[0] >> 1)


def _place(iteration: int, num_examples: int, batch_size: int) -> tuple[int, slice]:
    """Return the epoch of a step, and where in it the step's examples stand."""
    if batch_size > num_examples:
        raise EmphasisValueError(
            f"batch_size={batch_size} exceeds the {num_examples} training examples; use a smaller one"
        )
    epoch, batch = divmod(iteration, num_examples // batch_size)
    return epoch, slice(batch * batch_size, (batch + 1) * batch_size)
