"""The data that networks are trained and evaluated on, as tensors on the device."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.datasets import ImageFiles
from emphasis.errors import EmphasisValueError
from emphasis.training.augmentation import center_crop, normalize
from emphasis.training.batches import Batches
from emphasis.training.fetching import Fetched, fetch
from emphasis.training.settings import ClipSolver, Solver


class Evaluator(Protocol):
    """Evaluates networks on the test part of a task, instead of the accuracy of predicted classes."""

    @property
    def num_answers(self) -> int:
        """Number of answers over which the test accuracy is averaged."""

    def evaluate(
        self, module: nn.Module, task: Task, batch_size: int, broken: set[str], group: Any
    ) -> dict[str, NDArray[np.float64]]:
        """Return curves by name, each of shape (S,), "test_accuracy" among them; NaN for networks that have diverged.

        Args:
            module: Stack of S networks, in evaluation mode.
            task: Data, on the module's device.
            batch_size: Examples per batch.
            broken: Set to which the names of images that cannot be decoded are added.
            group: Ranks that share the work; None for this process alone.
        """


@dataclass(frozen=True, eq=False)
class Task:
    """Data of K seeds, with N training and M test examples of C classes; the seeds share the inputs.

    Attributes:
        inputs: (N, D) float32, or images (N, channels, H, W) uint8, which may be files.
        labels: (K, n) int64, training labels of each seed, with noise.
        true_labels: (N,) int64, true labels.
        test_inputs: (M, ...) test inputs of the same kind as `inputs`.
        test_labels: (M,) int64, test labels.
        num_classes: Number of classes C.
        index: (K, n) int64, rows of `inputs` that the labels of each seed belong to; None for all, with n = N.
        statistics: Mean and standard deviation of each channel of images, in units of [0, 1]; None for vectors.
        augment: Whether training images are cropped and flipped at random.
        crop: Pixels per side of the crops of images, which are centered unless drawn at random; 0 for whole images.
        eval_train_size: Number of training examples in evaluations, evenly spaced; 0 for all.
        evaluator: Evaluator of the test part; None for the accuracy on `test_labels`.
    """

    inputs: Tensor | ImageFiles
    labels: Tensor
    true_labels: Tensor
    test_inputs: Tensor | ImageFiles
    test_labels: Tensor
    num_classes: int
    index: Tensor | None = None
    statistics: tuple[Tensor, Tensor] | None = None
    augment: bool = False
    crop: int = 0
    eval_train_size: int = 0
    evaluator: Evaluator | None = None

    def to(self, device: torch.device) -> Task:
        """Return the task with all its tensors on `device`; `index` stays on the CPU if the inputs are files."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        if not isinstance(self.inputs, Tensor):
            moved["index"] = self.index
        elif self.test_inputs is self.inputs:
            moved["test_inputs"] = moved["inputs"]
        if self.statistics is not None:
            moved["statistics"] = tuple(part.to(device) for part in self.statistics)
        return dataclasses.replace(self, **moved)

    @property
    def tests_are_trained_on(self) -> bool:
        """Whether the test part is the training part, all of which is evaluated."""
        is_same = isinstance(self.inputs, Tensor) and self.test_inputs is self.inputs
        return is_same and self.index is None and self.eval_train_size == 0 and self.evaluator is None

    @property
    def num_train(self) -> int:
        """The number n of training examples of each seed."""
        return self.labels.shape[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one example as the input of a network."""
        shape = tuple(self.inputs.shape[1:])
        return (shape[0], self.crop, self.crop) if self.crop else shape

    @property
    def num_test(self) -> int:
        """The number of answers in the test accuracy: test examples, unless the evaluator has another number."""
        return len(self.test_labels) if self.evaluator is None else self.evaluator.num_answers

    def batches(self, seeds: Sequence[int], solver: Solver, device: torch.device) -> Batches:
        """Return the training examples of each step.

        Raises:
            ValueError: There are fewer examples than a batch, or clips are requested of data that are not videos.
        """
        if isinstance(solver, ClipSolver) and solver.clip * solver.videos > 1:
            raise EmphasisValueError(
                f"solver.clip={solver.clip} and solver.videos={solver.videos} are for videos, but this "
                "data set has no videos; leave them out"
            )
        return Batches(seeds, self.num_train, solver.batch_size, device)

    @property
    def places_device(self) -> torch.device:
        """The device on which `fetch` expects positions."""
        return self.inputs.device if isinstance(self.inputs, Tensor) else torch.device("cpu")

    @property
    def eval_indices(self) -> Tensor:
        """The positions (m,) of the training examples used in evaluations."""
        number = min(self.eval_train_size, self.num_train) or self.num_train
        return torch.arange(number, device=self.places_device) * self.num_train // number

    def fetch(self, places: Iterable[Tensor]) -> Generator[Fetched]:
        """Yield the inputs of training examples at each of `places` (K, B), or (1, B) if the seeds share them."""
        return fetch(self.inputs, places, self.index, self.labels.device)

    def fetch_test(self, parts: Iterable[Tensor]) -> Generator[Fetched]:
        """Yield the test inputs at the rows of each part (B,), (1, B, ...)."""
        places = (part.unsqueeze(0).to(self.places_device) for part in parts)
        return fetch(self.test_inputs, places, None, self.labels.device)

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs (K, B, ...) of networks: cropped and normalized float32 images in channels-last format.

        Vectors are returned unchanged, and images that have already been cropped are not cropped again.
        """
        if self.statistics is None:
            return inputs
        inputs = center_crop(inputs, self.crop) if self.crop else inputs
        flat = normalize(inputs.flatten(0, 1), *self.statistics)
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
