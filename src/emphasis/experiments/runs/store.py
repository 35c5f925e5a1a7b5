"""The folder of a recipe's runs. Every file appears whole or not at all.

    run.json            the recipe, as last asked for
    cells/JOB.jsonl     one line per network that JOB trained; its presence says that JOB is finished
    cells/JOB.npz       their probabilities
    cells/JOB.pt, .lock the checkpoint of a job under way, and who works on it
    results.jsonl       the lines of the recipe's cells, in its order
    table.csv, ranks.csv, *.png, report.html, suspects/

A line is found by its cell's key, a digest of its settings. So a finished cell is never trained
again, whatever else a recipe asks for later, and lines of other settings may lie beside it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from emphasis.datasets.archives import read_npz
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import ERROR_LOG, EmphasisError, EmphasisValueError
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.load import recipe_from_tables, recipe_to_tables
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.recipes.settings import Cell, digest
from emphasis.experiments.runs.rows import fault_of
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.json_files import JSONFileError, read_json, read_json_lines

Row = dict[str, Any]

RUN, CELLS, RESULTS, TABLE, REPORT = "run.json", "cells", "results.jsonl", "table.csv", "report.html"
_LARGEST = 64 << 30  # bytes of what a job keeps of its networks
SEARCH, RANKS, SUSPECTS = "search.json", "ranks.csv", "suspects"


class FolderError(EmphasisError):
    """A folder that this run must not write to, or cannot read; the message names the cure."""


def claim(folder: Path, recipe: Recipe, force: bool = False) -> None:
    """Make `folder` this recipe's; `force` removes what an earlier run left there.

    Raises:
        FolderError: It holds another recipe's runs, or something else.
    """
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()  # looked at once: others may start
    if RUN in names:
        other = None
        with contextlib.suppress(JSONFileError, FileNotFoundError):  # a damaged one counts as another's
            other = read_json(folder / RUN).get("name")
        if force:
            clear(folder)
        elif other != recipe.name:
            raise FolderError(f"{folder} holds runs of {other!r}; choose another --out, or --force to replace them")
    elif not names <= {CELLS, f".{Path(RUN).stem}.partial.json"}:
        raise FolderError(f"{folder} is not empty and holds no run of emphasis; choose another --out")
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    with writing(folder):
        write_text(folder / RUN, json.dumps(recipe_to_tables(recipe), indent=1, ensure_ascii=False) + "\n")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Hold the lock of the files that are not one job's: two processes must not write the same one at once."""
    if not (folder / CELLS).is_dir():  # results kept apart from their run
        yield
        return
    lock = FileLock(folder / CELLS / ".lock")
    with naming_refusals("write to", folder):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def clear(folder: Path) -> None:
    """Remove all that a run writes from `folder`."""
    for inner in (CELLS, SUSPECTS):
        shutil.rmtree(folder / inner, ignore_errors=True)
    for path in folder.iterdir():
        if path.name in (RUN, RESULTS, TABLE, RANKS, REPORT, SEARCH, ERROR_LOG) or path.suffix == ".png":
            path.unlink()


def stored_recipe(folder: Path) -> Recipe:
    """Return the recipe whose runs `folder` holds; code that it names stays a name.

    Raises:
        FolderError: There is none, or it is damaged.
        RecipeError: It says something that cannot be, or is of another version of the package.
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


def write_job(folder: Path, job: str, rows: Sequence[Row], arrays: dict[str, NDArray[Any]]) -> None:
    """Write what a job found; the rows come last, since their presence says that it is finished."""
    with replacing(folder / CELLS / f"{job}.npz") as partial:
        np.savez_compressed(partial, **arrays)  # type: ignore[arg-type]
    write_text(folder / CELLS / f"{job}.jsonl", lines(rows))
    (folder / CELLS / f"{job}.pt").unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left of jobs that are finished: a checkpoint, whole or half written, or the job's lock.

    Who holds such a lock looks whether the job is finished before it does anything, and so does who makes it anew.
    """
    for path in (folder / CELLS).glob("[!.]*.jsonl"):
        for name in (f"{path.stem}.pt", f".{path.stem}.partial.pt", f"{path.stem}.lock"):
            path.with_name(name).unlink(missing_ok=True)


def lines(rows: Iterable[Row]) -> str:
    """Return rows as JSON Lines, NaN as null."""
    return "".join(json.dumps(without_nan(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def finished_rows(folder: Path) -> dict[str, Row]:
    """Return every line of every finished job, by its cell's key."""
    found: dict[str, Row] = {}
    for path in sorted((folder / CELLS).glob("[!.]*.jsonl")):
        for row in read_rows(path):
            found[row["key"]] = {**row, "job": path.stem}
    return found


def rows_of_recipe(folder: Path, recipe: Recipe) -> list[Row]:
    """Return the lines of the recipe's cells that are finished, in the recipe's order and with its names."""
    found = finished_rows(folder)
    return [
        {**found[cell.key], "condition": cell.condition, "method": cell.method, "group": cell.group}
        for cell in recipe.cells()
        if cell.key in found
    ]


def write_results(folder: Path, rows: Sequence[Row]) -> None:
    """Write the lines of the recipe's cells as one file."""
    with writing(folder):
        write_text(folder / RESULTS, lines(rows))


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON Lines file; null is NaN in a curve's numbers, and None elsewhere.

    Raises:
        FolderError: It is damaged, or a row lacks what readers need; the message names file and line.
    """
    rows = []
    try:
        for where, row in read_json_lines(path):
            if fault := fault_of(row):
                raise FolderError(f"{where}: {fault}; delete the file and run again")
            rows.append(row)
    except (JSONFileError, FileNotFoundError) as error:
        raise FolderError(f"{error}; delete the file and run again") from error
    return rows


def probabilities(folder: Path, row: Row) -> dict[str, NDArray[Any]]:
    """Return `p` (n,) at the end, `noisy` (n,), `index` (n,) of one network, and its record if it has one.

    The record, of each evaluation: `trace` (E, n), the p of each label, and `predicted` (E, n), the class preferred.

    Raises:
        FolderError: They are not there, or damaged.
    """
    path = folder / CELLS / f"{row['job']}.npz"
    try:
        arrays = read_npz(path, _LARGEST)
        network, seed = arrays["keys"].tolist().index(row["key"]), arrays["seeds"].tolist().index(row["seed"])
        found = {name: arrays[name][seed] for name in ("noisy", "index")} | {"p": arrays["p"][network]}
        found |= {name: arrays[name][:, network] for name in ("trace", "predicted") if name in arrays}
        _check_arrays(found)
    except (DamagedFileError, OSError, ValueError, LookupError, AttributeError) as error:
        raise FolderError(f"{path} cannot be read ({error}); delete {row['job']}.* and run again") from error
    return found


def _check_arrays(found: dict[str, NDArray[Any]]) -> None:
    """Raise ValueError unless the arrays are of one network, one value for each of n examples."""
    kinds = {"noisy": "b", "index": "iu", "p": "f", "trace": "f", "predicted": "iu"}
    n = len(found["p"])
    for name, values in found.items():
        looks = values.shape[:1] if name in ("trace", "predicted") else ()
        if values.dtype.kind not in kinds[name] or values.shape != (*looks, n):
            raise EmphasisValueError(f"{name} is of shape {values.shape} and type {values.dtype}")
    if "trace" in found and found["trace"].shape != found["predicted"].shape:
        raise EmphasisValueError(f"{len(found['trace'])} looks, but {len(found['predicted'])} of predictions")


def without_nan(value: Any) -> Any:
    """Return `value` with None for NaN and infinity, which JSON has no words for."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
