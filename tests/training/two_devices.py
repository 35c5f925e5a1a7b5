"""Trains a small network with batch norm on images, on one device and on two: python two_devices.py FOLDER.

Fabric starts the second process by running this script again.
"""

import os
import sys
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from emphasis import CCE, DM
from emphasis.datasets import ImageFiles
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import initial_state, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.sharding import gather_full
from emphasis.training.task import Task

SOLVER = Solver(iterations=12, batch_size=9, learning_rate=0.05, momentum=0.9)  # 9: one rank has 5 of a batch, one 4
ADAM = Solver(iterations=12, batch_size=9, learning_rate=0.01, name="adam", weight_decay=0.01)
PLAIN = Solver(iterations=12, batch_size=9, learning_rate=0.05)


class Counted(ImageFiles):
    """Images that count how often they are decoded."""

    times = 0

    def read(self, row):
        type(self).times += 1
        return super().read(row)


def trained(execution, objective, iterations, checkpoint=None, solver=SOLVER, files=None):
    """Every parameter and buffer, and the accuracies, after so many steps; in the middle to a file and on from it.

    With files, images are decoded from them meanwhile.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.randint(4, (1, 60), generator=generator)
    statistics = images.float().div(255).mean((0, 2, 3)), images.float().div(255).std((0, 2, 3))
    task = Task(files or images, labels, labels[0], images, labels[0], 4, statistics=statistics, augment=True)
    fabric = make_fabric(execution)
    rate = 1.0 if iterations == 1 else solver.learning_rate  # the step is then the gradient
    solver = Solver(**{**vars(solver), "iterations": iterations, "learning_rate": rate})

    def fresh():
        stack = SingleNetwork(build("small-cnn", (3, 8, 8), 4, seed=0, widths=(8, 8)))
        return initial_state(stack, solver, fabric, execution)

    def save(state):
        if checkpoint and state.iteration == iterations // 2:
            save_checkpoint(checkpoint, state, fabric, "a", {})

    def go_on(state):
        train(state, task, [objective], [0], solver, fabric, evaluate_every=iterations, after_step=save)
        assert bool((state.diverged_at < 0).all())
        if execution.strategy == "fsdp":
            kept = sum(one.to_local().numel() for one in state.module.parameters())
            assert kept <= sum(one.numel() for one in state.module.parameters()) // 2 + 8  # a rank may have a row more
        values = torch.cat([one.flatten().float() for one in gather_full(state.module.state_dict()).values()])
        return values, torch.tensor([curve[-1][0] for name, curve in state.curves.items() if name != "p_noisy"])

    found = go_on(fresh())
    if checkpoint:
        fabric.barrier()
        state = fresh()
        load_checkpoint(checkpoint, state, fabric, "a")
        assert state.iteration == iterations // 2
        again = go_on(state)
        assert all(torch.equal(one, other) for one, other in zip(again, found, strict=True))
        fabric.barrier()
    return found


def on_first_rank(compute):
    """What the first rank computes, on both: the second one need not do the same again."""
    values = [compute() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def counted_files(folder, images):
    """The images (N, 3, 8, 8) as files of a new folder."""
    folder.mkdir()
    for row, image in enumerate(images.permute(0, 2, 3, 1).numpy()):
        Image.fromarray(image).save(folder / f"{row}.png")
    return Counted(folder, [f"{row}.png" for row in range(len(images))], 8)


def decode(folder, ddp):
    """Streamed images train to the bits of images in memory, and each rank decodes its own part of a batch."""
    images = torch.randint(256, (60, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    objective = Objective(DM(lam=0.5, beta=8), "batch")
    kept = trained(ddp, objective, SOLVER.iterations)
    rank = torch.distributed.get_rank()
    files = counted_files(folder / str(rank), images)
    Counted.times = 0
    streamed = trained(ddp, objective, SOLVER.iterations, files=files)
    assert all(torch.equal(here, there) for here, there in zip(streamed, kept, strict=True))
    expected = 2 * 60 + (5, 4)[rank] * SOLVER.iterations  # two evaluations, and its part of each batch
    assert Counted.times == expected, Counted.times


def main():
    torch.set_num_threads(1)
    one, ddp, fsdp = Execution("cpu"), *(Execution("cpu", devices=2, strategy=how) for how in ("ddp", "fsdp"))
    make_fabric(ddp)  # starts the second rank
    for objective in (
        Objective(CCE(), None),
        Objective(DM(lam=0.5, beta=8), "integral"),
        Objective(DM(lam=0.5, beta=8), "batch"),
    ):
        for iterations, tolerance in ((1, 1e-6), (SOLVER.iterations, 1e-5)):
            alone, curves = on_first_rank(partial(trained, one, objective, iterations))
            for how in (ddp, fsdp):
                both, same = trained(how, objective, iterations)
                torch.testing.assert_close(both, alone, rtol=tolerance, atol=tolerance)
                torch.testing.assert_close(same, curves, rtol=1e-3, atol=1e-3)
    decode(Path(sys.argv[1]), ddp)
    for solver in (SOLVER, ADAM, PLAIN):
        for how in (ddp, fsdp):
            trained(how, objective, SOLVER.iterations, Path(sys.argv[1], f"{solver.name}.pt"), solver)


if __name__ == "__main__":
    main()
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
