"""Boosted trees on a Dask cluster: time beside the library's own objective, memory, equality, and a killed worker.

    python benchmarks/dask_tables.py                      # 1,000,000 rows (scaled)
    python benchmarks/dask_tables.py --rows 10000000 --rounds 5
    python benchmarks/dask_tables.py --rows 200000 --only equality time

Writes a table of 20 columns and 10 classes, 20 % of the labels wrong, as Parquet files, and trains
EmphasisDaskXGBClassifier on two workers of one thread and 4 GiB each. Every column has 200 distinct values, fewer than
XGBoost has bins (256), so that the bins are the same on one worker and on two. Prints, and writes to
results/dask_tables.json:

- the time of a fit by the clock and by the processor time of both workers, for the weightings and for xgboost.dask's
  own objective, in turn in the same run, and their ratio: of the whole fit, and of its rounds without what precedes
  them (bins, which cost the same with every objective, and which few rounds would let the ratio hide behind);
- the largest memory of a worker for the same rows in few and in many partitions, each in fresh workers;
- the largest difference to the probabilities of EmphasisXGBClassifier on the first partition's rows;
- whether a fit whose worker is killed halfway through its rounds ends with the same model;
- of whole fits (`emphasis fit --engine dask`: 2 folds and the final model) the time, the largest memory of workers and
  client in few and in many partitions, and whether one whose worker is killed in the second fold ends with the same
  model.

The parts that the file holds already for these numbers of rows and rounds are not measured again.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import signal
import statistics
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import xgboost
from distributed import Client, LocalCluster, wait

from emphasis import CCE, GCE, Relative, Weighting
from emphasis.boosting import EmphasisXGBClassifier
from emphasis.boosting.dask import EmphasisDaskXGBClassifier
from emphasis.experiments.runs.provenance import revision
from emphasis.tabular.on_dask import fit_parts

OUT = Path(__file__).parents[1] / "results" / "dask_tables.json"
COLUMNS, CLASSES, VALUES = 20, 10, 200
NAMES = [f"x{number}" for number in range(COLUMNS)]
SETTINGS: dict[str, Any] = {"max_depth": 6, "learning_rate": 0.3, "tree_method": "hist"}
PARTS = ["equality", "memory", "fit", "time"]
METHODS: dict[str, Weighting] = {"own objective": CCE(), "GCE 0.7": GCE(0.7), "Relative": Relative()}


def write_part(path: Path, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = rng.integers(0, VALUES, (rows, COLUMNS)).astype(np.float32)
    centers = np.random.default_rng(0).normal(size=(COLUMNS, CLASSES)) / VALUES
    scores = X @ centers + np.square(X / VALUES - 0.5) @ np.random.default_rng(1).normal(size=(COLUMNS, CLASSES)) * 4
    labels = (scores + rng.gumbel(size=scores.shape) * 0.3).argmax(1)
    wrong = rng.random(rows) < 0.2
    labels[wrong] = rng.integers(0, CLASSES, wrong.sum())
    pd.DataFrame(X, columns=NAMES).assign(y=labels).to_parquet(path, index=False)


@contextmanager
def cluster() -> Iterator[Client]:
    with (
        dask.config.set({"distributed.scheduler.no-workers-timeout": "30s"}),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="4GiB", dashboard_address="127.0.0.1:0") as local,
        Client(local) as client,
    ):
        yield client


def largest_memory() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB: Linux counts in KiB


class KillOnce(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    def __init__(self, marker: Path, rounds: int) -> None:
        self.marker, self.last = marker, (rounds - 1) // 2

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
        if epoch == self.last and xgboost.collective.get_rank() == 0 and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return False


class Rounds(xgboost.callback.TrainingCallback):  # type: ignore[misc]
    """Writes how long all rounds took by the clock, and the processor time of each worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_training(self, model: Any) -> Any:
        self.began = time.perf_counter(), time.process_time()
        return model

    def after_training(self, model: Any) -> Any:
        took = time.perf_counter() - self.began[0], time.process_time() - self.began[1]
        (self.folder / str(xgboost.collective.get_rank())).write_text(json.dumps(took))
        return model

    def taken(self) -> tuple[float, float]:
        of_workers = [json.loads(path.read_text()) for path in self.folder.iterdir()]
        return max(clock for clock, _ in of_workers), sum(processor for _, processor in of_workers)


def table(folder: Path) -> tuple[Any, Any]:
    files = sorted(folder.glob("*.parquet"))
    frame = dd.from_map(pd.read_parquet, files, meta=pd.read_parquet(files[0]).iloc[:0])  # a partition for each file
    return frame[NAMES], frame["y"]


def times(folder: Path, rounds: int, repeats: int) -> dict[str, Any]:
    """Fit with each objective in turn, on data that the workers hold."""
    kinds = ["seconds", "processor_seconds", "seconds_of_the_rounds", "processor_seconds_of_the_rounds"]
    taken: dict[str, dict[str, list[float]]] = {name: {kind: [] for kind in kinds} for name in METHODS}
    with cluster() as client:
        X, y = client.persist(table(folder))
        wait([X, y])
        EmphasisDaskXGBClassifier(weighting=CCE(), n_estimators=1).fit(X, y)  # imports
        for _ in range(repeats):
            for name, weighting in METHODS.items():
                with tempfile.TemporaryDirectory() as scratch:
                    clock = Rounds(Path(scratch))
                    model = EmphasisDaskXGBClassifier(weighting=weighting, callbacks=[clock], **given(rounds))
                    before, start = sum(client.run(time.process_time).values()), time.perf_counter()
                    model.fit(X, y)
                    fit = time.perf_counter() - start, sum(client.run(time.process_time).values()) - before
                    for kind, seconds in zip(kinds, [*fit, *clock.taken()], strict=True):
                        taken[name][kind].append(seconds)
                print(name, {kind: round(of_kind[-1], 2) for kind, of_kind in taken[name].items()}, flush=True)
    found: dict[str, Any] = {"repeats": repeats}
    for name, of_kinds in taken.items():
        found[name] = {kind: [round(seconds, 2) for seconds in of_kind] for kind, of_kind in of_kinds.items()}
        for kind, of_kind in of_kinds.items():
            ratios = np.divide(of_kind, taken["own objective"][kind])
            found[name][f"{kind}_times_own"] = round(statistics.median(ratios), 3)
    return found


def given(rounds: int) -> dict[str, Any]:
    return {"n_estimators": rounds, **SETTINGS}


def memory(folder: Path, rounds: int) -> dict[str, Any]:
    with cluster() as client:
        X, y = table(folder)
        client.run(largest_memory)
        start = time.perf_counter()
        EmphasisDaskXGBClassifier(weighting=GCE(0.7), **given(rounds)).fit(X, y)
        seconds = time.perf_counter() - start
        peaks = [round(peak, 3) for peak in client.run(largest_memory).values()]
    return {"partitions": X.npartitions, "largest_gib_of_each_worker": peaks, "seconds": round(seconds, 1)}


def probabilities(model: Any, frame: Any) -> Any:
    """Return what the model predicts in one process, loaded from its file."""
    return xgboost.Booster(model_file=model.get_booster().save_raw()).predict(xgboost.DMatrix(frame[NAMES]))


def equality_and_kill(folder: Path, rounds: int) -> dict[str, Any]:
    first = sorted(folder.glob("*.parquet"))[0]
    frame = pd.read_parquet(first)
    found: dict[str, Any] = {"rows": len(frame), "largest_difference": {}}
    with cluster(), tempfile.TemporaryDirectory() as scratch:
        parts = dd.from_pandas(frame, npartitions=4)
        for name, weighting in METHODS.items():
            local = EmphasisXGBClassifier(weighting=weighting, n_jobs=1, **given(rounds)).fit(frame[NAMES], frame["y"])
            model = EmphasisDaskXGBClassifier(weighting=weighting, **given(rounds)).fit(parts[NAMES], parts["y"])
            p = probabilities(model, frame)
            found["largest_difference"][name] = float(np.abs(p - local.predict_proba(frame[NAMES])).max())
        X, y = table(folder)
        whole = EmphasisDaskXGBClassifier(weighting=GCE(0.7), **given(rounds)).fit(X, y)
        expected = probabilities(whole, frame)
        callbacks, start = [KillOnce(Path(scratch) / "killed", rounds)], time.perf_counter()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = EmphasisDaskXGBClassifier(weighting=GCE(0.7), callbacks=callbacks, **given(rounds)).fit(X, y)
        seconds = time.perf_counter() - start
        p = probabilities(model, frame)
    found["killed"] = {
        "warnings": sum("starts again on the other workers" in str(warning.message) for warning in caught),
        "seconds": round(seconds, 1),
        "largest_difference": float(np.abs(p - expected).max()),
    }
    return found


def whole_fit(files: Path, out: Path, rounds: int, kill: bool) -> dict[str, Any]:
    """Fit the files in a process of its own, and kill a worker in the second fold if asked."""
    killed: list[int] = []

    with cluster() as client:

        def progress(task: str, *_: Any) -> None:
            if kill and not killed and task.startswith("fold 2"):
                killed.append(sorted(client.run(os.getpid).values())[0])
                threading.Timer(3.0, os.kill, (killed[0], signal.SIGKILL)).start()

        client.run(largest_memory)
        start = time.perf_counter()
        paths = sorted(files.glob("*.parquet"))
        fit = fit_parts(
            paths,
            label="y",
            folder=out,
            client=client,
            compare=False,
            folds=2,
            settings=given(rounds),
            progress=progress,
        )
        seconds = time.perf_counter() - start
        peaks = [round(peak, 3) for peak in client.run(largest_memory).values()]
        p = fit.model.predict_proba(pd.read_parquet(paths[0])[NAMES].head(20_000))
        np.save(out.with_suffix(".npy"), p)
    return {
        "partitions": len(paths),
        "killed_workers": len(killed),
        "seconds": round(seconds, 1),
        "largest_gib_of_each_worker": peaks,
        "largest_gib_of_the_client": round(largest_memory(), 3),
        "accuracy": fit.scores["methods"][repr(Relative())]["accuracy"]["value"],
    }


def whole_fits(folders: list[Path], rounds: int) -> dict[str, Any]:
    cases = [(folders[0], False), (folders[1], False), (folders[0], True)]
    fits, predicted = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for number, (folder, kill) in enumerate(cases):
            out = Path(scratch) / str(number)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                fits.append(process.submit(whole_fit, folder, out, rounds, kill).result())
            print(fits[-1], flush=True)
            predicted.append(np.load(out.with_suffix(".npy")))
    return {"fits": fits, "largest_difference_of_the_killed": float(np.abs(predicted[2] - predicted[0]).max())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=20, help="of boosting (default: 20)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    report: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    about: dict[str, Any] = {
        "columns": COLUMNS,
        "classes": CLASSES,
        "distinct_values_of_a_column": VALUES,
        "settings": SETTINGS,
        "workers": "2 of 1 thread and 4 GiB",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {"xgboost": xgboost.__version__, "dask": dask.__version__},
    }
    if {name: report.get(name) for name in about} != about:
        report = about
    result = report.setdefault(f"{options.rows} rows, {options.rounds} rounds", {"scaled": options.rows < 10_000_000})
    with tempfile.TemporaryDirectory() as scratch:
        folders = []
        for partitions in (10, 50):
            folder = Path(scratch) / str(partitions)
            folder.mkdir()
            for part in range(partitions):
                write_part(folder / f"{part:03}.parquet", options.rows // partitions, part)
            folders.append(folder)
        measures = {
            "equality": lambda: equality_and_kill(folders[0], options.rounds),
            "memory": lambda: [memory(folder, options.rounds) for folder in folders],
            "fit": lambda: whole_fits(folders, options.rounds),
            "time": lambda: times(folders[1], options.rounds, options.repeats),
        }
        for name in options.only:
            if name in result:
                continue
            load = round(os.getloadavg()[0], 1)
            measured = measures[name]()
            result[name] = {"revision": revision(), "load_before": load, "load_after": round(os.getloadavg()[0], 1)}
            result[name]["measured"] = measured
            print(json.dumps({name: result[name]}, indent=1), flush=True)
            options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
