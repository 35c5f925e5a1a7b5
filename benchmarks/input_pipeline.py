"""What decoding images on demand costs, and whether training waits for it.

    python benchmarks/input_pipeline.py        # about 4 minutes on two cores

The images are windows of 256 to 400 pixels a side, cut at random from scikit-learn's two photographs and written as
JPEG of quality 85: real detail, and about the size that Clothing1M's images are taken to have, though none of them.
Prints, and writes to results/input_pipeline.json:

- images per second of one core, decoded and squeezed to 256 x 256, and images per second cropped to 224 x 224, flipped
  and normalized: by processor time, which other work on the machine hardly changes, and by the clock; and the former
  from two threads and from two processes;
- the share of the time that training waits for images while one thread decodes and one computes, for a network that
  is as fast as can be (decode-bound) and one that is slower than the decoder (compute-bound), and the memory. The
  thread that computes also crops and normalizes, which on a GPU costs no core.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, features
from sklearn.datasets import load_sample_images
from torch import Tensor

from emphasis.datasets import ImageFiles
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text
from emphasis.models import build
from emphasis.models.stacked import SingleNetwork
from emphasis.training.augmentation import normalize, random_crop_flip
from emphasis.training.fabric import make_fabric
from emphasis.training.fetching import Fetched
from emphasis.training.loop import State, initial_state, train
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.task import Task
from emphasis.weighting import DM

RESIZE, CROP, BATCH, CLASSES, LOOK = 256, 224, 16, 14, 2
STATISTICS = torch.full((3,), 0.5), torch.full((3,), 0.25)
CASES: dict[str, tuple[str, dict[str, Any], int]] = {  # network, its options, steps
    "decode-bound": ("mlp", {"hidden": [4]}, 300),
    "compute-bound": ("resnet20", {}, 8),
}
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
                if batch.places.shape[1] > LOOK:  # a training batch
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
        64, lambda: normalize(random_crop_flip(images, generator, padding=0, size=CROP), *STATISTICS), rounds
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
        files,
        labels[None],
        labels,
        files[:LOOK],
        labels[:LOOK],
        CLASSES,
        statistics=STATISTICS,
        augment=True,
        crop=CROP,
        look=LOOK,
    )
    execution, solver = Execution(accelerator="cpu"), Solver(steps + 2, BATCH, 0.01, momentum=0.9)
    fabric = make_fabric(execution)
    network = build(name, task.input_shape, CLASSES, seed=0, **options)
    state = initial_state(SingleNetwork(network), solver, fabric, execution)
    ends, memory = [], []

    def after_step(_state: State) -> None:
        ends.append(time.perf_counter())
        memory.append(resident())

    waits.clear()
    train(state, task, [Objective(DM(lam=1, beta=2))], [0], solver, fabric, evaluate_every=10**9, after_step=after_step)
    seconds = ends[-2] - ends[0]  # without the first step, which fills the queue, and the last, which is evaluated
    return {
        "waiting_share": sum(waits[1:-1]) / seconds,
        "images_per_second": steps * BATCH / seconds,
        "memory_after_quarter": memory[steps // 4],
        "memory_at_end": memory[steps],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/input_pipeline.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # so one thread decodes beside the one that computes
    with tempfile.TemporaryDirectory() as folder:
        size = write_images(Path(folder), options.images)
        files = ImageFiles(Path(folder), [f"{image}.jpg" for image in range(options.images)], RESIZE)
        report: dict[str, Any] = {
            "command": "python benchmarks/input_pipeline.py",
            "images": f"{options.images} windows of scikit-learn's two photographs, 256 to 400 pixels a side, JPEG 85",
            "bytes_per_image": round(size),
            "resize": RESIZE,
            "crop": CROP,
            "batch_size": BATCH,
            "rates": decoding(files, options.rounds),
            "training": {},
        }
        for case, (network, network_options, steps) in CASES.items():
            runs = [training(files, case) for _ in range(options.trainings)]
            report["training"][case] = {
                "network": network,
                "options": network_options,
                "steps": steps,
                **{name: spread([run[name] for run in runs]) for name in runs[0]},
            }
    report |= {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other work",
        "pillow": Image.__version__,
        "libjpeg_turbo": features.version("libjpeg_turbo"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": "1 to decode, 1 to compute",
        "revision": revision(),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
