"""What a job costs besides its training: sweeps of 250, 500 and 1,000 trivial jobs.

A trivial job trains one perceptron for one step on a part of digits: one cell per seed, with dropout, so that no two
are trained together. Each sweep runs in one process of its own, after a sweep of 20 jobs that imports and compiles what
is needed. Time spent within `training.loop.train`, which is the training itself, is measured and subtracted. A sweep is
then asked for again, which trains nothing: what it costs to find all of it finished.

    python benchmarks/many_jobs.py --out results/many_jobs.json
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from emphasis.files import write_text

SIZES = (250, 500, 1000)
WARM_UP = 20
GOAL = 20.0  # milliseconds per job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path("results/many_jobs.json"))
    options = parser.parse_args()
    sweeps = []
    for size in options.sizes:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            sweeps.append(pool.submit(measure, size).result())
        print(json.dumps(sweeps[-1]), flush=True)
    from emphasis.experiments.runs.provenance import revision, versions

    report = {
        "goal_ms_per_job": GOAL,
        "sweeps": sweeps,
        "command": "python benchmarks/many_jobs.py",
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "revision": revision(),
        "versions": versions(),
    }
    write_text(options.out, json.dumps(report, indent=1) + "\n")


def measure(jobs: int) -> dict[str, Any]:
    """Return the overhead of a sweep, in milliseconds per job, by CPU and by wall time."""
    from emphasis.experiments.recipes.load import load_recipe
    from emphasis.experiments.runs import train_job
    from emphasis.experiments.runs.context import RunContext
    from emphasis.experiments.runs.runner import run
    from emphasis.training.settings import Execution

    trained = [0.0, 0.0]
    train = train_job.train

    def timed(*arguments: Any, **keywords: Any) -> None:
        began = time.process_time(), time.perf_counter()
        train(*arguments, **keywords)
        trained[0] += time.process_time() - began[0]
        trained[1] += time.perf_counter() - began[1]

    train_job.train = timed
    small = {"network.hidden": [8], "network.dropout": 0.1, "solver.iterations": 1, "dataset.train_size": 200}
    recipe = load_recipe("digits").limited([], ["CCE"]).changed({**small, "evaluation.trace": False})
    context = RunContext(execution=Execution("cpu"), threads=1, checkpoint_seconds=1e6)
    with tempfile.TemporaryDirectory() as folder:
        run(replace(recipe, seeds=WARM_UP), Path(folder) / "warm-up", context)
        result: dict[str, Any] = {"jobs": jobs}
        for name in ("sweep", "again"):
            trained[:] = [0.0, 0.0]
            began = time.process_time(), time.perf_counter()
            rows = run(replace(recipe, seeds=jobs), Path(folder) / "sweep", context)
            spent = time.process_time() - began[0] - trained[0], time.perf_counter() - began[1] - trained[1]
            assert len(rows) == jobs
            cpu, wall = (round(1000 * seconds / jobs, 2) for seconds in spent)
            result[name] = {"cpu_ms_per_job": cpu, "wall_ms_per_job": wall}
            if name == "sweep":
                result["training_cpu_ms_per_job"] = round(1000 * trained[0] / jobs, 2)
    return result


if __name__ == "__main__":
    main()
