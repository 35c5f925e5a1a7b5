"""Trains by every method, and stacks of perceptrons, on one device and on two: python two_ranks.py FOLDER.

Fabric starts the second process by running this script again.
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from emphasis import CCE, DM
from emphasis.baselines import Baseline, Learner, Problem, make, names
from emphasis.datasets import DamagedFileError, Gallery
from emphasis.models import build
from emphasis.models.stacked import StackedMLP
from emphasis.torch.distributed import all_gather_rows, rank_slice
from emphasis.training import evaluation
from emphasis.training.checkpoint import load_checkpoint, save_checkpoint
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import initial_state, train
from emphasis.training.methods import LearnerStack
from emphasis.training.ranks import deal_round_robin, gather_in_order
from emphasis.training.settings import ClipSolver, Execution, Objective, Solver, clip_length
from emphasis.training.sharding import gather_full
from emphasis.training.task import Task
from emphasis.training.videos import RetrievalEvaluator, VideoTask
from two_devices import Counted, counted_files, on_first_rank

ONE, *TWO = Execution("cpu"), *(Execution("cpu", devices=2, strategy=how) for how in ("ddp", "fsdp"))
# A second network, a copy and features, layers and videos, layers alone, no sum over examples, a survey.
SHARDED = ("co-teaching", "d2l", "cae", "masking", "noise-adaptation", "osm-caa", "mixup-bootstrapping")
CLASSES, ROWS, CLIP = 4, 60, 3
SOLVER = Solver(iterations=16, batch_size=15, learning_rate=0.02, momentum=0.9)  # 15: 8 for one rank, 7 for the other
OPTIONS = {
    "cae": {"width": 8},
    "co-teaching": {"forget_rate": 0.3},
    "d2l": {"window": 2, "neighbours": 8},
    "drsa": {"attentions": 2, "width": 8},
    "forgetting": {"dropout": 1e-12},  # next to none: each rank draws for itself
    "joint-optimization": {"window": 2},
    "loss-correction": {"backward": True},
    "masking": {"structure": "pair"},
    "mentornet-dd": {"share": 0.3, "steps": 5},
    "mentornet-pd": {"burn_in": 0.3},
}


def images():
    """Random images, and labels that they say something of, some of them wrong."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(ROWS) // CLIP % CLASSES
    inputs = torch.randint(128, (ROWS, 3, 8, 8), generator=generator, dtype=torch.uint8)
    inputs[torch.arange(ROWS), :, true] += 100
    labels = torch.where(torch.rand(ROWS, generator=generator) < 0.2, (true + 1) % CLASSES, true)
    return inputs, true, labels


def image_task(files=None, gallery=False):
    inputs, true, labels = images()
    statistics = inputs.float().div(255).mean((0, 2, 3)), inputs.float().div(255).std((0, 2, 3))
    videos = torch.arange(ROWS) // CLIP
    number = ROWS // CLIP
    persons = Gallery(1 + true[::CLIP].numpy(), np.arange(number) // CLASSES % 2, np.arange(8))
    return VideoTask(
        files or inputs,
        labels[None],
        true,
        files or inputs,
        videos if gallery else true,
        CLASSES,
        statistics=statistics,
        augment=True,
        videos=videos,
        evaluator=RetrievalEvaluator(persons) if gallery else None,
    )


def learner_state(name, task, fabric, execution, solver, **network):
    true = task.true_labels
    problem = Problem(task.labels[0], CLASSES, 0, lambda rows: true[rows], clip_length(solver))
    method = make(name, problem, **OPTIONS.get(name, {}))
    nets = [
        build("small-cnn", (3, 8, 8), CLASSES + method.extra_outputs, seed=seed, **{"widths": (8, 8), **network})
        for seed in range(method.networks)
    ]
    return initial_state(LearnerStack(Learner(method, *nets)), solver, fabric, execution)


def values_of(state):
    """All parameters and buffers but counters of calls, and the curves."""
    tensors = gather_full(state.module.state_dict())
    return {name: value.float() for name, value in tensors.items()}, state.curves


def compare(name, found, expected, tolerance):
    for key, value in expected[0].items():
        torch.testing.assert_close(
            found[0][key], value, rtol=tolerance, atol=tolerance, equal_nan=True, msg=lambda m: f"{name}, {key}: {m}"
        )
    for key, curve in expected[1].items():
        np.testing.assert_array_equal(found[1][key][0], curve[0])  # parameters are still the same
        np.testing.assert_allclose(found[1][key], curve, rtol=1e-3, atol=1e-3, err_msg=f"{name}, {key}")


def every_method(folder):
    """A first step to 1e-5 at a learning rate of 1, and all that a method does later but for the growth of rounding."""
    for name in names():
        videos = name in ("cae", "drsa", "osm-caa")
        task = image_task(gallery=videos)
        rate = 0.001 if name == "cae" else SOLVER.learning_rate  # it does not learn with more: rounding would grow
        solver = ClipSolver(**{**vars(SOLVER), "learning_rate": rate}, clip=CLIP if videos else 1)
        step = replace(solver, iterations=1, learning_rate=1.0)

        def trained(solver, execution, name=name, task=task):
            fabric = make_fabric(execution)
            state = learner_state(name, task, fabric, execution, solver)
            train(state, task, [], [0], solver, fabric, evaluate_every=10)
            return values_of(state)

        first, last = on_first_rank(
            lambda trained=trained, step=step, solver=solver: (trained(step, ONE), trained(solver, ONE))
        )
        for execution in TWO if name in SHARDED else TWO[:1]:
            compare(f"{name}, {execution.strategy}, a step", trained(step, execution), first, 1e-5)
            fabric = make_fabric(execution)
            path = folder / f"{name} {execution.strategy}.pt"

            def save(state, fabric=fabric, path=path, name=name):
                if state.iteration == 9 and name in SHARDED:
                    save_checkpoint(path, state, fabric, name, {})

            both = learner_state(name, task, fabric, execution, solver)
            train(both, task, [], [0], solver, fabric, evaluate_every=10, after_step=save)
            compare(f"{name}, {execution.strategy}", values_of(both), last, 2e-3)
            if name not in SHARDED:
                continue
            fabric.barrier()
            again = learner_state(name, task, fabric, execution, solver)
            load_checkpoint(path, again, fabric, name)
            train(again, task, [], [0], solver, fabric, evaluate_every=10)
            compare(name, values_of(again), values_of(both), 0.0)
            fabric.barrier()


def streamed(folder):
    """A method sees decoded images as it does images in memory, and each image is decoded by one rank."""
    rank, execution = torch.distributed.get_rank(), TWO[0]
    decoded = counted_files(folder / f"images {rank}", images()[0])
    found = []
    for name, surveyed in (("mixup-bootstrapping", 2), ("co-teaching", 0)):
        for files in (None, decoded):
            Counted.times = 0
            fabric, task = make_fabric(execution), image_task(files)
            state = learner_state(name, task, fabric, execution, SOLVER, dropout=0.5)
            train(state, task, [], [0], SOLVER, fabric, evaluate_every=10)
            found.append(values_of(state))
        compare(name, found[-1], found[-2], 0.0)
        surveys = ROWS // 2 * surveyed
        expected = 3 * 2 * ROWS // 2 + (8, 7)[rank] * SOLVER.iterations + surveys
        assert Counted.times == expected, (name, Counted.times, expected)


class Idle(Baseline):
    """A method with a parameter on which its loss does not depend."""

    def __init__(self, problem):
        super().__init__(problem)
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def example_losses(self, logits, labels):
        return torch.nn.functional.cross_entropy(logits, labels, reduction="none")


def idle_parameters():
    for execution in TWO:
        fabric, task = make_fabric(execution), image_task()
        method = Idle(Problem(task.labels[0], CLASSES))
        learner = Learner(method, build("small-cnn", (3, 8, 8), CLASSES, seed=0, widths=(8, 8)))
        state = initial_state(LearnerStack(learner), SOLVER, fabric, execution)
        with pytest.raises(ValueError, match=r"the loss of Idle does not depend on its parameter .*method.unused"):
            train(state, task, [], [0], SOLVER, fabric, evaluate_every=10)


def stacks():
    """Stacks of perceptrons of which one network diverges: the others go on as if it were not there."""
    generator = torch.Generator().manual_seed(0)
    true = torch.arange(ROWS) % CLASSES
    inputs = torch.randn(ROWS, 5, generator=generator) + 3.0 * torch.nn.functional.one_hot(true, 5)
    labels = torch.stack([true, (true + (torch.rand(ROWS, generator=generator) < 0.3)) % CLASSES])
    objectives = [Objective(CCE()), Objective(DM(lam=0.5, beta=8), "integral"), Objective(DM(lam=0.5, beta=8), "batch")]
    for lost in (False, True):
        tables = []
        for execution in (ONE, *TWO):
            fabric = make_fabric(execution)
            stack = StackedMLP([5, 7, CLASSES], [0, 1], 3)
            if lost:
                stack.weights[0].data[3] = 1e38
            task = Task(inputs, labels, true, inputs, true, CLASSES)
            state = initial_state(stack, SOLVER, fabric, execution)
            train(state, task, objectives, [0, 1], SOLVER, fabric, evaluate_every=5)
            assert (state.diverged_at.tolist()[3] >= 0) == lost
            assert sum(one >= 0 for one in state.diverged_at.tolist()) == lost
            tables.append(values_of(state))
            compare(f"stack, {execution}", tables[-1], tables[0], 1e-5)


def sharing_out():
    """What ranks find is all of it, in order, however many parts there are; what one cannot read, none can."""
    group, rank = torch.distributed.group.WORLD, torch.distributed.get_rank()
    for number in range(6):
        rows = torch.arange(6.0 * number).view(number, 2, 3)
        own = rows[rank_slice(group)].clone().requires_grad_()
        found = all_gather_rows(own, number, group)
        assert torch.equal(found, rows)
        found.mul(rows + 1.0).sum().backward()  # and averaged over ranks, as DDP does
        assert torch.equal(own.grad / 2, (rows + 1.0)[rank_slice(group)])
    for number in range(1, 8):
        parts = list(range(number))
        own = deal_round_robin(parts, group)
        assert len(own) == -(-number // 2)
        assert list(gather_in_order((3 * part for part in own), number, group)) == [3 * part for part in parts]

    def fails():
        yield 0
        if rank:
            raise DamagedFileError("a.png is no image")
        yield 2

    results = gather_in_order(fails(), 4, group)
    assert [next(results), next(results)] == [0, 0]
    with pytest.raises(DamagedFileError, match=r"a.png is no image"):
        next(results)


def main():
    torch.set_num_threads(1)
    evaluation._IMAGES_AT_ONCE["cpu"] = 15  # parts for both ranks
    folder = Path(sys.argv[1])
    make_fabric(TWO[0])  # starts the second rank
    every_method(folder)
    streamed(folder)
    idle_parameters()
    stacks()
    sharing_out()


if __name__ == "__main__":
    main()
    os._exit(0)  # gloo's threads sometimes abort an ordinary exit ("terminate called without an active exception")
