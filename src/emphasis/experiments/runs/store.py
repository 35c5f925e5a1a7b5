"""The folder of a recipe's runs. Every file is written completely or not at all.

    run.json            the recipe, as it was last asked for
    cells/JOB.jsonl     one line per network of JOB; the file exists if and only if JOB is finished
    cells/JOB.npz       the probabilities of these networks
    cells/JOB.pt, .lock checkpoint of an unfinished job, and lock of the process that trains it
    results.jsonl       the lines of the recipe's cells, in the order of the recipe
    table.csv, ranks.csv, curves.svg, ..., report.html, suspects/

A line is identified by the key of its cell, a digest of the cell's settings. A finished cell is therefore never
trained again, whatever else a recipe asks for later, and the folder may hold lines of other settings as well.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import BaseFileLock, FileLock, SoftFileLease
from numpy.typing import NDArray

from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import ERROR_LOG, EmphasisError, EmphasisValueError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import recipe_from_tables, recipe_to_tables
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.recipes.settings import Cell, digest
from emphasis.experiments.runs.rows import find_fault
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import JSONFileError, read_json, read_json_lines

Row = dict[str, Any]
Locks = Literal["flock", "lease"]

RUN, CELLS, RESULTS, TABLE, REPORT = "run.json", "cells", "results.jsonl", "table.csv", "report.html"
SEARCH, RANKS, SUSPECTS, TRACKED = "search.json", "ranks.csv", "suspects", "tracked.jsonl"
JOURNAL = "optuna.journal"
FIGURE_FILE = re.compile(r"(curves|fits|probabilities|emphasis|modes|ranks)(-\d+)?\.(svg|png)")
"""Names of the figures of a report; those of earlier versions were PNG files."""

_LEASES = ".leases"  # in `CELLS`: the locks of this folder are leases
LEASE_SECONDS = 30.0
_MAX_BYTES = 64 << 30  # of the arrays of one job
EXAMPLE_ARRAYS = {"top_classes": "i", "top_probabilities": "f", "features": "f"}
"""Arrays (n, ...) of the examples of a job of one network, and the kinds of their types."""


class FolderError(EmphasisError):
    """A folder that a run must not write to, or that cannot be read; the message says what to do."""


def acquire(folder: Path, recipe: Recipe, force: bool = False, locks: Locks = "flock") -> None:
    """Reserve `folder` for the runs of a recipe, and write its run.json.

    Args:
        folder: The folder; created if it does not exist.
        recipe: The recipe.
        force: Whether earlier runs in the folder are removed.
        locks: How this and all other processes lock jobs in the folder, see `RunContext`.

    Raises:
        FolderError: If the folder holds runs of another recipe, or other files.
    """
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()  # once: other processes may start
    if RUN in names:
        other = None
        with contextlib.suppress(JSONFileError, FileNotFoundError):  # a damaged file counts as another recipe's
            other = read_json(folder / RUN).get("name")
        if force:
            clear(folder)
        elif other != recipe.name:
            raise FolderError(
                f"{folder} holds runs of {other!r}; use another folder (--out), or replace them (--force, force=True)"
            )
    elif not names <= {CELLS, f".{Path(RUN).stem}.partial.json"}:
        raise FolderError(f"{folder} is not empty and holds no run of emphasis; use another folder (--out)")
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    if locks == "lease":
        (folder / CELLS / _LEASES).touch()
    with writing(folder):
        write_text(folder / RUN, json.dumps(recipe_to_tables(recipe), indent=1, ensure_ascii=False) + "\n")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of the files that belong to no single job, so that two processes do not write one at once."""
    if not (folder / CELLS).is_dir():  # results that were copied without their cells
        yield
        return
    lock = make_lock(folder, "")
    with naming_refusals("write to", folder):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_lock(folder: Path, name: str) -> BaseFileLock:
    """Return the lock of a job, or of the folder's other files if `name` is empty. It is not acquired yet.

    The system releases a lock of `flock` when its owner dies, for whatever reason. A lease, which its owner renews,
    needs nothing of the file system but files that can be created once; the lease of a dead owner expires.
    """
    path = folder / CELLS / f"{name}.lock"
    return _make_lease(path.absolute(), LEASE_SECONDS) if (folder / CELLS / _LEASES).exists() else FileLock(path)


@functools.cache  # a lease expires for the object that has seen it unchanged for long enough
def _make_lease(path: Path, seconds: float) -> SoftFileLease:
    return SoftFileLease(path, lease_duration=seconds)


def clear(folder: Path) -> None:
    """Remove everything that a run writes from `folder`."""
    for name in (CELLS, SUSPECTS):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in folder.iterdir():
        own_files = (RUN, RESULTS, TABLE, RANKS, REPORT, SEARCH, TRACKED, JOURNAL, ERROR_LOG)
        if path.name in own_files or FIGURE_FILE.fullmatch(path.name):
            path.unlink()


def stored_recipe(folder: Path) -> Recipe:
    """Return the recipe whose runs `folder` holds. Code that it refers to is not imported.

    Raises:
        FolderError: If there is no run.json, or it is damaged.
        RecipeError: If the recipe is not valid, for instance because another version of the package wrote it.
    """
    path = folder / RUN
    try:
        tables = read_json(path)
    except FileNotFoundError:
        raise FolderError(f"{folder} holds no run of emphasis ({RUN} is missing)") from None
    except JSONFileError as error:
        raise FolderError(str(error)) from error
    try:
        return recipe_from_tables(tables, str(path))
    except RecipeError as error:
        raise RecipeError(f"{error}; if a later version of emphasis wrote the file, update") from error


def job_name(cells: Iterable[Cell]) -> str:
    """Return the name of the job that trains these cells."""
    return digest(sorted(cell.key for cell in cells))


def is_finished(folder: Path, job: str) -> bool:
    """Return whether a job is finished, by its own file alone: the number of other jobs does not matter.

    Raises:
        FolderError: If the file is damaged.
    """
    path = folder / CELLS / f"{job}.jsonl"
    return path.exists() and bool(read_rows(path))


def packed(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the content of the file of a job's arrays."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def write_job(folder: Path, job: str, rows: Sequence[Row], arrays: dict[str, NDArray[Any]] | bytes) -> None:
    """Write the results of a job, the rows last, since their presence marks it as finished.

    Args:
        folder: Folder of the run.
        job: Name of the job.
        rows: One line per network.
        arrays: The arrays, or what `packed` made of them in a worker.
    """
    content = arrays if isinstance(arrays, bytes) else packed(arrays)
    with replacing(folder / CELLS / f"{job}.npz") as partial:
        partial.write_bytes(content)
    write_text(folder / CELLS / f"{job}.jsonl", lines(rows))
    (folder / CELLS / f"{job}.pt").unlink(missing_ok=True)


def remove_stale_files(folder: Path) -> None:
    """Remove what killed processes left behind of finished jobs: checkpoints, complete or partial, and locks.

    Removing a lock is safe: whoever holds it, or creates it again, first checks whether the job is finished.
    """
    for path in (folder / CELLS).glob("[!.]*.jsonl"):
        for name in (f"{path.stem}.pt", f".{path.stem}.partial.pt", f"{path.stem}.lock"):
            path.with_name(name).unlink(missing_ok=True)


def lines(rows: Iterable[Row]) -> str:
    """Return rows as JSON Lines, with null for NaN."""
    return "".join(json.dumps(without_nan(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def finished_rows(folder: Path) -> dict[str, Row]:
    """Return every line of every finished job by the key of its cell.

    Raises:
        FolderError: If a line is damaged.
    """
    rows: dict[str, Row] = {}
    for path in sorted((folder / CELLS).glob("[!.]*.jsonl")):
        for row in read_rows(path):
            rows[row["key"]] = {**row, "job": path.stem}
    return rows


def rows_of_recipe(folder: Path, recipe: Recipe) -> list[Row]:
    """Return the lines of the recipe's finished cells, in the recipe's order and with its names."""
    rows = finished_rows(folder)
    return [
        {**rows[cell.key], "condition": cell.condition, "method": cell.method, "group": cell.group}
        for cell in recipe.cells()
        if cell.key in rows
    ]


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write the lines of the recipe's cells to one file."""
    with writing(folder):
        write_text(folder / RESULTS, lines(rows))


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file. In curves null stands for NaN, elsewhere for None.

    Raises:
        FolderError: If the file is damaged, or a row lacks a required field; the message names file and line.
    """
    rows = []
    try:
        for where, row in read_json_lines(path):
            if fault := find_fault(row):
                raise FolderError(f"{where}: {fault}; delete the file and run again")
            rows.append(row)
    except (JSONFileError, FileNotFoundError) as error:
        raise FolderError(f"{error}; delete the file and run again") from error
    return rows


def probabilities(folder: Path, row: Row) -> dict[str, NDArray[Any]]:
    """Return the arrays that a job stored of one network.

    Args:
        folder: Folder of the run.
        row: The network's line of results.

    Returns:
        `p` (n,), the final probability of each training label; `noisy` (n,), whether it is wrong; `index` (n,), the
        row of its example; `labels` (n,), the label, unless an earlier version stored the job; and if the recipe asks
        for a trace, for each of E evaluations, `trace` (E, n), the probability of each label, and `predicted` (E, n).
        Of a network that was trained alone with a trace also `top_classes` and `top_probabilities` (n, K) and
        `features` (n, D).

    Raises:
        FolderError: If the file is missing or damaged.
    """
    path = folder / CELLS / f"{row['job']}.npz"
    try:
        arrays = read_npz(path, _MAX_BYTES)
        network, seed = arrays["keys"].tolist().index(row["key"]), arrays["seeds"].tolist().index(row["seed"])
        of_network = {name: arrays[name][seed] for name in ("noisy", "index")} | {"p": arrays["p"][network]}
        of_network |= {name: arrays[name][seed] for name in ("labels",) if name in arrays}
        of_network |= {name: arrays[name][:, network] for name in ("trace", "predicted") if name in arrays}
        of_network |= {name: arrays[name] for name in EXAMPLE_ARRAYS if name in arrays}
        _check_arrays(of_network)
    except (DamagedFileError, OSError, ValueError, LookupError, AttributeError) as error:
        raise FolderError(f"{path} cannot be read ({error}); delete {row['job']}.* and run again") from error
    return of_network


def _check_arrays(arrays: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays belong to one network, with one value for each of n examples."""
    kinds = {"noisy": "b", "labels": "iu", "index": "iu", "p": "f", "trace": "f", "predicted": "iu", **EXAMPLE_ARRAYS}
    n = len(arrays["p"])
    for name, values in arrays.items():
        evaluations = values.shape[:1] if name in ("trace", "predicted") else ()
        width = values.shape[1:2] if name in EXAMPLE_ARRAYS else ()
        if values.dtype.kind not in kinds[name] or values.shape != (*evaluations, n, *width):
            raise EmphasisValueError(f"{name} is of shape {values.shape} and type {values.dtype}")
    if "trace" in arrays and arrays["trace"].shape != arrays["predicted"].shape:
        raise EmphasisValueError(f"{len(arrays['trace'])} evaluations, but {len(arrays['predicted'])} of predictions")


def without_nan(value: Any) -> Any:
    """Return plain data with None in place of NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
