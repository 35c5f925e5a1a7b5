"""Which labels look wrong: one network is trained on all of them, and what it made of each is ranked.

The folder of an audit is that of a run of one network, and besides

    suspects.csv         one line per example, from the most to the least suspicious
    audit.json           what was found, in numbers
    audit.html           the page
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from emphasis.datasets import ImageFiles, Split
from emphasis.datasets.download import Progress, silent
from emphasis.datasets.errors import DataNotFoundError
from emphasis.diagnostics.suspects import Suspects, find_suspects, found_and_right, margin_of
from emphasis.diagnostics.trace import ABOUT, read_trace
from emphasis.experiments.build import RecipeError
from emphasis.experiments.data import corrupted, forget_loaded, load_split
from emphasis.experiments.jobs import Say
from emphasis.experiments.reading import load_recipe, recipe_from_tables, recipe_names
from emphasis.experiments.recipe import Method, Recipe, Table
from emphasis.experiments.runner import JobProgress, run
from emphasis.experiments.settings import Cell
from emphasis.experiments.store import RUN, FolderError, finished_rows, probabilities, stored_recipe, without_nan
from emphasis.files import write_text
from emphasis.training.settings import Execution
from emphasis.weighting import DM, Weighting, from_dict

SUSPECTS, AUDIT, PAGE = "suspects.csv", "audit.json", "audit.html"
DEFAULT = DM(lam=0.5, beta=8)
_METHOD = "audit"
_LOOKS = 20
_EPOCHS, _LEAST, _MOST = {"vectors": 60, "images": 30}, {"vectors": 300, "images": 1000}, 20_000  # the latter: steps
_TO_BE_CHOSEN = 1  # steps of a recipe whose length follows from the data
_TABLE: Table = {
    "network": {"name": "mlp", "hidden": [64, 64]},
    "solver": {"batch_size": 128, "learning_rate": 0.1, "momentum": 0.9},
}
_IMAGES: Table = {
    "network": {"name": "small-cnn", "widths": [16, 32, 64]},
    "solver": {"batch_size": 64, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 1e-4},
}


@dataclass(frozen=True, eq=False)
class Audit:
    """What an audit has found; n examples, E looks at them during training.

    Attributes:
        title: What was audited.
        labels: (n,) the labels as given.
        class_names: C names.
        rows: (n,) which of the data's examples these are.
        suspects: The ranking.
        at: (E,) when the looks were.
        unit: What `at` counts.
        margins: (E, n).
        weighting: Trained with; None if it is not known.
        wrong: (n,) which labels are wrong, if that is known.
        sources: n texts, where the examples come from; or none.
        pictures: (n, ...) uint8 images or vectors that are pictures; None if they are none.
        about: How it was made.
    """

    title: str
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    rows: NDArray[np.int64]
    suspects: Suspects
    at: Sequence[int]
    unit: str
    margins: Sequence[NDArray[Any]]
    weighting: Weighting | None
    wrong: NDArray[np.bool_] | None = None
    sources: tuple[str, ...] = ()
    pictures: NDArray[Any] | None = None
    about: str = ""

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """What was found in numbers; those that need to know what is wrong only where it is known."""
        found: dict[str, Any] = {
            "examples": len(self.labels),
            "classes": len(self.class_names),
            "suspects": int(self.suspects.suspect.sum()),
            "estimated_noise_rate": self.suspects.noise_rate,
        }
        if self.wrong is not None:
            precision, recall = found_and_right(self.suspects.suspect, self.wrong)
            both = 0 < self.wrong.sum() < len(self.wrong)
            found |= {
                "true_noise_rate": float(self.wrong.mean()),
                "auroc": float(roc_auc_score(self.wrong, -self.suspects.score)) if both else math.nan,
                "average_precision": (
                    float(average_precision_score(self.wrong, -self.suspects.score)) if both else math.nan
                ),
                "precision": float(precision),
                "recall": float(recall),
            }
        return found

    def name_of(self, label: int) -> str:
        """Return a class's name."""
        return self.class_names[label]


def recipe_of_table(file: Path, label: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains on every row of a table; `options` are of the data set "table"."""
    dataset = {"name": "table", "file": str(file.resolve()), "label": label, "test_share": 0.0, **options}
    return _recipe(f"{file.stem}-{label}", f"The column {label} of {file.name}", {"dataset": dataset, **_TABLE})


def recipe_of_images(folder: Path, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe that trains on a folder of images, its train/ alone if it has one."""
    dataset = {"name": "image-folder", "folder": str(folder.resolve()), "test_share": 0.0, **options}
    return _recipe(folder.resolve().name, f"The images in {folder}", {"dataset": dataset, **_IMAGES})


def _recipe(name: str, title: str, parts: Table) -> Recipe:
    parts = {**parts, "solver": {**parts["solver"], "iterations": _TO_BE_CHOSEN}}
    return recipe_from_tables({
        "name": name, "title": title, "question": "Which labels look wrong?", "source": "", "cost": "", "choices": "",
        "baseline": "CCE", "methods": [{"name": "CCE", "weighting": {"family": "CCE"}}], **parts,
    })  # fmt: skip


def recipe_of(what: str, options: Mapping[str, Any]) -> Recipe:
    """Return the recipe whose data an audit of `what` takes.

    Args:
        what: A recipe's name or .toml file, a table, or a folder of images.
        options: Of the data; a table's must have "label".

    Raises:
        RecipeError: It is none of these.
    """
    path = Path(what)
    if what.endswith(".toml") or what in recipe_names():
        if options:
            raise RecipeError(f"--{next(iter(options)).replace('_', '-')} is for a table or a folder of images; "
                              f"{what} says itself which data it takes")  # fmt: skip
        return load_recipe(what)
    if path.is_dir():
        if "label" in options:
            raise RecipeError(f"--label is for a table; in {what} the names of the folders are the labels")
        return recipe_of_images(path, options)
    if path.suffix.lower() in (".csv", ".parquet", ".pq", ".tsv") or path.is_file():
        if not path.is_file():
            raise DataNotFoundError(f"there is no table {what}")
        if "label" not in options:
            raise RecipeError(f"name the column of {what} that holds the labels: --label COLUMN")
        return recipe_of_table(path, options["label"], {k: v for k, v in options.items() if k != "label"})
    raise RecipeError(f"{what!r} is no recipe, table or folder; recipes are {', '.join(recipe_names())}")


def prepared(
    recipe: Recipe, weighting: Weighting, *, condition: str = "", noise_rate: float | None = None, seeds: int = 1,
    iterations: int | None = None, root: Path | None = None, loading: Progress = silent,
) -> tuple[Recipe, Split]:  # fmt: skip
    """Return the recipe of the one network that an audit trains, and its data.

    Args:
        recipe: Its data, noise, network and solver are taken; of a recipe with several conditions, one's.
        weighting: To train with, with the integral normalisation.
        condition: Which column; "": the first.
        noise_rate: Put symmetric noise of this rate on the labels, to see what is found of it; None: as the recipe.
        seeds: Networks, each with noise of its own if there is noise; `audit` looks at the first.
        iterations: Steps; None: the recipe's, and for a table or a folder what suits the number of examples.
        root: Where data sets are.
        loading: Told how far the data is loaded.

    Raises:
        RecipeError, DataError, ValueError: As `Recipe.cells` and `load_split`.
    """
    one = recipe.limited([condition or recipe.condition_names[0]])
    column = dataclasses.replace(one.conditions[0], seeds=0)
    method = Method(_METHOD, weighting=weighting.to_dict(), normalization="integral")
    one = dataclasses.replace(
        one, name=f"{recipe.name}-audit", conditions=(column,), methods=(method,), baseline=_METHOD, compare=(),
        paper={}, paper_spread={}, reported=(), scaled=None, seeds=seeds,
    )  # fmt: skip
    if noise_rate is not None:
        kind = "symmetric" if noise_rate else "none"
        one = one.changed({"noise.kind": kind, "noise.rate": noise_rate, "noise.ratio": 0.0, "noise.labels": ""})
    first = next(one.cells())
    forget_loaded()
    split = load_split(first.dataset, first.noise, root, loading)
    if isinstance(split.train_inputs, ImageFiles) and split.train_inputs.skip_broken:
        raise RecipeError('an audit ranks every image; use broken = "stop", and mend or remove what cannot be decoded')
    steps = iterations or first.solver.iterations
    inputs = "images" if split.train_inputs.ndim == 4 else "vectors"
    if first.solver.iterations == _TO_BE_CHOSEN:  # a table or a folder, perhaps of few examples
        batch = max(1, min(first.solver.batch_size, len(split.train_labels) // 4))
        one = one.changed({"solver.batch_size": batch})
        if iterations is None:
            steps = min(max(_LEAST[inputs], _EPOCHS[inputs] * -(-len(split.train_labels) // batch)), _MOST)
    one = one.changed(
        {
            "solver.iterations": steps,
            "evaluation.every": max(1, steps // _LOOKS),
            "evaluation.trace": True,
            "evaluation.train_size": 0,
        }
    )
    if inputs == "images" and first.solver.schedule.policy == "constant" and steps >= 4:
        falls = {"policy": "step", "at": [steps // 2, 3 * steps // 4], "factor": 0.1}
        one = one.changed({f"solver.schedule.{key}": value for key, value in falls.items()})
    return dataclasses.replace(one, source=_fingerprint(split)), split


def _fingerprint(split: Split) -> str:
    """Return a digest of the data, so that an audit of a file that has changed is not taken for finished."""
    inputs = split.train_inputs
    digest = hashlib.sha256(inputs.stamp() if isinstance(inputs, ImageFiles) else inputs.tobytes())
    digest.update(split.train_labels.tobytes())
    for name, labels in split.human_labels.items():
        digest.update(name.encode() + labels.tobytes())
    return f"data {digest.hexdigest()[:16]}"


def audit(
    recipe: Recipe, split: Split, folder: Path, *, root: Path | None = None, execution: Execution | None = None,
    force: bool = False, progress: JobProgress = lambda _job, _done, _total: None, say: Say = lambda _: None,
) -> Audit:  # fmt: skip
    """Train the network of `prepared`, unless `folder` holds it already, and rank the labels.

    Raises:
        FolderError: The folder holds something else.
        ValueError: The network diverged.
    """
    if (folder / RUN).exists() and not force:
        earlier = stored_recipe(folder)
        if earlier.name == recipe.name and earlier.source != recipe.source:
            if _data_of(earlier) != _data_of(recipe):
                raise FolderError(f"{folder} holds an audit of other data or columns; choose another --out, or --force "
                                  "to replace it")  # fmt: skip
            say("the data has changed since the last audit: training anew")
            force = True
    run(recipe, folder, root=root, execution=execution, force=force, progress=progress, say=say)
    return read_audit(recipe, split, folder)


def _data_of(recipe: Recipe) -> Any:
    cell = next(recipe.cells())
    return cell.dataset, cell.noise


def read_audit(recipe: Recipe, split: Split, folder: Path, seed: int = 0) -> Audit:
    """Rank the labels by one of the networks in `folder`.

    Raises:
        ValueError: It diverged.
    """
    cell = next(cell for cell in recipe.cells() if cell.seed == seed)
    row = finished_rows(folder)[cell.key]
    if row["diverged_at"] is not None:
        raise ValueError(f"the network diverged at iteration {row['diverged_at']:,}: use another --weighting, or a "
                         "smaller --set solver.learning_rate")  # fmt: skip
    kept = probabilities(folder, row)
    rows = np.asarray(kept["index"], dtype=np.int64)
    labels = _labels(split, cell, rows, kept["noisy"])
    margins = [margin_of(p) for p in kept["trace"][1:]]  # the first look is at the untrained network
    noisy = np.asarray(kept["noisy"], dtype=bool)
    return Audit(
        title=recipe.title,
        labels=labels,
        class_names=split.class_names or tuple(str(c) for c in range(split.num_classes)),
        rows=rows,
        suspects=find_suspects(margins, list(kept["predicted"][1:]), labels, split.num_classes),
        at=row["curves"]["iteration"][1:],
        unit="iteration",
        margins=margins,
        weighting=getattr(cell.objective, "weighting", None),
        wrong=noisy if cell.noise.kind not in ("none", "pn_ratio", "long_tail") else None,
        sources=tuple(split.sources[r] for r in rows) if split.sources else (),
        pictures=_pictures(split, rows),
        about=_how(cell, row, len(margins)),
    )  # fmt: skip


def _how(cell: Cell, row: Mapping[str, Any], looks: int) -> str:
    return (
        f"Network {cell.network.name}, {cell.solver.iterations:,} steps of {cell.solver.batch_size} examples, "
        f"looked at {looks} times; seed {cell.seed}; {row['seconds']:.0f} s on {row['device']}; revision "
        f"{row['revision'] or 'unknown'}."
    )


def _labels(split: Split, cell: Cell, rows: NDArray[np.int64], noisy: NDArray[Any]) -> NDArray[np.int64]:
    """Return the labels trained on, noise of the cell's seed included."""
    found = corrupted(split, cell.noise, cell.seed)
    assert np.array_equal(found.index, rows)
    assert np.array_equal(found.labels != split.train_labels[rows], noisy)
    return found.labels


def _pictures(split: Split, rows: NDArray[np.int64]) -> NDArray[Any] | None:
    if split.train_inputs.dtype == np.uint8:
        return np.asarray(split.train_inputs[rows])
    if split.picture is not None:
        grey = (255.0 * (1.0 - np.asarray(split.train_inputs[rows]))).clip(0, 255).astype(np.uint8)
        return np.asarray(grey.reshape(-1, 1, *split.picture))
    return None


def audit_trace(folder: Path) -> Audit:
    """Rank the labels of a trace that a loop of one's own has recorded.

    Raises:
        TraceError: There is none, or it is damaged.
        ValueError: Some examples were never seen.
    """
    trace = read_trace(folder)
    labels = np.asarray(trace.labels)
    rows = np.flatnonzero(labels != trace.about["ignore_index"])
    margins = [np.asarray(row)[rows] for row in trace.margins]
    said = trace.about["weighting"]
    return Audit(
        title=f"The trace in {folder}",
        labels=labels[rows],
        class_names=tuple(str(c) for c in range(trace.about["num_classes"])),
        rows=rows,
        suspects=find_suspects(
            margins, [np.asarray(row)[rows] for row in trace.predicted], labels[rows], trace.about["num_classes"]
        ),
        at=range(1, len(margins) + 1),
        unit="row of the trace",
        margins=margins,
        weighting=from_dict(said) if isinstance(said, dict) else None,
        about=f"A trace of {len(margins)} rows, {len(trace.steps):,} steps"
        + (
            f"; {len(labels) - len(rows):,} of {len(labels):,} examples were ignored or never recorded."
            if len(rows) < len(labels)
            else "."
        ),
    )


def is_trace(folder: Path) -> bool:
    """Return whether `folder` holds a trace."""
    return (folder / ABOUT).is_file()


def write_audit(found: Audit, folder: Path, page: Callable[[Audit], str]) -> None:
    """Write suspects.csv, audit.json and the page into `folder`.

    Raises:
        FolderError: It cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / SUSPECTS, suspects_csv(found))
        write_text(folder / AUDIT, json.dumps(without_nan(found.numbers), indent=1) + "\n")
        write_text(folder / PAGE, page(found))
    except OSError as error:
        raise FolderError(f"cannot write to {folder}: {error.strerror}") from error


def suspects_csv(found: Audit) -> str:
    """Return one line per example, ranked: row, source, given and suggested label, score, sample weight, verdict."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    sources = ["source"] if found.sources else []
    writer.writerow(["rank", "row", *sources, "given", "suggested", "suspect", "cleaned", "score", "sample_weight"])
    s = found.suspects
    for rank, place in enumerate(s.order, 1):
        given, suggested = found.name_of(found.labels[place]), found.name_of(s.suggested[place])
        suspect = bool(s.suspect[place])
        source = [found.sources[place]] if found.sources else []
        writer.writerow([rank, int(found.rows[place]), *source, given, suggested, int(suspect),
                         suggested if suspect else given, f"{s.score[place]:.4f}",
                         f"{s.sample_weight[place]:.4f}"])  # fmt: skip
    return text.getvalue()
