"""A step of training with a method of `emphasis.baselines`, whose loss is more than a weighting of the examples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from emphasis.baselines import Learner
from emphasis.compatibility.fabric import Fabric
from emphasis.errors import EmphasisValueError
from emphasis.models.stacked import SingleNetwork
from emphasis.torch.distributed import all_gather_rows, rank_slice
from emphasis.training.evaluation import examples_at_once
from emphasis.training.norms import synchronised_norms
from emphasis.training.settings import Solver
from emphasis.training.task import Task


class LearnerStack(SingleNetwork):
    """A learner as a stack of one network, (1, N, ...) -> (1, N, C)."""

    FORWARD_METHODS = ("loss", "begin_epoch")
    """What Fabric must take for a call of the module."""

    network: Learner

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)

    def share_out(self, group: Any, device: torch.device) -> None:
        """Share out the networks' work, not the method's, among ranks; before Fabric sets the module up."""
        learner = self.network
        learner.process_group = group
        learner.network = synchronised_norms(learner.network, device)
        if learner.peer is not None:
            learner.peer = synchronised_norms(learner.peer, device)

    def loss(self, inputs: Tensor, places: Tensor, progress: float) -> Tensor:
        """Return what a step minimizes, from inputs (1, N, ...) of the examples at places (1, N)."""
        return self.network.loss(inputs.squeeze(0), places.squeeze(0), progress)

    def begin_epoch(self, number: int, progress: float, optimizer: torch.optim.Optimizer, task: Task) -> None:
        """Let the method do what is due before an epoch."""
        group = self.network.process_group
        mine, ranks = (
            (slice(None), 1) if group is None else (rank_slice(group), torch.distributed.get_world_size(group))
        )
        size = ranks * examples_at_once(task, 1)

        def batches(indices: Tensor | None) -> Iterator[Tensor]:
            places = torch.arange(task.num_train) if indices is None else indices
            parts = torch.split(places.to(task.places_device), size)
            for part, batch in zip(parts, task.fetch(part[None, mine] for part in parts), strict=True):
                inputs = batch.inputs
                if group is not None:
                    (inputs,) = whole_batch((inputs,), len(part), group)
                yield task.prepared(inputs).squeeze(0)

        self.network.begin_epoch(number, progress, optimizer, batches)

    def schedule(self, iteration: int, iterations: int) -> int:
        """Return which iteration's learning rate a step has."""
        return round(self.network.method.schedule(iteration / iterations) * iterations)

    def step_of_start(self, iteration: int, iterations: int) -> int:
        """Return how many steps have been taken since the network was started, or started anew."""
        return iteration - round(float(self.network.restarted_at) * iterations)


def backward(
    module: LearnerStack, inputs: Tensor, places: Tensor, iteration: int, solver: Solver, fabric: Fabric
) -> Tensor:
    """Add the derivative of one step's loss to the parameters' gradients; return the loss.

    Raises:
        ValueError: There are several ranks, and parameters on which the loss does not depend: DDP waits for all.
    """
    loss = module.loss(inputs, places, iteration / solver.iterations)
    fabric.backward(loss)
    if fabric.world_size > 1:
        idle = [name for name, one in module.named_parameters() if one.requires_grad and one.grad is None]
        if idle:
            raise EmphasisValueError(
                f"the loss of {type(module.network.method).__name__} does not depend on its parameter "
                f"{idle[0]}, which several devices need; add 0.0 * parameter.sum() to it"
            )
    return loss.detach()


def whole_batch(own: Sequence[Tensor], number: int, group: Any) -> list[Tensor]:
    """Return whole batches (1, number, ...), of each of which this rank has (1, B, ...), its part."""
    return [all_gather_rows(one.squeeze(0), number, group).unsqueeze(0) for one in own]


def passes(learner: Learner | None, iterations: int, batch_size: int, num_train: int) -> dict[str, float | int]:
    """Return the computation that a method took: networks trained, and passes over the training data.

    A pass of a survey, which has no backward half, is counted apart.
    """
    networks = learner.method.networks if learner is not None else 1
    return {
        "networks_trained": networks,
        "passes": round(networks * iterations * batch_size / num_train, 3),
        "surveys": round(float(learner.examples_evaluated) / num_train, 3) if learner is not None else 0.0,
    }
