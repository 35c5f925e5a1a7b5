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
    """Evaluates networks on the test part of a task in place of the accuracy of their classes."""

    @property
    def num_answers(self) -> int:
        """How many answers the test accuracy is a mean of."""

    def evaluate(
        self, module: nn.Module, task: Task, batch_size: int, broken: set[str], group: Any
    ) -> dict[str, NDArray[np.float64]]:
        """Return curves by name, each of shape (S,), "test_accuracy" among them; NaN for networks that have diverged.

        Args:
            module: The stack of S networks, in evaluation mode.
            task: The data, on the module's device.
            batch_size: Examples at a time.
            broken: Where the names of images that cannot be decoded are added.
            group: The ranks that share the work; None: this process alone.
        """


@dataclass(frozen=True, eq=False)
class Task:
    """K seeds' training labels over shared inputs; N training and M test examples of C classes.

    Attributes:
        inputs: (N, D) float32, or images (N, channels, H, W) uint8, which may be files.
        labels: (K, n) int64, the labels that each seed trains on, noise included.
        true_labels: (N,) int64.
        test_inputs: (M, ...) as `inputs`.
        test_labels: (M,) int64.
        num_classes: C.
        index: (K, n) int64, the rows of `inputs` that each seed's labels belong to; None: all, and n = N.
        statistics: Mean and standard deviation of each channel of images, in units of [0, 1]; None for vectors.
        augment: Whether training images are cropped and flipped at random.
        crop: Pixels per side of what networks see of images, the middle where it is not drawn; 0: all.
        eval_train_size: How many training examples are evaluated, evenly spaced; 0: all.
        evaluator: What evaluates the networks on the test part; None: their accuracy on `test_labels`.
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
        """Return the task with all its tensors on `device`; `index` of files stays on the CPU."""
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
        """The shape of one example, as networks see it."""
        shape = tuple(self.inputs.shape[1:])
        return (shape[0], self.crop, self.crop) if self.crop else shape

    @property
    def num_test(self) -> int:
        """The number of answers that networks are evaluated by: test examples, unless the evaluator says otherwise."""
        return len(self.test_labels) if self.evaluator is None else self.evaluator.num_answers

    def batches(self, seeds: Sequence[int], solver: Solver, device: torch.device) -> Batches:
        """Return which training examples each step sees.

        Raises:
            ValueError: There are fewer than a batch, or clips are asked for of what are no videos.
        """
        if isinstance(solver, ClipSolver) and solver.clip * solver.videos > 1:
            raise EmphasisValueError(
                f"solver.clip={solver.clip} and solver.videos={solver.videos} are for videos, which this "
                "data is not; leave them out"
            )
        return Batches(seeds, self.num_train, solver.batch_size, device)

    @property
    def places_device(self) -> torch.device:
        """Where `fetch` wants places: with the inputs."""
        return self.inputs.device if isinstance(self.inputs, Tensor) else torch.device("cpu")

    @property
    def eval_indices(self) -> Tensor:
        """The places (m,) of the training examples that evaluations look at."""
        number = min(self.eval_train_size, self.num_train) or self.num_train
        return torch.arange(number, device=self.places_device) * self.num_train // number

    def fetch(self, places: Iterable[Tensor]) -> Generator[Fetched]:
        """Yield the inputs of training examples at each of `places` (K, B), or (1, B) if seeds share them."""
        return fetch(self.inputs, places, self.index, self.labels.device)

    def fetch_test(self, parts: Iterable[Tensor]) -> Generator[Fetched]:
        """Yield the test inputs at the rows of each part (B,), (1, B, ...)."""
        places = (part.unsqueeze(0).to(self.places_device) for part in parts)
        return fetch(self.test_inputs, places, None, self.labels.device)

    def prepared(self, inputs: Tensor) -> Tensor:
        """Return inputs (K, B, ...) as networks take them: images cropped, normalized, float32, channels last.

        Vectors stay as they are, and so do images' margins where they have been cropped already.
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
