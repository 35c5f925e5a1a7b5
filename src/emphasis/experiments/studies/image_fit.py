"""Fit images: cross-validate a network beside cross-entropy, train it on all images, and write model and report.

The folder of a fit is that of a table's, see `emphasis.tabular.folder`; its model is what `emphasis.images` loads.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import emphasis
from emphasis.datasets import Split
from emphasis.datasets.copies import Copies, copies_of
from emphasis.datasets.table_report import counted
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, Reporter, RunContext
from emphasis.experiments.runs.data import forget_loaded, load_split
from emphasis.experiments.studies.image_training import FeatureTrainer, NetworkTrainer, Progress, Rows
from emphasis.experiments.studies.own_data import recipe_of, suitable_length
from emphasis.experiments.studies.rates import CHOSEN_BY_DATA
from emphasis.experiments.studies.threads import with_idle_threads
from emphasis.files import naming_refusals, write_text
from emphasis.images.features import FrozenNetwork, cached_features, frozen_network
from emphasis.images.predict import image_digests
from emphasis.images.result import ImageFit
from emphasis.images.saved import SavedImageModel, save_model
from emphasis.json_files import JSONFileError, read_json
from emphasis.tabular.calibration import Calibration, calibrate_held_out
from emphasis.tabular.cross_validation import PredictFold, predict_held_out, splits
from emphasis.tabular.folder import acquire
from emphasis.tabular.result import FOLDS, methods_of
from emphasis.texts import shortened
from emphasis.weighting import DEFAULT_WEIGHTING, WeightingLike, as_weighting

MOST_PIXELS = 64
"""Largest size of images that is chosen for a network that is trained; larger images are scaled down."""

_NETWORK_FOLDS, _FEATURE_FOLDS = 3, 5
_RATE = "rate.json"
_COPIES_SHOWN = 5


@dataclass(frozen=True)
class ImageOptions:
    """What is trained on images.

    Attributes:
        network: Network to train, a name of `emphasis.models` or "timm:NAME"; "" for small-cnn.
        features: Frozen network whose features a linear layer is trained on, as `frozen_network` takes it; "" for none.
        weights: File of parameters of either; None for random ones.
        folds: Number of folds; 0 for 5 with features, and 3 otherwise.
        augment: Whether training images are cropped and mirrored at random.
        iterations: Number of training steps; 0 for what suits the number of images.
        settings: Settings of network and solver, such as {"solver.learning_rate": 0.02}.
    """

    network: str = ""
    features: str = ""
    weights: Path | None = None
    folds: int = 0
    augment: bool = False
    iterations: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.network and self.features:
            raise EmphasisValueError("network and features are two ways to classify images; give one of them")
        if self.features and (self.settings or self.augment or self.iterations):
            raise EmphasisValueError("settings, augment and iterations are for a network that is trained")
        if self.weights is not None and not (self.network or self.features):
            raise EmphasisValueError("weights need the network or the features that they belong to")
        for name, least in (("folds", 2), ("iterations", 1)):
            value = getattr(self, name)
            if value and value < least:
                raise EmphasisValueError(f"{name}={value} is not allowed; use a whole number >= {least}")
        for name in self.settings:
            if not name.startswith(("network.", "solver.")):
                raise EmphasisValueError(f"settings[{name!r}] is not allowed; set something of network or solver")


def fit_images(
    source: str | Path,
    data_options: Mapping[str, Any],
    options: ImageOptions,
    folder: Path | None = None,
    *,
    weighting: WeightingLike | None = None,
    compare: bool = True,
    calibrate: bool = True,
    seed: int = 0,
    force: bool = False,
    context: RunContext = DEFAULT_CONTEXT,
    progress: Progress = lambda *_: None,
) -> ImageFit:
    """Cross-validate and train a network that classifies images; `emphasis.fit` describes the arguments.

    Everything is written to a folder. A fit that was stopped continues after its last fold when it is repeated.

    Args:
        source: Folder with a folder for each class, or a table with a column of paths.
        data_options: Options of the data set, such as "size"; a table needs "label" and "images".
        options: What is trained.
        folder: Folder to write to; None for runs/NAME.
        weighting: Weighting of the loss; None for the default.
        compare: Whether cross-entropy is cross-validated as well.
        calibrate: Whether probabilities are calibrated if that helps.
        seed: Seed of the folds and of the networks.
        force: Whether another fit in the folder is replaced.
        context: Device and threads.
        progress: Called as `progress(task, done, total)`.

    Raises:
        DataError, EmphasisValueError: If images, a table or an argument cannot be used, or a network diverged.
        MissingExtraError: If an extra is not installed.
    """
    if not 0 <= seed < 2**32:
        raise EmphasisValueError(f"seed={seed} is not allowed; use a whole number, 0 to {2**32 - 1}")
    resolved = DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting)
    cell, split, frozen = _prepare(source, data_options, options, seed, context, progress)
    labels, folds = split.train_labels, options.folds or (_FEATURE_FOLDS if frozen else _NETWORK_FOLDS)
    if folds > np.bincount(labels).max():
        raise EmphasisValueError(f"folds={folds} is not allowed; no class has as many images")
    request = {
        "source": str(source),
        **data_options,
        "model": f"features of {frozen.name}" if frozen else cell.network.name,
        "pixels": split.train_inputs.shape[2],
        "network": options.network,
        "features": options.features,
        "weights": None if options.weights is None else str(options.weights),
        "augment": options.augment,
        "iterations": options.iterations or None,
        "settings": dict(options.settings),
        "weighting": resolved.to_dict(),
        "compare": compare,
        "calibrate": calibrate,
        "folds": folds,
        "seed": seed,
        "emphasis": emphasis.__version__,
    }
    target = Path("runs") / Path(source).resolve().stem if folder is None else folder
    digests = image_digests(np.asarray(split.train_inputs))
    digest = _acquire(target, request, digests, labels, force)
    context = with_idle_threads(context, cell, target / FOLDS)
    methods = methods_of(resolved, compare)
    copies = copies_of(np.array(digests), labels)
    parts = splits(labels, folds, seed, copies.groups)
    train: NetworkTrainer | FeatureTrainer
    if frozen is None:
        train = _with_rate(NetworkTrainer(split, cell, context, progress), target, digest, parts[0][0])
    else:
        train = _on_features(frozen, split, seed, progress)

    def start_fold(number: int, training_rows: Rows, test_rows: Rows) -> PredictFold:
        task = f"fold {number + 1} of {folds}"
        return lambda name: train(training_rows, methods[name], f"{task}: {name}").predict(test_rows)

    fold, held = predict_held_out(labels, split.num_classes, list(methods), parts, target, digest, start_fold)
    calibrations: dict[str, Calibration | None] = {}
    if calibrate:
        for name, p in held.items():
            held[name], calibrations[name] = calibrate_held_out(labels, p, np.ones(len(labels)), fold)
    trained = train(np.arange(len(labels)), resolved, "the model, on all images")
    about = cell.network if frozen is None else frozen
    with naming_refusals("write to", target):
        model = SavedImageModel(
            classes=split.class_names,
            name=about.name,
            options={name: value for name, value in about.options.items() if name != "pretrained"},
            width=0 if frozen is None else int(trained.network[1].in_features),  # type: ignore[index]
            network=trained.network,
            size=split.train_inputs.shape[2],
            channels=split.train_inputs.shape[1],
            statistics=trained.statistics,
            weighting=resolved,
            calibration=calibrations.get(repr(resolved)),
            recipe={**request, **train.settings()},
            trained=frozenset(digests),
        )
        save_model(target, model)
    fit = ImageFit(
        folder=target,
        request=request,
        base=Path(source) if Path(source).is_dir() else Path(source).parent,
        names=split.sources,
        rows=np.arange(len(labels)) if split.rows is None else split.rows,
        images=split.train_inputs,
        classes=split.class_names,
        given=labels,
        fold=fold,
        probabilities=held,
        weighting=resolved,
        calibration={name: fitted.method for name, fitted in calibrations.items() if fitted is not None},
        notes=(*split.notes, *_copy_notes(copies, split)),
    )
    from emphasis.images.report import write_report  # which draws figures

    write_report(fit)
    return fit


def _copy_notes(copies: Copies, split: Split) -> list[str]:
    """Return notes about images that repeat others."""
    if not len(copies.repeats):
        return []
    names, count = split.sources, len(copies.repeats)
    shown = shortened([names[row] for row in copies.repeats.tolist()], _COPIES_SHOWN)
    verb = "repeats an earlier image" if count == 1 else "repeat earlier images"
    notes = [f"{count:,} of {counted(len(names), 'image')} {verb} ({shown}): equal images are held out together"]
    if copies.contradictions:
        first, other = copies.contradictions[0]
        notes.append(
            f"equal images have different labels in {counted(len(copies.contradictions), 'case')}, such as "
            f"{names[first]} and {names[other]}: used as given (look at them first)"
        )
    return notes


class _Loading(Reporter):
    """Passes on the progress of loading data."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def loading(self, task: str, done: int, total: int) -> None:
        self._progress(task, done, total)


def _prepare(
    source: str | Path,
    data_options: Mapping[str, Any],
    options: ImageOptions,
    seed: int,
    context: RunContext,
    progress: Progress,
) -> tuple[Cell, Split, FrozenNetwork | None]:
    """Return the settings of training, the images, and the frozen network if its features are used."""
    chosen, frozen = dict(data_options), None
    if options.features:
        size, channels = int(chosen.get("size") or 0), int(chosen.get("channels") or 3)
        frozen = frozen_network(options.features, options.weights, size=size, channels=channels)
        chosen |= {"size": frozen.size, "channels": frozen.channels}
    recipe = recipe_of(str(source), chosen, MOST_PIXELS)
    if options.network:
        recipe = replace(recipe, network={"name": options.network})
    if options.weights is not None and not options.features:
        recipe = recipe.changed({"network.pretrained": str(options.weights.resolve())})
    recipe = recipe.changed({"dataset.augment": options.augment, **options.settings})
    cell = replace(next(recipe.cells()), seed=seed)
    forget_loaded()
    split = load_split(cell.dataset, cell.noise, context, _Loading(progress))
    batch, steps = suitable_length("images", len(split.train_labels), cell.solver.batch_size)
    if "solver.iterations" in options.settings:
        steps = cell.solver.iterations
    solver = replace(cell.solver, batch_size=batch, iterations=options.iterations or steps)
    return replace(cell, solver=solver), split, frozen


def _acquire(target: Path, request: Mapping[str, Any], digests: list[str], labels: Rows, force: bool) -> str:
    import pandas as pd

    with naming_refusals("write to", target):
        return acquire(target, request, pd.DataFrame({"image": digests, "label": labels}), force)


def _with_rate(trainer: NetworkTrainer, target: Path, digest: str, rows: Rows) -> NetworkTrainer:
    """Return the trainer with a learning rate that is chosen by the training rows of the first fold, if none is given.

    The choice is stored in the folder of the folds.
    """
    solver = trainer.cell.solver
    if solver.learning_rate != CHOSEN_BY_DATA["learning_rate"]:
        return trainer
    file = target / FOLDS / _RATE
    try:
        stored = read_json(file) if file.is_file() else {}
    except JSONFileError:
        stored = {}
    rate = stored.get("rate") if stored.get("digest") == digest else None
    if not isinstance(rate, float):
        rate = trainer.rate(rows)
        with naming_refusals("write to", file):
            write_text(file, json.dumps({"digest": digest, "rate": rate}))
    return replace(trainer, cell=replace(trainer.cell, solver=replace(solver, learning_rate=rate)))


def _on_features(frozen: FrozenNetwork, split: Split, seed: int, progress: Progress) -> FeatureTrainer:
    statistics = split.channel_statistics() if frozen.statistics is None else frozen.statistics
    features = cached_features(frozen, np.asarray(split.train_inputs), statistics, progress)
    return FeatureTrainer(features, split.train_labels, split.num_classes, frozen.body, statistics, seed, progress)
