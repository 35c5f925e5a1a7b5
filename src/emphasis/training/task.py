"""What networks learn and are judged by, as tensors on the device."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from emphasis.training.augmentation import normalise


@dataclass(frozen=True, eq=False)
class Task:
    """K seeds' training labels over shared inputs; N training and M test examples of C classes.

    Attributes:
        inputs: (N, D) float32, or images (N, channels, H, W) uint8.
        labels: (K, n) int64, the labels that each seed trains on, noise included.
        true_labels: (N,) int64.
        test_inputs: (M, ...) as `inputs`.
        test_labels: (M,) int64.
        num_classes: C.
        index: (K, n) int64, the rows of `inputs` that each seed's labels belong to; None: all, and n = N.
        statistics: Mean and standard deviation of each channel of images, in units of [0, 1]; None for vectors.
        augment: Whether training images are cropped and flipped at random.
    """

    inputs: Tensor
    labels: Tensor
    true_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    index: Tensor | None = None
    statistics: tuple[Tensor, Tensor] | None = None
    augment: bool = False

    def to(self, device: torch.device) -> Task:
        """Return the task with all its tensors on `device`."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if self.statistics is not None:
            moved["statistics"] = tuple(part.to(device) for part in self.statistics)
        return dataclasses.replace(self, **moved)

    @property
    def num_train(self) -> int:
        """The number n of training examples of each seed."""
        return self.labels.shape[1]

    def rows(self, places: Tensor) -> Tensor:
        """Return the rows of `inputs` of the training examples at `places` (K, B), places of 0 to n - 1."""
        return places if self.index is None else self.index.gather(1, places)

    def at(self, rows: Tensor) -> Tensor:
        """Return the inputs (K, B, ...) of `rows` (K, B)."""
        return self.inputs.index_select(0, rows.flatten()).view(*rows.shape, *self.inputs.shape[1:])

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs (K, B, ...) as networks take them: images normalised, float32, channels last; vectors as is."""
        if self.statistics is None:
            return inputs
        flat = normalise(inputs.flatten(0, 1), *self.statistics)
        return flat.view(*inputs.shape[:2], *flat.shape[1:])

    @property
    def seed_true_labels(self) -> Tensor:
        """The true labels of each seed's training examples, (K, n)."""
        if self.index is None:
            return self.true_labels.expand(len(self.labels), -1)
        return self.true_labels[self.index]

    @property
    def noisy(self) -> Tensor:
        """Whether each seed's training label is wrong, (K, n) bool."""
        return self.labels != self.seed_true_labels


def all_places(task: Task, start: int, stop: int) -> Tensor:
    """Return the places start to stop for each seed, (K, stop - start), or (1, ...) if the seeds share their inputs."""
    seeds = 1 if task.index is None else len(task.labels)
    return torch.arange(start, stop, device=task.labels.device).expand(seeds, -1)
