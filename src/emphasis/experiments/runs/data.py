"""From the settings of a cell to tensors: data set, label noise of each seed, and options of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emphasis import corruption, datasets, models
from emphasis.datasets import DataNotFoundError, ImageFiles, Split, VideoSplit, data_root, holdout, load, subset
from emphasis.datasets.split import take_training
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import Cell, Dataset, Noise
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.reviewed_labels import with_reviewed_labels, with_reviewed_noise
from emphasis.models.pretrained import IMAGENET_STATISTICS
from emphasis.part_dependent import part_dependent
from emphasis.texts import did_you_mean
from emphasis.training.task import Task
from emphasis.training.videos import RetrievalEvaluator, VideoTask


def check_names(cells: Sequence[Cell]) -> None:
    """Check the names and options of data sets and networks before anything is loaded or trained.

    Raises:
        ValueError: If one is unknown; the message lists the known ones.
    """
    for kind, options_of, used in (
        ("data set", datasets.options, {(cell.dataset.name, *cell.dataset.options) for cell in cells}),
        ("network", models.options_of, {(cell.network.name, *cell.network.options) for cell in cells}),
    ):
        for name, *options in sorted(used):
            known = options_of(name)
            for option in options:
                if option not in known:
                    raise EmphasisValueError(
                        f"{kind} {name} has no option {option!r}{did_you_mean(option, list(known))}; "
                        f"its options are {', '.join(known) or 'none'}"
                    )


_VALIDATION_SEED = 2**31  # of the label noise on a validation part; no network has this seed
_VALIDATION_STRUCTURE = 0  # seed of what that noise has in common with the noise of the training part, for all networks
_last_loaded: dict[Any, Split] = {}  # at most one entry


def load_split(
    dataset: Dataset, noise: Noise, context: RunContext = DEFAULT_CONTEXT, reporter: Reporter = SILENT
) -> Split:
    """Return the data of a recipe, split as it asks. The data set loaded last stays in memory.

    Args:
        dataset: Name, split and options of the data set.
        noise: Label noise; human labels are loaded with the data.
        context: Where the data is, and whether it may be downloaded.
        reporter: Receives the progress of slow steps.

    Returns:
        The training part, and as test part either the data set's own or the validation part that was held out.

    Raises:
        DataNotFoundError: If the data is missing; the message says where it was looked for and what to do.
        ValueError: If the data set does not have an option, or a size is not possible.
    """
    split = load_whole(dataset, noise, context, reporter)
    if dataset.labels and noise.kind == "none":
        split = with_reviewed_labels(split, dataset)
    if dataset.validation:
        split = _with_validation(split, dataset, noise)
    return subset(split, dataset.train_size, dataset.split_seed) if dataset.train_size else split


def load_whole(dataset: Dataset, noise: Noise, context: RunContext, reporter: Reporter = SILENT) -> Split:
    """Return the data that `load_split` splits."""
    options, key = _options_and_key(dataset, noise, context)
    if key not in _last_loaded:
        if context.download and "download" in datasets.options(dataset.name):
            options["download"] = True
        loaded = load(dataset.name, context.root, progress=reporter.loading, **options)
        keep_loaded(dataset, noise, context, loaded)
    return _last_loaded[key]


def keep_loaded(dataset: Dataset, noise: Noise, context: RunContext, loaded: Split) -> None:
    """Make `load_split` use data that was loaded elsewhere, until it loads other data."""
    _last_loaded.clear()
    _last_loaded[_options_and_key(dataset, noise, context)[1]] = loaded


def _options_and_key(dataset: Dataset, noise: Noise, context: RunContext) -> tuple[dict[str, Any], Any]:
    """Return the options of loading a data set, and what identifies the data."""
    options = dict(dataset.options)
    if noise.kind == "human":
        options["human_labels"] = True
    return options, (dataset.name, context.root, repr(sorted(options.items())))


def _with_validation(split: Split, dataset: Dataset, noise: Noise) -> Split:
    """Return the split whose test part is held out from the training part."""
    rest, kept = holdout(split, dataset.validation, dataset.split_seed, dataset.fold)
    if dataset.validation_labels != "noisy":
        return rest
    held_out = take_training(split, np.setdiff1d(np.arange(len(split.train_labels)), kept))
    noisy = corrupted(held_out, noise, _VALIDATION_SEED, _VALIDATION_STRUCTURE)
    if len(noisy.index) != len(held_out.train_labels):
        raise EmphasisValueError(
            f'noise kind {noise.kind} removes examples; use validation_labels = "true" together with it'
        )
    return replace(rest, test_labels=noisy.labels)


def forget_loaded() -> None:
    """Make the next `load_split` read its data again, which may have changed."""
    _last_loaded.clear()


def corrupted(split: Split, noise: Noise, seed: int, structure_seed: int | None = None) -> corruption.Corruption:
    """Return the training labels of `split` with the label noise of one seed.

    Args:
        split: The data.
        noise: The noise.
        seed: Seed of the draws.
        structure_seed: Seed of which classes or contents are confused, where the noise draws them; None: `seed`.

    Raises:
        ValueError: If the noise does not fit the data.
    """
    labels, classes = split.train_labels, split.num_classes
    if noise.kind == "human":
        if noise.labels not in split.human_labels:
            known = ", ".join(split.human_labels) or "none for this data set"
            raise EmphasisValueError(f"human labels {noise.labels!r} are unknown; use one of: {known}")
        return corruption.from_noisy_labels(labels, split.human_labels[noise.labels], num_classes=classes)
    if noise.kind == "symmetric":
        return corruption.symmetric(labels, noise.rate, num_classes=classes, seed=seed)
    if noise.kind == "pair_flip":
        return corruption.pair_flip(labels, noise.rate, num_classes=classes, seed=seed)
    if noise.kind == "cifar10_asymmetric":
        return corruption.cifar10_asymmetric(labels, noise.rate, seed=seed)
    if noise.kind == "superclass_swap":
        return corruption.superclass_swap(labels, noise.rate, seed=seed, structure_seed=structure_seed)
    if noise.kind == "block_swap":
        if classes % 5:
            raise EmphasisValueError(f"noise kind block_swap needs blocks of five classes, the data has {classes}")
        blocks = np.arange(classes) // 5
        return corruption.superclass_swap(
            labels, noise.rate, superclass=blocks, seed=seed, structure_seed=structure_seed
        )
    if noise.kind == "part_dependent":
        inputs = split.train_inputs
        return part_dependent(labels, inputs, noise.rate, num_classes=classes, seed=seed, structure_seed=structure_seed)
    if noise.kind == "pn_ratio":
        if classes != 2:
            raise EmphasisValueError(f"noise kind pn_ratio needs two classes, the data has {classes}; use long_tail")
        return corruption.pn_ratio(labels, noise.ratio, seed=seed)
    if noise.kind == "long_tail":
        return corruption.long_tail(labels, noise.ratio, num_classes=classes, seed=seed)
    return corruption.symmetric(labels, 0.0, num_classes=classes, seed=seed)


def make_task(cell: Cell, split: Split, seeds: Sequence[int]) -> Task:
    """Return the task of a cell with the label noise of each seed, on the CPU."""
    held_out_is_noisy = cell.dataset.validation > 0.0 and cell.dataset.validation_labels == "noisy"
    structure = _VALIDATION_STRUCTURE if held_out_is_noisy else None
    noisy = [corrupted(split, cell.noise, seed, structure) for seed in seeds]
    if cell.dataset.labels and cell.noise.kind != "none":
        noisy = [with_reviewed_noise(part, split, cell.dataset) for part in noisy]
    keeps_all = all(len(part.index) == len(split.train_labels) for part in noisy)
    is_images = split.train_inputs.dtype == np.uint8
    mean, std = np.zeros(0), np.zeros(0)
    if is_images:  # pretrained networks need the normalization that they were trained with
        is_pretrained, has_colors = cell.network.options.get("pretrained"), split.train_inputs.shape[-3] == 3
        mean, std = IMAGENET_STATISTICS if is_pretrained and has_colors else split.channel_statistics()
    inputs = _as_inputs(split.train_inputs)
    settings: dict[str, Any] = {
        "inputs": inputs,
        "labels": torch.from_numpy(np.stack([part.labels for part in noisy])),
        "true_labels": torch.from_numpy(split.train_labels),
        "test_inputs": inputs if split.test_inputs is split.train_inputs else _as_inputs(split.test_inputs),
        "test_labels": torch.from_numpy(split.test_labels),
        "num_classes": split.num_classes,
        "index": None if keeps_all else torch.from_numpy(np.stack([part.index for part in noisy])),
        "statistics": (torch.from_numpy(mean).float(), torch.from_numpy(std).float()) if is_images else None,
        "augment": cell.dataset.augment and is_images,
        "crop": split.crop,
        "eval_train_size": cell.evaluation.train_size,
    }
    if not isinstance(split, VideoSplit):
        return Task(**settings)
    evaluator = None if split.gallery is None else RetrievalEvaluator(split.gallery)
    return VideoTask(**settings, videos=torch.from_numpy(split.videos), evaluator=evaluator)


def _as_inputs(inputs: NDArray[Any] | ImageFiles) -> torch.Tensor | ImageFiles:
    return inputs if isinstance(inputs, ImageFiles) else torch.from_numpy(inputs)


def network_options(cell: Cell, root: Path | None) -> dict[str, Any]:
    """Return the options of a cell's network, with the path of pretrained parameters relative to the data folder.

    Raises:
        DataNotFoundError: If the file of pretrained parameters does not exist.
    """
    options = dict(cell.network.options)
    if options.get("pretrained"):
        path = data_root(root) / options["pretrained"]
        if not path.is_file():
            raise DataNotFoundError(
                f"{cell.network.name} starts from the parameters in {str(path)!r}, which is not a file: put a state "
                'dict there, such as torchvision\'s for ImageNet, or name another with network.pretrained ("": none)'
            )
        options["pretrained"] = str(path)
    return options
