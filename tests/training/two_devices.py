"""Trains a small network with batch norm on images, on one device and on two: python two_devices.py.

Fabric starts the second process by running this script again.
"""

import os

import torch

from emphasis import CCE, DM
from emphasis.models import build
from emphasis.models.stacked import StackOfOne
from emphasis.training.loop import initial_state, make_fabric, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task

SOLVER = Solver(iterations=12, batch_size=9, learning_rate=0.05, momentum=0.9)  # 9: one rank has 5 of a batch, one 4


def trained(devices, objective, iterations):
    """Every parameter and buffer, and the accuracies, after so many steps."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (1, 60), generator=generator)
    statistics = images.float().div(255).mean((0, 2, 3)), images.float().div(255).std((0, 2, 3))
    task = Task(images, labels, labels[0], images, labels[0], 4, statistics=statistics, augment=True)
    execution = Execution("cpu", devices=devices)
    fabric = make_fabric(execution)
    stack = StackOfOne(build("small-cnn", (3, 8, 8), 4, seed=0, widths=(8, 8)))
    rate = 1.0 if iterations == 1 else SOLVER.learning_rate  # the step is then the gradient
    solver = Solver(**{**vars(SOLVER), "iterations": iterations, "learning_rate": rate})
    state = initial_state(stack, solver, fabric, execution)
    train(state, task, [objective], [0], solver, fabric, evaluate_every=iterations)
    assert bool((state.diverged_at < 0).all())
    values = torch.cat([value.flatten().float() for value in state.module.state_dict().values()])
    return values, torch.tensor([curve[-1][0] for name, curve in state.curves.items() if name != "p_noisy"])


def main():
    torch.set_num_threads(1)
    for objective in (
        Objective(CCE(), None),
        Objective(DM(lam=0.5, beta=8), "integral"),
        Objective(DM(lam=0.5, beta=8), "batch"),
    ):
        for iterations, tolerance in ((1, 1e-6), (SOLVER.iterations, 1e-5)):
            alone, curves = trained(1, objective, iterations)
            both, same = trained(2, objective, iterations)
            torch.testing.assert_close(both, alone, rtol=tolerance, atol=tolerance)
            torch.testing.assert_close(same, curves, rtol=1e-3, atol=1e-3)


if __name__ == "__main__":
    main()
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
