"""What scoring MARS costs: the official 1,980 queries among 12,180 videos, features of 1,024 numbers made up.

    python benchmarks/retrieval_speed.py --data DATA        # the folder with MARS's lists; half a minute on two cores

Prints, and writes to results/retrieval_speed.json, the time of `evaluate_features`, of the means
over the 681,089 frames that the videos' features are made of (`mean_by_tracklet`), and the most memory that the process
took. In a process of its own, which holds nothing else; each time is of one call, after one that warmed up.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from emphasis.datasets.mars import load_mars
from emphasis.files import write_text
from emphasis.retrieval import evaluate_features, mean_by_tracklet

FEATURES = 1024
FRAMES_AT_ONCE = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="the folder that holds MARS's lists")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results/retrieval_speed.json"))
    options = parser.parse_args()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        measured = pool.submit(measure, options.data, options.repeats).result()
    # Imported here because it imports torch, and a process inherits the peak that it started at.
    from emphasis.experiments.runs.provenance import revision

    report = {
        **measured,
        "repeats": options.repeats,
        "command": "python benchmarks/retrieval_speed.py --data DATA",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "revision": revision(),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def measure(data: Path, repeats: int) -> dict[str, Any]:
    mars = load_mars(data)
    test, frame_of = mars.test, mars.test.tracklet
    started = peak()
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(FRAMES_AT_ONCE, FEATURES)).astype(np.float32)

    def parts() -> Iterator[tuple[Any, Any]]:
        for start in range(0, len(frame_of), FRAMES_AT_ONCE):
            rows = frame_of[start : start + FRAMES_AT_ONCE]
            yield frames[: len(rows)], rows

    means = seconds(lambda: mean_by_tracklet(parts(), len(test)), repeats)
    with_means = peak()
    features = rng.normal(size=(len(test), FEATURES)).astype(np.float32)
    scores = seconds(lambda: evaluate_features(features, test.person, test.camera, mars.query), repeats)
    return {
        "queries": len(mars.query),
        "gallery": len(test),
        "frames": len(frame_of),
        "features": FEATURES,
        "dtype": "float32",
        "seconds": {"retrieve": scores, "mean_by_tracklet": means},
        "peak_bytes": {"lists read": started, "mean_by_tracklet": with_means, "retrieve": peak()},
    }


def seconds(function: Callable[[], object], repeats: int) -> dict[str, float]:
    """Return median, least and greatest time of a call."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return {"median": statistics.median(times[1:]), "least": min(times[1:]), "greatest": max(times[1:])}


def peak() -> int:
    """Return the most memory that this process has taken so far, in bytes."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else 1024 * most


if __name__ == "__main__":
    main()
