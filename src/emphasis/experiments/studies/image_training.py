"""Training of classifiers of one's own images: networks, and linear layers on the features of frozen networks.

Networks are trained by the solver, the schedule and the candidate learning rates of `audit` and `tune`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from emphasis.datasets import Split
from emphasis.datasets.split import draw_stratified, take_training
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import Cell, Evaluation
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.data import make_task, network_options
from emphasis.images.networks import Statistics, probabilities, probabilities_of_features
from emphasis.learning_rate import HELD_OUT, RATES, best_rate, can_be_found, middle_rate
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.process import stop_if_asked
from emphasis.sklearn import EmphasisClassifier
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import State, initial_state, train
from emphasis.training.settings import Objective
from emphasis.weighting import CCE, Weighting, default_schedule

_RATE_STEPS = 0.2  # fraction of the steps that try a learning rate, which is larger by its inverse
_LINEAR_EPOCHS = 100  # of a linear layer on features
_NEVER = -50.0  # bias of a class without training examples

Rows = NDArray[np.int64]
Progress = Callable[[str, int, int], None]  # (task, done, total)


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained classifier of the images of a data set.

    Attributes:
        predict: Takes rows of the data set (n,) and returns class probabilities (n, C).
        network: The network, on the CPU.
        statistics: Mean and standard deviation of the channels of the images that it takes.
    """

    predict: Callable[[Rows], NDArray[np.float64]]
    network: nn.Module
    statistics: Statistics


@dataclass(frozen=True, eq=False)
class NetworkTrainer:
    """Trains networks, all of whose parameters learn.

    Attributes:
        split: The data set.
        cell: Network and solver.
        context: Device and threads.
        progress: Called as `progress(task, done, total)`.
    """

    split: Split
    cell: Cell
    context: RunContext
    progress: Progress

    def __call__(self, rows: Rows, weighting: Weighting, task: str) -> Trained:
        """Return a network that is trained on some rows.

        Args:
            rows: Rows of the data set, shape (n,).
            weighting: Weighting of the loss, normalized by its integral.
            task: What progress is reported as.

        Raises:
            EmphasisValueError: If the network diverged, or does not take such images.
        """
        cell, total = self.cell, self.cell.solver.iterations
        cell = replace(cell, evaluation=Evaluation(total, train_size=1))
        images, first = self.split.train_inputs, rows[:1]
        part = replace(
            take_training(self.split, rows), test_inputs=images[first], test_labels=self.split.train_labels[first]
        )  # the loop evaluates a test part, and this one costs nothing
        fabric = make_fabric(self.context.execution)
        if self.context.threads is not None:
            torch.set_num_threads(self.context.threads)
        data = make_task(cell, part, [cell.seed]).to(fabric.device)
        options = network_options(cell, self.context.root)
        network = build(cell.network.name, data.input_shape, part.num_classes, seed=cell.seed, **options)
        state = initial_state(SingleNetwork(network), cell.solver, fabric, self.context.execution)

        def after_step(state: State) -> None:
            self.progress(task, state.iteration, total)
            stop_if_asked()

        objective = Objective(weighting, "integral", schedule=default_schedule(weighting))
        train(state, data, [objective], [cell.seed], cell.solver, fabric, evaluate_every=total, after_step=after_step)
        if int(state.diverged_at[0]) >= 0:
            raise EmphasisValueError(
                f"the network diverged at iteration {int(state.diverged_at[0]):,}: use another weighting, or a smaller "
                "solver.learning_rate"
            )
        mean, std = (np.asarray(values.cpu().numpy(), np.float64) for values in data.statistics or ())
        network = network.cpu().eval()
        return Trained(lambda rows: probabilities(network, images[rows], (mean, std)), network, (mean, std))

    def settings(self) -> dict[str, Any]:
        """Return the settings of training that the recipe of the model records."""
        return {"solver": self.cell.shared()["solver"]}

    def rate(self, rows: Rows) -> float:
        """Return the learning rate with which cross-entropy predicts held-out labels among some rows best.

        All methods share it. The middle candidate if there are too few examples to compare them.
        """
        solver, labels = self.cell.solver, self.split.train_labels[rows]
        if not can_be_found(len(rows), self.split.num_classes):
            return middle_rate(solver.name)
        held = draw_stratified(labels, round(HELD_OUT * len(rows)), self.cell.seed)
        rest = np.setdiff1d(np.arange(len(rows)), held)
        accuracies = {}
        for number, rate in enumerate(RATES[solver.name], start=1):
            steps = max(1, round(_RATE_STEPS * solver.iterations))
            shorter = replace(solver, iterations=steps, learning_rate=rate / _RATE_STEPS)
            trainer = replace(self, cell=replace(self.cell, solver=shorter))
            try:
                trained = trainer(rows[rest], CCE(), f"learning rate {number} of {len(RATES[solver.name])}")
            except EmphasisValueError:  # it diverged
                accuracies[rate] = 0.0
            else:
                accuracies[rate] = float((trained.predict(rows[held]).argmax(1) == labels[held]).mean())
        return best_rate(accuracies)


@dataclass(frozen=True, eq=False)
class FeatureTrainer:
    """Trains linear layers on the features of a frozen network.

    Attributes:
        features: Features of all images, shape (N, D).
        labels: Class of each image, shape (N,).
        num_classes: C.
        body: The frozen network.
        statistics: Mean and standard deviation of the channels of the images that it takes.
        seed: Seed of the linear layers.
        progress: Called as `progress(task, done, total)`.
    """

    features: NDArray[np.float32]
    labels: Rows
    num_classes: int
    body: nn.Module
    statistics: Statistics
    seed: int
    progress: Progress

    def settings(self) -> dict[str, Any]:
        """Return the settings of training that the recipe of the model records."""
        return {"epochs": _LINEAR_EPOCHS}

    def __call__(self, rows: Rows, weighting: Weighting, task: str) -> Trained:
        """Return the frozen network with a linear layer that is trained on some rows, as `NetworkTrainer` does."""
        self.progress(task, 0, 0)
        features = self.features[rows].astype(np.float64)
        mean, std = features.mean(0), features.std(0)
        std[std < 1e-12] = 1.0
        classifier = EmphasisClassifier(weighting, hidden=(), max_epochs=_LINEAR_EPOCHS, random_state=self.seed)
        classifier.fit(((features - mean) / std).astype(np.float32), self.labels[rows])
        weight = classifier.network_[0].weight.detach().double().numpy() / std
        bias = classifier.network_[0].bias.detach().double().numpy() - weight @ mean
        linear = nn.Linear(features.shape[1], self.num_classes)
        known = torch.from_numpy(classifier.classes_)
        with torch.no_grad():
            linear.weight.zero_()[known] = torch.from_numpy(weight).float()
            linear.bias.fill_(_NEVER)[known] = torch.from_numpy(bias).float()
        return Trained(
            lambda rows: probabilities_of_features(linear, self.features[rows]),
            nn.Sequential(self.body, linear),
            self.statistics,
        )
