"""A step of training with a method of `emphasis.baselines`, whose loss is more than a weighting of the examples."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor

from emphasis.baselines import Learner
from emphasis.models.stacked import StackOfOne
from emphasis.training.evaluation import examples_at_once
from emphasis.training.settings import Solver
from emphasis.training.task import Task


class LearnerStack(StackOfOne):
    """A learner as a stack of one network, (1, N, ...) -> (1, N, C)."""

    FORWARD_METHODS = ("loss", "begin_epoch")
    """What Fabric must take for a call of the module."""

    network: Learner

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)

    def loss(self, inputs: Tensor, places: Tensor, progress: float) -> Tensor:
        """Return what a step minimises, from inputs (1, N, ...) of the examples at places (1, N)."""
        return self.network.loss(inputs.squeeze(0), places.squeeze(0), progress)

    def begin_epoch(self, number: int, progress: float, optimizer: torch.optim.Optimizer, task: Task) -> None:
        """Let the method do what is due before an epoch."""
        size = examples_at_once(task, 1)

        def batches(indices: Tensor | None) -> Iterator[Tensor]:
            places = torch.arange(task.num_train) if indices is None else indices
            parts = torch.split(places.to(task.places_device), size)
            for batch in task.fetch(part.unsqueeze(0) for part in parts):
                yield task.prepared(batch.inputs).squeeze(0)

        self.network.begin_epoch(number, progress, optimizer, batches)

    def schedule(self, iteration: int, iterations: int) -> int:
        """Return which iteration's learning rate a step has."""
        return round(self.network.method.schedule(iteration / iterations) * iterations)

    def step_of_start(self, iteration: int, iterations: int) -> int:
        """Return how many steps have been taken since the network was started, or started anew."""
        return iteration - round(float(self.network.recalled) * iterations)


def backward(
    module: LearnerStack, inputs: Tensor, places: Tensor, iteration: int, solver: Solver, fabric: Fabric
) -> Tensor:
    """Add the derivative of one step's loss to the parameters' gradients; return the loss."""
    loss = module.loss(inputs, places, iteration / solver.iterations)
    fabric.backward(loss)
    return loss.detach()


def passes(learner: Learner | None, iterations: int, batch_size: int, num_train: int) -> dict[str, float | int]:
    """Return the computation that a method took: networks trained, and passes over the training data.

    A pass of a survey, which has no backward half, is counted apart.
    """
    networks = learner.method.networks if learner is not None else 1
    return {
        "networks_trained": networks,
        "passes": round(networks * iterations * batch_size / num_train, 3),
        "surveys": round(float(learner.surveyed) / num_train, 3) if learner is not None else 0.0,
    }
