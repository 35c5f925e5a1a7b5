"""What decoding images on demand costs, and whether training waits for it.

    python benchmarks/input_pipeline.py                    # about 4 minutes on two cores
    python benchmarks/input_pipeline.py --device cuda      # about a minute on 16 cores and an H100

The images are windows of 256 to 400 pixels a side, cut at random from scikit-learn's two photographs and written as
JPEG of quality 85: real detail, and about the size that Clothing1M's images are taken to have, though none of them.
Prints, and writes to results/input_pipeline.json:

- images per second of one core, decoded and squeezed to 256 x 256, and images per second cropped to 224 x 224, flipped
  and normalised: by processor time, which other work on the machine hardly changes, and by the clock; and the former
  from two threads and from two processes;
- the share of the time that training waits for images while one thread decodes and one computes, for a network that
  is as fast as can be (decode-bound) and one that is slower than the decoder (compute-bound), and the memory. The
  thread that computes also crops and normalises, which on a GPU costs no core.

With `--device cuda`, under the key "cuda" of the same file:

- images per second decoded by 1, 2, 4, ... threads of one process, up to the number of cores, by the clock;
- images per second of training ResNet-50 on 224 x 224 in batches of 64, decoded by as many threads, and from images
  that lie on the device; the share of time that the device waits is what the former lack of the latter, for the host
  waits ahead of the device. And the memory, of the process and of the device.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from sklearn.datasets import load_sample_images
from torch import Tensor

from emphasis.datasets import ImageFiles
from emphasis.experiments.jobs import device_name, revision
from emphasis.files import write_text
from emphasis.models import build
from emphasis.models.stacked import StackOfOne
from emphasis.training.augmentation import normalise, random_crop_flip
from emphasis.training.fetching import Fetched
from emphasis.training.loop import State, initial_state, make_fabric, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import DM

RESIZE, CROP, BATCH, CLASSES = 256, 224, 16, 14
STATISTICS = torch.full((3,), 0.5), torch.full((3,), 0.25)
CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # network, its options, steps
    "decode-bound": ("mlp", {"hidden": [4]}, 300),
    "compute-bound": ("resnet20", {}, 8),
}
STEPS, GPU_BATCH = 250, 64  # on a GPU
waits: list[float] = []  # seconds, of each training batch


class TimedTask(Task):
    """A task that takes note of how long its training batches are waited for."""

    def fetch(self, places: Iterable[Tensor]) -> Generator[Fetched]:
        with closing(super().fetch(places)) as batches:
            while True:
                began = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    return
                if batch.places.shape[1] == BATCH:
                    waits.append(time.perf_counter() - began)
                yield batch


def write_images(folder: Path, number: int) -> float:
    """Write the images; return their mean size in bytes."""
    rng, photographs = np.random.default_rng(0), load_sample_images().images
    for image in range(number):
        photograph = photographs[image % 2]
        height, width = rng.integers(256, 401, 2)
        top, left = rng.integers(0, photograph.shape[0] - height + 1), rng.integers(0, photograph.shape[1] - width + 1)
        window = photograph[top : top + height, left : left + width]
        Image.fromarray(window).save(folder / f"{image}.jpg", quality=85)
    return statistics.mean(path.stat().st_size for path in folder.iterdir())


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "n": len(values)}


def rates(count: int, work: Callable[[], object], rounds: int) -> dict[str, Any]:
    """Return how many of `count` images `work` does in a second of a processor, and in one of the clock."""
    by_processor, by_clock = [], []
    for _ in range(rounds):
        processor, clock = time.process_time(), time.perf_counter()
        work()
        by_processor.append(count / (time.process_time() - processor))
        by_clock.append(count / (time.perf_counter() - clock))
    return {"per_core_second": spread(by_processor), "per_second": spread(by_clock)}


def read_some(files: ImageFiles, rows: range) -> int:
    """Decode images, in a process; of the pixels only a sum goes back."""
    return sum(int(files.read(row)[0, 0, 0]) for row in rows)


def decoding(files: ImageFiles, rounds: int) -> dict[str, Any]:
    """Return the rates of decoding: in this thread, in two threads, in two processes."""
    number = len(files)
    halves = range(0, number, 2), range(1, number, 2)
    found = {"decode": rates(number, lambda: read_some(files, range(number)), rounds)}
    with ThreadPoolExecutor(2) as pool:
        found["decode, two threads"] = rates(number, lambda: list(pool.map(read_some, (files, files), halves)), rounds)
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(read_some, (files, files), halves))
        clock = rates(number, lambda: list(pool.map(read_some, (files, files), halves)), rounds)["per_second"]
        found["decode, two processes"] = {"per_second": clock}  # their processor time is not this process's
    images = torch.from_numpy(np.asarray(files[:64]))
    generator = torch.Generator().manual_seed(0)
    found["crop, flip, normalise"] = rates(
        64, lambda: normalise(random_crop_flip(images, generator, padding=0, size=CROP), *STATISTICS), rounds
    )
    return found


def resident() -> float:
    """Return the memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def training(files: ImageFiles, case: str) -> dict[str, float]:
    """Return, of one training, the share of time waited for images, images per second, and memory in MiB."""
    name, options, steps = CASES[case]
    labels = torch.arange(len(files)) % CLASSES
    task = TimedTask(
        files, labels[None], labels, files[:2], labels[:2], CLASSES, statistics=STATISTICS, augment=True, crop=CROP,
        look=2,
    )  # fmt: skip
    execution, solver = Execution(accelerator="cpu"), Solver(steps + 2, BATCH, 0.01, momentum=0.9)
    fabric = make_fabric(execution)
    network = build(name, task.input_shape, CLASSES, seed=0, **options)
    state = initial_state(StackOfOne(network), solver, fabric, execution)
    ends, memory = [], []

    def after_step(_state: State) -> None:
        ends.append(time.perf_counter())
        memory.append(resident())

    waits.clear()
    train(state, task, [Objective(DM(lam=1, beta=2))], [0], solver, fabric, evaluate_every=10**9, after_step=after_step)
    seconds = ends[-2] - ends[0]  # without the first step, which fills the queue, and the last, which is evaluated
    return {
        "waiting_share": sum(waits[1:-1]) / seconds, "images_per_second": steps * BATCH / seconds,
        "memory_after_quarter": memory[steps // 4], "memory_at_end": memory[steps],
    }  # fmt: skip


def on_cpu(files: ImageFiles, rounds: int, trainings: int) -> dict[str, Any]:
    """Return what is written of a CPU."""
    torch.set_num_threads(1)  # so one thread decodes beside the one that computes
    report: dict[str, Any] = {
        "batch_size": BATCH, "threads": "1 to decode, 1 to compute", "rates": decoding(files, rounds), "training": {},
    }  # fmt: skip
    for case, (network, network_options, steps) in CASES.items():
        runs = [training(files, case) for _ in range(trainings)]
        report["training"][case] = {
            "network": network, "options": network_options, "steps": steps,
            **{name: spread([run[name] for run in runs]) for name in runs[0]},
        }  # fmt: skip
    return report


def thread_counts() -> list[int]:
    """Return 1, 2, 4, ... up to the number of cores, and that."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return sorted({2**power for power in range(cores.bit_length())} | {cores})


def decoding_by_threads(files: ImageFiles, rounds: int) -> dict[str, dict[str, float]]:
    """Return images per second by the clock, for each number of threads."""
    found = {}
    for threads in thread_counts():
        with ThreadPoolExecutor(threads) as pool:
            work = partial(pool.map, lambda row: int(files.read(row)[0, 0, 0]), range(len(files)))
            found[str(threads)] = rates(len(files), lambda work=work: list(work()), rounds)["per_second"]
            print(f"{threads} threads decode {found[str(threads)]['median']:,.0f} images/s", flush=True)
    return found


def training_on_gpu(inputs: ImageFiles | Tensor, execution: Execution, threads: int, steps: int) -> dict[str, float]:
    """Return images per second of a training on the device, by files or from its memory; and memory in MiB."""
    torch.set_num_threads(threads)
    labels = torch.arange(len(inputs)) % CLASSES
    fabric = make_fabric(execution)
    task = Task(inputs, labels[None], labels, inputs[:2], labels[:2], CLASSES, statistics=STATISTICS, augment=True,
                crop=CROP, look=2).to(fabric.device)  # fmt: skip
    solver = Solver(steps + 6, GPU_BATCH, 0.01, momentum=0.9)
    state = initial_state(StackOfOne(build("resnet50", task.input_shape, CLASSES, seed=0)), solver, fabric, execution)
    ends, memory = {}, {}

    def after_step(state: State) -> None:
        if state.iteration in (5, 5 + steps // 4, 5 + steps):
            if fabric.device.type == "cuda":
                torch.cuda.synchronize()
            ends[state.iteration], memory[state.iteration] = time.perf_counter(), resident()

    train(state, task, [Objective(DM(lam=1, beta=2))], [0], solver, fabric, evaluate_every=10**9, after_step=after_step)
    used = torch.cuda.max_memory_reserved() / 2**20 if fabric.device.type == "cuda" else math.nan
    return {
        "images_per_second": steps * GPU_BATCH / (ends[5 + steps] - ends[5]),
        "memory_after_quarter": memory[5 + steps // 4], "memory_at_end": memory[5 + steps], "device_memory": used,
    }  # fmt: skip


def on_gpu(files: ImageFiles, device: str, rounds: int, trainings: int, steps: int) -> dict[str, Any]:
    """Return what is written of a GPU."""
    report: dict[str, Any] = {"decode_per_second_by_threads": decoding_by_threads(files, rounds), "training": []}
    in_memory = torch.from_numpy(np.asarray(files))
    threads = [count for count in thread_counts() if count in (1, 2, 4)] + thread_counts()[-1:]
    for precision in ("32-true", "bf16-mixed"):
        execution = Execution(device, precision)
        known = [training_on_gpu(in_memory, execution, threads[-1], steps) for _ in range(trainings)]
        fastest = statistics.median(one["images_per_second"] for one in known)
        print(f"{precision}: {fastest:,.0f} images/s from the device's memory", flush=True)
        for count in dict.fromkeys(reversed(threads if precision == "bf16-mixed" else threads[-1:])):
            runs = [training_on_gpu(files, execution, count, steps) for _ in range(trainings)]
            for run in runs:
                run["waiting_share"] = 1.0 - run["images_per_second"] / fastest
            report["training"].append({
                "network": "resnet50", "batch_size": GPU_BATCH, "precision": precision, "threads": count,
                "steps": steps, "images_per_second_from_memory": spread([one["images_per_second"] for one in known]),
                **{name: spread([run[name] for run in runs]) for name in runs[0]},
            })  # fmt: skip
            own = report["training"][-1]
            print(f"{precision}, {count} threads: {own['images_per_second']['median']:,.0f} images/s, waiting "
                  f"{own['waiting_share']['median']:.1%}", flush=True)  # fmt: skip
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trainings", type=int, help="of each case (default: 3, on a GPU 1)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of a training on a GPU (default: {STEPS})")
    parser.add_argument("--out", type=Path, default=Path("results/input_pipeline.json"))
    options = parser.parse_args()
    cuda = options.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), options.images)
        files = ImageFiles(Path(folder), [f"{image}.jpg" for image in range(options.images)], RESIZE)
        report: dict[str, Any] = {
            "command": "python benchmarks/input_pipeline.py" + " --device cuda" * cuda,
            "images": f"{options.images} windows of scikit-learn's two photographs, 256 to 400 pixels a side, JPEG 85",
            "bytes_per_image": round(size), "resize": RESIZE, "crop": CROP,
        }  # fmt: skip
        if cuda:
            report |= on_gpu(files, "cuda", options.rounds, options.trainings or 1, options.steps)
        else:
            report |= on_cpu(files, options.rounds, options.trainings or 3)
    report |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores" + ", shared with other work" * (not cuda),
        "pillow": Image.__version__, "libjpeg_turbo": features.version("libjpeg_turbo"), "torch": torch.__version__,
        "python": platform.python_version(), "revision": revision(),
    }  # fmt: skip
    stored = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    if cuda:
        stored["cuda"] = {**report, "device": device_name(torch.device("cuda"))}
    else:
        stored = report | {name: stored[name] for name in ("cuda",) if name in stored}
    write_text(options.out, json.dumps(stored, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
