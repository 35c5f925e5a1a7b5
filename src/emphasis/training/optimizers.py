"""Optimizers, with Caffe's meaning of Adam's delta.

Adam in Caffe (D. P. Kingma and J. Ba, ICLR 2015, the form at the end of section 2) takes the step


    step = learning_rate * sqrt(1 - beta2^t) / (1 - beta1^t) * m / (sqrt(v) + delta)

with first and second moments m and v after t steps. PyTorch divides v by its bias 1 - beta2^t before it adds eps, so
Caffe's delta corresponds to eps = delta / sqrt(1 - beta2^t), which is up to 32 times as large in the first step and
converges to delta. With the paper's delta = 0.1 and 1 (Table 7), the difference matters.

SGD with momentum is PyTorch's: velocity = momentum * velocity + gradient; step = learning_rate * velocity. Caffe has
the learning rate inside the velocity; the two differ only for a few steps after the learning rate has changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from emphasis.training.settings import Solver


def make_optimizer(parameters: Iterable[nn.Parameter], solver: Solver) -> torch.optim.Optimizer:
    """Return the optimizer that `solver` describes, for its first step."""
    parameters = list(parameters)
    # One pass over each; SGD's fused form does not take shards, and the other not shards beside what is whole.
    sharded = [isinstance(parameter, DTensor) for parameter in parameters]
    foreach = all(sharded) if any(sharded) else None
    fused = foreach is None and all(parameter.device.type in ("cpu", "cuda") for parameter in parameters)
    if solver.name == "adam":
        betas = (solver.betas[0], solver.betas[1])
        return torch.optim.Adam(
            parameters,
            solver.learning_rate,
            betas=betas,
            weight_decay=solver.weight_decay,
            fused=fused,
            foreach=foreach,
        )
    return torch.optim.SGD(
        parameters,
        solver.learning_rate,
        momentum=solver.momentum,
        nesterov=solver.nesterov,
        weight_decay=solver.weight_decay,
        fused=fused,
        foreach=foreach,
    )


def apply_schedule(
    optimizer: torch.optim.Optimizer, solver: Solver, iteration: int, scheduled: int | None = None
) -> None:
    """Set the learning rate, and eps of Adam, for the step that follows `iteration` steps of the optimizer.

    The learning rate is that of the schedule at iteration `scheduled`, which differs for methods that restart training;
    None for `iteration`.
    """
    scale = solver.schedule.scale(iteration if scheduled is None else scheduled, solver.iterations)
    for group in optimizer.param_groups:
        group["lr"] = solver.learning_rate * scale
        if solver.name == "adam":
            group["eps"] = solver.delta / math.sqrt(1.0 - solver.betas[1] ** (iteration + 1))
