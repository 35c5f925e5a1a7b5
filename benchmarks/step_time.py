"""Milliseconds of a training step, images per second of an evaluation, and what DM adds to a step, network by network.

    python benchmarks/step_time.py [--device cuda|cpu] [--only NETWORK ...] [--compile NETWORK ...] [--quick]

Every network of the recipes at its recipe's size and batch, trained by the loop that `emphasis run` trains with, crops
and flips included, on random images that lie on the device; in float32 as the recipes have it, and in bfloat16 where
the device is a GPU. CCE and DM (lam = 0.5, beta = 12, normalised by the batch) train a network each, in turn, a block
of steps at a time: the ratio is of two blocks of the same repeat. `--compile` measures networks under torch.compile
as well, which takes long to begin.

Printed, and written to results/step_time.json after each case: median and quartiles over the repeats. About a minute on
an H100. `--quick` is for trying it out: a small network, few images, written to runs/step_time.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from emphasis.experiments.jobs import device_name, revision
from emphasis.files import write_text
from emphasis.models import build
from emphasis.models.stacked import StackOfOne
from emphasis.training.evaluation import evaluate
from emphasis.training.loop import State, initial_state, make_fabric, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import CCE, DM

ROOT = Path(__file__).parents[1]
OBJECTIVES = {"CCE": Objective(CCE()), "DM": Objective(DM(lam=0.5, beta=12), "batch", 16.6)}
WARM = 5  # steps of each network before anything is timed


@dataclass(frozen=True)
class Case:
    """A network as its recipe trains it.

    Attributes:
        network: Its name.
        side: Pixels per side of the images that are kept.
        crop: Of what the network sees of them; 0: all, shifted by up to 4 pixels.
        batch: Images in a step.
        classes: C.
        images: For training, and as many for the test.
    """

    network: str
    side: int
    crop: int
    batch: int
    classes: int
    images: int


CASES = [
    Case("resnet20", 32, 0, 256, 10, 10_000),
    Case("resnet44", 32, 0, 256, 10, 10_000),
    Case("resnet56", 32, 0, 256, 10, 10_000),
    Case("googlenet-v1", 32, 0, 256, 10, 10_000),
    Case("resnet50", 256, 224, 64, 14, 2_000),
    Case("googlenet-v2", 256, 224, 180, 625, 2_000),
]


class EnoughError(Exception):
    """As many steps as were asked for have been taken."""


class Training:
    """A network, and the loop that trains it a few steps at a time.

    Args:
        case: What is trained.
        task: Its data.
        objective: One of `OBJECTIVES`.
        execution: Where and how.
    """

    def __init__(self, case: Case, task: Task, objective: Objective, execution: Execution) -> None:
        self.fabric = make_fabric(execution)
        self.task, self.objective = task.to(self.fabric.device), objective
        self.solver = Solver(10**9, case.batch, 1e-3, momentum=0.9, weight_decay=1e-4)
        network = build(case.network, task.input_shape, case.classes, seed=0)
        self.state = initial_state(StackOfOne(network), self.solver, self.fabric, execution)
        self.state.evaluated_at.append(0)  # no evaluation before the first step

    def wait(self) -> float:
        """Return the time at which the device has done what it was told."""
        if self.fabric.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def seconds(self, steps: int) -> float:
        """Return how long a step takes, the mean of `steps`, after one that is not timed."""
        ends: list[float] = []
        last = self.state.iteration + 1 + steps

        def after_step(state: State) -> None:
            if not ends:
                ends.append(self.wait())
            if state.iteration == last:
                ends.append(self.wait())
                raise EnoughError

        with contextlib.suppress(EnoughError):
            train(self.state, self.task, [self.objective], [0], self.solver, self.fabric, evaluate_every=10**9,
                  after_step=after_step)  # fmt: skip
        return (ends[1] - ends[0]) / steps

    def images_per_second(self) -> float:
        """Return how many images an evaluation looks at in a second."""
        began = self.wait()
        evaluate(self.state.module, 1, self.task, np.ones(1, bool))
        return (len(self.task.test_inputs) + len(self.task.looked_at)) / (self.wait() - began)


def make_task(case: Case) -> Task:
    """Return random images of random classes, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.images, 3, case.side, case.side)
    images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.randint(case.classes, (case.images,), generator=generator)
    statistics_of_all = torch.full((3,), 0.5), torch.full((3,), 0.29)
    return Task(images, labels[None], labels, images, labels, case.classes, statistics=statistics_of_all, augment=True,
                crop=case.crop)  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    first, median, third = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": median, "first_quartile": first, "third_quartile": third, "n": len(values)}


def measure(case: Case, task: Task, execution: Execution, repeats: int, block: float) -> dict[str, Any]:
    """Return what is written of a case; `block`: seconds of one, at least."""
    torch.compiler.reset()
    cuda = execution.accelerator == "cuda"
    if cuda:
        torch.cuda.empty_cache()
    trainings = {name: Training(case, task, objective, execution) for name, objective in OBJECTIVES.items()}
    for training in trainings.values():
        training.seconds(WARM)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    steps = max(2, round(block / trainings["CCE"].seconds(WARM)))
    times: dict[str, list[float]] = {name: [] for name in trainings}
    for repeat in range(repeats):
        for name in list(trainings)[:: 1 if repeat % 2 else -1]:  # neither always runs after the other
            times[name].append(trainings[name].seconds(steps))
    memory = torch.cuda.max_memory_allocated() / 2**20 if cuda else None
    trainings["DM"].images_per_second()
    looks = [trainings["DM"].images_per_second() for _ in range(3)]
    return {
        "network": case.network, "images_of": f"{case.crop or case.side} x {case.crop or case.side}",
        "batch": case.batch, "classes": case.classes, "precision": execution.precision,
        "compiled": execution.compile, "steps_in_a_block": steps,
        "ms_per_step": {name: spread([1e3 * one for one in own]) for name, own in times.items()},
        "training_images_per_second": case.batch / statistics.median(times["DM"]),
        "DM_over_CCE": spread([dm / cce for dm, cce in zip(times["DM"], times["CCE"], strict=True)]),
        "evaluation_images_per_second": spread(looks), "memory_of_both_mib": memory,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    known = [case.network for case in CASES]
    parser.add_argument("--only", nargs="+", metavar="NETWORK", choices=known, default=known)
    parser.add_argument("--compile", nargs="+", metavar="NETWORK", choices=known, default=[])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--block", type=float, default=0.25, metavar="SECONDS", help="that a block lasts (default: .25)"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="results/step_time.json by default, runs/step_time.json with --quick")
    options = parser.parse_args()
    out = options.out or ROOT / ("runs" if options.quick else "results") / "step_time.json"
    cases = [case for case in CASES if case.network in options.only]
    if options.quick:
        cases = [replace(cases[0], batch=16, images=64, side=32, crop=0)]
        options.repeats, options.block = 2, 0.0
    out.parent.mkdir(parents=True, exist_ok=True)

    executions = [Execution(options.device)]
    if options.device == "cuda":
        executions.append(Execution(options.device, "bf16-mixed"))
    device = torch.device(options.device)
    report: dict[str, Any] = {
        "command": "python benchmarks/step_time.py", "device": device_name(device), "cores": os.cpu_count(),
        "cudnn": torch.backends.cudnn.version(), "torch": torch.__version__, "python": platform.python_version(),
        "threads": torch.get_num_threads(), "float32_convolutions_in_tf32": torch.backends.cudnn.allow_tf32,
        "revision": revision(), "cases": [],
    }  # fmt: skip
    print(f"{report['device']}, torch {report['torch']}, revision {report['revision']}", flush=True)
    ways = [(case, execution) for case in cases for execution in executions]
    ways += [(case, replace(one, compile=True)) for case in cases if case.network in options.compile
             for one in executions]  # fmt: skip
    tasks = {case: make_task(case) for case in cases}
    for case, execution in ways:
        found = measure(case, tasks[case], execution, options.repeats, options.block)
        report["cases"].append(found)
        write_text(out, json.dumps(report, indent=1) + "\n")
        dm, ratio = found["ms_per_step"]["DM"], found["DM_over_CCE"]
        print(f"{case.network:13} {execution.precision:10} {'compiled ' * execution.compile}"
              f"{dm['median']:8.2f} ms a step ({dm['first_quartile']:.2f} to {dm['third_quartile']:.2f}), "
              f"{found['training_images_per_second']:8,.0f} images/s; DM over CCE {ratio['median']:.3f} "
              f"({ratio['first_quartile']:.3f} to {ratio['third_quartile']:.3f}); evaluation "
              f"{found['evaluation_images_per_second']['median']:8,.0f} images/s", flush=True)  # fmt: skip
    print(f"written to {out}")


if __name__ == "__main__":
    main()
