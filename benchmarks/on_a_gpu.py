"""What training costs on a GPU: milliseconds a step of the networks that the recipes train, and waiting for images.

    python benchmarks/on_a_gpu.py            # one NVIDIA GPU, about three minutes
    python benchmarks/on_a_gpu.py --device cpu --quick    # to try it out

Steps are those of `emphasis run`: crops, flips, normalization, network, loss, optimizer, on images of noise that lie on
the device. Cross-entropy and DM take turns, several trainings each, so that their ratio is of neighbors; steps are
timed ten at a time. Then ResNet-50 on photographs (those of input_pipeline.py) that threads decode from JPEG meanwhile,
as for Clothing1M: images a second, the share of time that training waits for them, and the memory. And images a second
decoded by 1, 2, 4, ... threads of one process. Prints, and writes to results/on_a_gpu.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import input_pipeline
import numpy as np
import torch

from emphasis.datasets import ImageFiles
from emphasis.experiments.runs.provenance import device_name, revision, versions
from emphasis.files import write_text
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.training.evaluation import evaluate
from emphasis.training.fabric import make_fabric
from emphasis.training.loop import State, initial_state, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import CCE, DM

NETWORKS: dict[str, tuple[int, int, int, int]] = {  # side, classes, batch, steps; as Tables 1 to 4, 9 and Figure 10
    "resnet20": (32, 10, 256, 100),
    "resnet44": (32, 100, 256, 60),
    "resnet56": (32, 10, 256, 60),
    "googlenet-v1": (32, 10, 256, 40),
    "resnet50": (224, 14, 64, 40),
    "googlenet-v2": (224, 625, 180, 30),
}
OBJECTIVES = {"CCE": Objective(CCE()), "DM": Objective(DM(lam=0.5, beta=12), "batch")}
AT_ONCE, WARM = 10, 10  # steps


def spread(values: list[float]) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {"median": float(middle), "low quartile": float(low), "high quartile": float(high), "n": len(values)}


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def steps(name: str, rounds: int, execution: Execution) -> dict[str, Any]:
    """Return the times of a network's steps, and how fast it is evaluated."""
    side, classes, size, number = NETWORKS[name]
    fabric = make_fabric(execution)
    device = fabric.device
    crop = side if side > 32 else 0
    stored = 256 if crop else side
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * size, 3, stored, stored), generator=generator, dtype=torch.uint8)
    labels = torch.arange(2 * size) % classes
    task = Task(
        images,
        labels[None],
        labels,
        images[:2],
        labels[:2],
        classes,
        statistics=input_pipeline.STATISTICS,
        augment=True,
        crop=crop,
        look=2,
    ).to(device)
    solver = Solver(WARM + number, size, 0.01, momentum=0.9, weight_decay=1e-4)
    times: dict[str, list[float]] = {objective: [] for objective in OBJECTIVES}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    for _ in range(rounds):
        for objective, settings in OBJECTIVES.items():
            network = SingleNetwork(build(name, task.input_shape, classes, seed=0))
            state = initial_state(network, solver, fabric, execution)
            marks: list[float] = []

            def after_step(state: State, marks: list[float] = marks) -> None:
                if state.iteration >= WARM and state.iteration % AT_ONCE == 0 and state.iteration < solver.iterations:
                    wait(device)
                    marks.append(time.perf_counter())

            train(state, task, [settings], [0], solver, fabric, evaluate_every=10**9, after_step=after_step)
            times[objective] += [1000 * float(seconds) / AT_ONCE for seconds in np.diff(marks)]
    whole = Task(**{**vars(task), "test_inputs": task.inputs, "test_labels": task.labels[0]})
    alive = np.ones(1, dtype=bool)
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        evaluate(state.module, 1, whole, alive)
        seconds.append(time.perf_counter() - start)
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {
        "side": crop or side,
        "classes": classes,
        "batch": size,
        "precision": execution.precision,
        "ms_per_step": {objective: spread(values) for objective, values in times.items()},
        "DM_over_CCE": spread([dm / cce for cce, dm in zip(times["CCE"], times["DM"], strict=True)]),
        "images_per_second": size / statistics.median(times["DM"]) * 1000,
        "evaluated_per_second": len(task.inputs) / min(seconds[1:]),
        "peak_MiB": memory,
    }


def decoded(files: ImageFiles, threads: int) -> float:
    """Return images a second decoded by so many threads, by the clock."""
    parts = [range(first, len(files), threads) for first in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        start = time.perf_counter()
        list(pool.map(input_pipeline.read_some, [files] * threads, parts))
        return len(files) / (time.perf_counter() - start)


def streamed(files: ImageFiles, number: int, size: int, execution: Execution) -> dict[str, float]:
    """Return how ResNet-50 trains on images that are decoded meanwhile by as many threads as torch has."""
    labels = torch.arange(len(files)) % input_pipeline.CLASSES
    fabric = make_fabric(execution)
    task = input_pipeline.TimedTask(
        files,
        labels[None],
        labels,
        files[:2],
        labels[:2],
        input_pipeline.CLASSES,
        statistics=input_pipeline.STATISTICS,
        augment=True,
        crop=input_pipeline.CROP,
        look=2,
    ).to(fabric.device)
    solver = Solver(WARM + number + 1, size, 0.01, momentum=0.9)
    network = SingleNetwork(build("resnet50", task.input_shape, input_pipeline.CLASSES, seed=0))
    state = initial_state(network, solver, fabric, execution)
    ends, memory = [], []

    def after_step(state: State) -> None:
        if state.iteration % AT_ONCE == 0:
            wait(fabric.device)
        ends.append(time.perf_counter())
        memory.append(input_pipeline.resident())

    input_pipeline.waits.clear()
    train(state, task, [OBJECTIVES["DM"]], [0], solver, fabric, evaluate_every=10**9, after_step=after_step)
    seconds = ends[-2] - ends[WARM - 1]
    return {
        "images_per_second": number * size / seconds,
        "waiting_share": sum(input_pipeline.waits[WARM:-1]) / seconds,
        "memory_after_quarter": memory[WARM + number // 4],
        "memory_at_end": memory[-2],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one round of few steps of ResNet-20 alone")
    parser.add_argument("--out", type=Path, default=Path("results/on_a_gpu.json"))
    options = parser.parse_args()
    if options.quick:
        NETWORKS.clear()
        NETWORKS["resnet20"] = (32, 10, 16, 40)
    report: dict[str, Any] = {
        "device": device_name(torch.device(options.device)),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "revision": revision(),
        "steps": {},
    }
    for precision in ("32-true", "bf16-mixed"):
        execution = Execution(accelerator=options.device, precision=precision)
        for name in NETWORKS:
            found = steps(name, 1 if options.quick else options.rounds, execution)
            report["steps"][f"{name}, {precision}"] = found
            times = {objective: round(one["median"], 2) for objective, one in found["ms_per_step"].items()}
            print(name, precision, times, f"{found['evaluated_per_second']:,.0f} images/s evaluated", flush=True)
            write_text(options.out, json.dumps(report, indent=1) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        number = 200 if options.quick else 2000
        size = input_pipeline.write_images(Path(folder), number)
        files = ImageFiles(Path(folder), [f"{image}.jpg" for image in range(number)], input_pipeline.RESIZE)
        report |= {"bytes_per_image": round(size), "decoded_per_second": {}}
        for threads in (1, 2, 4, 8, 16, 32):
            if threads <= (os.cpu_count() or 1):
                some = files[: 300 * threads]
                report["decoded_per_second"][str(threads)] = spread([decoded(some, threads) for _ in range(3)])
        print({threads: round(one["median"]) for threads, one in report["decoded_per_second"].items()}, flush=True)
        execution = Execution(accelerator=options.device)
        runs = [streamed(files, 10 if options.quick else 200, 4 if options.quick else 64, execution) for _ in range(3)]
        report["streamed"] = {
            "network": "resnet50",
            "batch": 64,
            "steps": 200,
            **{name: input_pipeline.spread([run[name] for run in runs]) for name in runs[0]},
        }
    print(json.dumps(report["streamed"]), flush=True)
    write_text(options.out, json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
