"""From a cell's settings to tensors: data, noise for each seed, and the network's input shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from emphasis import corruption, datasets, models
from emphasis.datasets import (
    DataNotFoundError,
    ImageFiles,
    Progress,
    Split,
    VideoSplit,
    data_root,
    holdout,
    load,
    subset,
)
from emphasis.datasets.download import silent
from emphasis.datasets.split import take_training
from emphasis.errors import EmphasisValueError
from emphasis.experiments.recipes.settings import Cell, Dataset, Noise
from emphasis.models.pretrained import IMAGENET_STATISTICS
from emphasis.part_dependent import part_dependent
from emphasis.texts import did_you_mean
from emphasis.training.task import Task
from emphasis.training.videos import RetrievalEvaluator, VideoTask


def check_names(cells: Sequence[Cell]) -> None:
    """Check data sets, networks and their options, before anything is loaded or trained.

    Raises:
        ValueError: One is unknown; the message names those that are known.
    """
    for what, known, given in (
        ("data set", datasets.options, {(cell.dataset.name, *cell.dataset.options) for cell in cells}),
        ("network", models.options_of, {(cell.network.name, *cell.network.options) for cell in cells}),
    ):
        for name, *options in sorted(given):
            takes = known(name)
            for option in options:
                if option not in takes:
                    raise EmphasisValueError(
                        f"{what} {name} has no option {option!r}{did_you_mean(option, list(takes))}; "
                        f"it takes {', '.join(takes) or 'none'}"
                    )


_VALIDATION_SEED = 2**31  # of the noise on a validation part: none that a network has
_last_loaded: dict[Any, Split] = {}  # one at most


def load_split(
    dataset: Dataset, noise: Noise, root: Path | None, progress: Progress = silent, download: bool = False
) -> Split:
    """Return the data of a recipe, cut as it says; what was loaded last is kept in memory.

    Args:
        dataset: Which.
        noise: Human labels come with the data.
        root: Where the data is; None: as `emphasis.datasets.data_root` says.
        progress: Called with what is being done, how much of it is, and how much there is, where it takes long.
        download: Whether to fetch what is not there from the data set's official address, if it has one.

    Raises:
        DataNotFoundError: It is not there; the message says where it was looked for and what to do.
        ValueError: An option that the data set does not have, or a size that cannot be.
    """
    options = dict(dataset.options)
    if noise.kind == "human":
        options["human_labels"] = True
    key = (dataset.name, root, repr(sorted(options.items())))
    if key not in _last_loaded:
        if download and "download" in datasets.options(dataset.name):
            options["download"] = True
        split = load(dataset.name, root, progress=progress, **options)
        _last_loaded.clear()
        _last_loaded[key] = split
    split = _last_loaded[key]
    if dataset.validation:
        whole = split
        split, kept = holdout(whole, dataset.validation, dataset.split_seed, dataset.fold)
        if dataset.validation_labels == "noisy":
            held = take_training(whole, np.setdiff1d(np.arange(len(whole.train_labels)), kept))
            found = corrupted(held, noise, _VALIDATION_SEED)
            if len(found.index) != len(held.train_labels):
                raise EmphasisValueError(
                    f'noise kind {noise.kind} leaves examples out; use validation_labels = "true" with it'
                )
            split = replace(split, test_labels=found.labels)
    return subset(split, dataset.train_size, dataset.split_seed) if dataset.train_size else split


def forget_loaded() -> None:
    """Let `load_split` read its data anew, which may have changed."""
    _last_loaded.clear()


def corrupted(split: Split, noise: Noise, seed: int) -> corruption.Corruption:
    """Return what `noise` makes of the training labels for one seed.

    Raises:
        ValueError: The noise does not fit the data; the message says why.
    """
    labels, classes = split.train_labels, split.num_classes
    if noise.kind == "human":
        if noise.labels not in split.human_labels:
            known = ", ".join(split.human_labels) or "none with this data"
            raise EmphasisValueError(f"human labels {noise.labels!r} are unknown; use one of: {known}")
        return corruption.from_noisy_labels(labels, split.human_labels[noise.labels], num_classes=classes)
    if noise.kind == "symmetric":
        return corruption.symmetric(labels, noise.rate, num_classes=classes, seed=seed)
    if noise.kind == "pair_flip":
        return corruption.pair_flip(labels, noise.rate, num_classes=classes, seed=seed)
    if noise.kind == "cifar10_asymmetric":
        return corruption.cifar10_asymmetric(labels, noise.rate, seed=seed)
    if noise.kind == "superclass_swap":
        return corruption.superclass_swap(labels, noise.rate, seed=seed)
    if noise.kind == "block_swap":
        if classes % 5:
            raise EmphasisValueError(f"noise kind block_swap needs blocks of five classes, the data has {classes}")
        return corruption.superclass_swap(labels, noise.rate, superclass=np.arange(classes) // 5, seed=seed)
    if noise.kind == "part_dependent":
        return part_dependent(labels, split.train_inputs, noise.rate, num_classes=classes, seed=seed)
    if noise.kind == "pn_ratio":
        if classes != 2:
            raise EmphasisValueError(f"noise kind pn_ratio needs two classes, the data has {classes}; use long_tail")
        return corruption.pn_ratio(labels, noise.ratio, seed=seed)
    if noise.kind == "long_tail":
        return corruption.long_tail(labels, noise.ratio, num_classes=classes, seed=seed)
    return corruption.symmetric(labels, 0.0, num_classes=classes, seed=seed)


def make_task(cell: Cell, split: Split, seeds: Sequence[int]) -> Task:
    """Return the task of a cell's settings with the noise of each seed, on the CPU."""
    found = [corrupted(split, cell.noise, seed) for seed in seeds]
    whole = all(len(one.index) == len(split.train_labels) for one in found)
    images = split.train_inputs.dtype == np.uint8
    mean, std = np.zeros(0), np.zeros(0)
    if images:  # a pretrained network sees what it was trained to see
        mean, std = IMAGENET_STATISTICS if cell.network.options.get("pretrained") else split.channel_statistics()
    settings: dict[str, Any] = {
        "inputs": _as_inputs(split.train_inputs),
        "labels": torch.from_numpy(np.stack([one.labels for one in found])),
        "true_labels": torch.from_numpy(split.train_labels),
        "test_inputs": _as_inputs(split.test_inputs),
        "test_labels": torch.from_numpy(split.test_labels),
        "num_classes": split.num_classes,
        "index": None if whole else torch.from_numpy(np.stack([one.index for one in found])),
        "statistics": (torch.from_numpy(mean).float(), torch.from_numpy(std).float()) if images else None,
        "augment": cell.dataset.augment and images,
        "crop": split.crop,
        "look": cell.evaluation.train_size,
    }
    if not isinstance(split, VideoSplit):
        return Task(**settings)
    evaluator = None if split.gallery is None else RetrievalEvaluator(split.gallery)
    return VideoTask(**settings, videos=torch.from_numpy(split.videos), evaluator=evaluator)


def _as_inputs(inputs: NDArray[Any] | ImageFiles) -> torch.Tensor | ImageFiles:
    return inputs if isinstance(inputs, ImageFiles) else torch.from_numpy(inputs)


def network_options(cell: Cell, root: Path | None) -> dict[str, Any]:
    """Return the options of a cell's network; a file of parameters that is no absolute path is one of the data folder.

    Raises:
        DataNotFoundError: There is no such file.
    """
    options = dict(cell.network.options)
    if options.get("pretrained"):
        path = data_root(root) / options["pretrained"]
        if not path.is_file():
            raise DataNotFoundError(
                f"{cell.network.name} starts from the parameters in {str(path)!r}, which is no file: put a state dict "
                'there, such as torchvision\'s for ImageNet, or name another with network.pretrained ("": none)'
            )
        options["pretrained"] = str(path)
    return options
