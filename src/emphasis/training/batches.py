"""Selection of the examples of each step, as a pure function of seed and iteration, so that runs can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emphasis.errors import EmphasisValueError

Rows = NDArray[np.int64]
Draw = Callable[[np.random.Generator], Rows]
"""Returns the examples of an epoch in their order; their number is the same for all epochs."""


class Batches:
    """The examples of each step. The order of an epoch is copied to the device once, and each step takes a slice of it.

    The incomplete last batch of an epoch is dropped. The orders of two epochs are kept, because images of the next
    epoch are decoded while the current epoch is in use.

    Args:
        seeds: Seed of each row of the indices.
        num_examples: Number of examples N.
        batch_size: Examples per step, at most N.
        device: Device of the indices.
        draw: Draws the N examples of an epoch; None draws a permutation of 0 to N - 1.

    Attributes:
        per_epoch: Steps per epoch.

    Raises:
        ValueError: `batch_size` exceeds `num_examples`.
    """

    def __init__(
        self, seeds: Sequence[int], num_examples: int, batch_size: int, device: torch.device, draw: Draw | None = None
    ) -> None:
        _epoch_and_slice(0, num_examples, batch_size)
        self._seeds, self._num_examples, self._batch_size, self._device = seeds, num_examples, batch_size, device
        self._draw = draw or (lambda generator: generator.permutation(num_examples))
        self.per_epoch = num_examples // batch_size
        self._orders: dict[int, Tensor] = {}

    def indices(self, iteration: int) -> Tensor:
        """Return the examples of the step that follows `iteration` steps, (len(seeds), batch_size) int64."""
        epoch, window = _epoch_and_slice(iteration, self._num_examples, self._batch_size)
        if epoch not in self._orders:
            order = np.stack([self._draw(np.random.default_rng([seed, epoch])) for seed in self._seeds])
            latest = dict(list(self._orders.items())[-1:])
            self._orders = latest | {epoch: torch.from_numpy(order).to(self._device, non_blocking=True)}
        return self._orders[epoch][:, window]


def clips(video: Rows, labels: Rows, clip: int, together: int = 1) -> tuple[int, Draw]:
    """Return the number of frames in an epoch of clips, and the function that draws them.

    An epoch contains each video once, as `clip` of its frames in order, drawn at random from `clip` parts of equal
    length (restricted random sampling: S. Li et al., CVPR 2018, Section 3.1). `together` videos of the same person are
    consecutive; if the number of a person's videos is not a multiple of `together`, some of them are repeated.

    Args:
        video: (N,) video of each example, in ascending order.
        labels: (N,) label of each example; the label of a video is that of its first frame.
        clip: Frames per video, >= 1.
        together: Consecutive videos per person, >= 1.
    """
    first = np.flatnonzero(np.diff(video, prepend=video[0] - 1))
    length = np.diff(first, append=len(video))
    by_label = [np.flatnonzero(labels[first] == label) for label in np.unique(labels)]
    groups = sum(-(-len(videos) // together) for videos in by_label)

    def draw(generator: np.random.Generator) -> Rows:
        shuffled = (generator.permutation(videos) for videos in by_label)
        # `resize` repeats the videos from the first where there are too few.
        grouped = np.concatenate([np.resize(videos, (-(-len(videos) // together), together)) for videos in shuffled])
        chosen = grouped[generator.permutation(groups)].ravel()
        within = (np.arange(clip) + generator.random((len(chosen), clip))) / clip
        frames: Rows = first[chosen, None] + np.floor(within * length[chosen, None]).astype(np.int64)
        return frames.ravel()

    return groups * together * clip, draw


def step_seed(seed: int, iteration: int, purpose: int) -> int:
    """Return a seed for random numbers of one step, such as crops; `purpose` separates several uses in a step."""
    return int(np.random.SeedSequence([seed, iteration, purpose]).generate_state(1, np.uint64)[0] >> 1)


def _epoch_and_slice(iteration: int, num_examples: int, batch_size: int) -> tuple[int, slice]:
    """Return the epoch of a step, and the slice of the epoch's examples that the step takes."""
    if batch_size > num_examples:
        raise EmphasisValueError(
            f"batch_size={batch_size} exceeds the {num_examples} training examples; use a smaller one"
        )
    epoch, batch = divmod(iteration, num_examples // batch_size)
    return epoch, slice(batch * batch_size, (batch + 1) * batch_size)
