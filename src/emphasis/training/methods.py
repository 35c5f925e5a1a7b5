"""Training steps with methods of `emphasis.baselines` that are not weightings."""

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
from emphasis.training.norms import synchronized_norms
from emphasis.training.settings import Solver
from emphasis.training.task import Task


class LearnerStack(SingleNetwork):
    """A stack that contains a single learner, (1, N, ...) -> (1, N, C)."""

    FORWARD_METHODS = ("loss", "begin_epoch")
    """Methods that Fabric treats like a call of the module."""

    network: Learner

    def __init__(self, learner: Learner) -> None:
        super().__init__(learner)

    def share_out(self, group: Any, device: torch.device) -> None:
        """Distribute the computation of the networks over ranks; to be called before Fabric sets up the module."""
        learner = self.network
        learner.process_group = group
        learner.network = synchronized_norms(learner.network, device)
        if learner.peer is not None:
            learner.peer = synchronized_norms(learner.peer, device)

    def loss(self, inputs: Tensor, places: Tensor, progress: float) -> Tensor:
        """Return the loss of a step for inputs (1, N, ...) of the examples at positions `places` (1, N)."""
        return self.network.loss(inputs.squeeze(0), places.squeeze(0), progress)

    def begin_epoch(self, number: int, progress: float, optimizer: torch.optim.Optimizer, task: Task) -> None:
        """Call the method's hook at the beginning of an epoch."""
        group = self.network.process_group
        part_of_rank, ranks = (
            (slice(None), 1) if group is None else (rank_slice(group), torch.distributed.get_world_size(group))
        )
        size = ranks * examples_at_once(task, 1)

        def batches(indices: Tensor | None) -> Iterator[Tensor]:
            places = torch.arange(task.num_train) if indices is None else indices
            parts = torch.split(places.to(task.places_device), size)
            for part, batch in zip(parts, task.fetch(part[None, part_of_rank] for part in parts), strict=True):
                inputs = batch.inputs
                if group is not None:
                    (inputs,) = whole_batch((inputs,), len(part), group)
                yield task.prepared(inputs).squeeze(0)

        self.network.begin_epoch(number, progress, optimizer, batches)

    def schedule(self, iteration: int, iterations: int) -> int:
        """Return the iteration whose learning rate a step uses."""
        return round(self.network.method.schedule(iteration / iterations) * iterations)

    def step_of_start(self, iteration: int, iterations: int) -> int:
        """Return the number of steps since the network was initialized or last restarted."""
        return iteration - round(float(self.network.restarted_at) * iterations)


def backward(
    module: LearnerStack, inputs: Tensor, places: Tensor, iteration: int, solver: Solver, fabric: Fabric
) -> Tensor:
    """Compute the gradients of the loss of one step; return the loss.

    Raises:
        ValueError: There are several ranks, and the loss does not depend on all parameters, for which DDP would wait.
    """
    loss = module.loss(inputs, places, iteration / solver.iterations)
    fabric.backward(loss)
    if fabric.world_size > 1:
        idle = [
            name for name, parameter in module.named_parameters() if parameter.requires_grad and parameter.grad is None
        ]
        if idle:
            raise EmphasisValueError(
                f"the loss of {type(module.network.method).__name__} does not depend on its parameter "
                f"{idle[0]}, which several devices need; add 0.0 * parameter.sum() to it"
            )
    module.network.discard_fixed_gradients(iteration / solver.iterations)
    return loss.detach()


def whole_batch(parts: Sequence[Tensor], number: int, group: Any) -> list[Tensor]:
    """Return whole batches (1, number, ...), gathered from the parts (1, B, ...) of all ranks."""
    return [all_gather_rows(part.squeeze(0), number, group).unsqueeze(0) for part in parts]


def passes(learner: Learner | None, iterations: int, batch_size: int, num_train: int) -> dict[str, float | int]:
    """Return the computational cost of a method: networks trained, and passes over the training data.

    Passes without a backward pass ("surveys") are counted separately.
    """
    networks = learner.method.networks if learner is not None else 1
    return {
        "networks_trained": networks,
        "passes": round(networks * iterations * batch_size / num_train, 3),
        "surveys": round(float(learner.examples_evaluated) / num_train, 3) if learner is not None else 0.0,
    }
