"""Settings of one network of an experiment, as frozen data; a recipe describes many of them.

They determine the result, and `Cell.key` is a digest of them. Beyond them, results depend on rounding: on the device,
the threads and how many networks share one computation. Each result records those.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from emphasis.baselines.registry import check_options
from emphasis.datasets.split import folds_of
from emphasis.deprecation import renamed
from emphasis.training.settings import Objective, Solver
from emphasis.validation import check
from emphasis.weighting.schedule import schedule_to_dict

_RATED = (
    "symmetric",
    "pair_flip",
    "cifar10_asymmetric",
    "superclass_swap",
    "block_swap",
    "part_dependent",
)
NOISE_KINDS = ("none", *_RATED, "pn_ratio", "long_tail", "human")


@dataclass(frozen=True)
class Dataset:
    """The data to train and test on.

    Attributes:
        name: One of `emphasis.datasets.NAMES`.
        augment: Crop and flip training images at random; after padding by 4, unless networks see less than all of them.
        train_size: Train on this many examples of the training part, all classes alike; 0: on all.
        validation: Hold out this share of the training part and test on it; 0: use the test part.
        validation_labels: "true", or "noisy": noise is put on the held-out labels as on the others.
        fold: Which part `validation` holds out: 0, 1, ... have no example in common.
        split_seed: Seed of `train_size` and `validation`, and of data sets without a test part of their own.
        options: Further options of the data set's loader.
        labels: File of a review's decisions (decisions.jsonl) about the training labels; "" for the labels as they are.
        labels_digest: First 16 digits of the SHA-256 of that file, so that other decisions are other networks; "" to
            take the file as it is.
    """

    name: str
    augment: bool = False
    train_size: int = 0
    validation: float = 0.0
    validation_labels: Literal["true", "noisy"] = "true"
    fold: int = 0
    split_seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    labels: str = ""
    labels_digest: str = ""

    def __post_init__(self) -> None:
        check(self.train_size >= 0, "train_size", self.train_size, "use a whole number >= 0")
        check(0.0 <= self.validation < 1.0, "validation", self.validation, "use a number in [0, 1)")
        last = folds_of(self.validation) - 1 if self.validation else 0
        check(0 <= self.fold <= last, "fold", self.fold, f"use 0 to {last}, with a validation of {self.validation}")


@dataclass(frozen=True)
class Noise:
    """Noise put on the training labels, or imbalance; see `emphasis.corruption`.

    Attributes:
        kind: One of `NOISE_KINDS`; "human": labels that people gave, which come with the data.
        rate: Noise rate, in [0, 1].
        ratio: Positives to negatives of "pn_ratio", or the imbalance factor of "long_tail".
        labels: Name of the human labels.
    """

    kind: str = "none"
    rate: float = 0.0
    ratio: float = 0.0
    labels: str = ""

    def __post_init__(self) -> None:
        check(self.kind in NOISE_KINDS, "kind", self.kind, f"use one of {', '.join(NOISE_KINDS)}")
        check(0.0 <= self.rate <= 1.0, "rate", self.rate, "use a number in [0, 1]")
        check(self.rate == 0.0 or self.kind in _RATED, "rate", self.rate, f"it needs a kind of {', '.join(_RATED)}")
        needs_ratio = self.kind in ("pn_ratio", "long_tail")
        check(
            needs_ratio == (self.ratio > 0.0), "ratio", self.ratio, "give pn_ratio and long_tail one > 0, others none"
        )
        check(
            (self.kind == "human") == bool(self.labels), "labels", self.labels, 'name them, with kind = "human" alone'
        )


@dataclass(frozen=True)
class Network:
    """A network: a name that `emphasis.models` knows, and its options. Networks named "mlp" are trained together."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSpec:
    """A method of `emphasis.baselines` in place of a weighting.

    Attributes:
        name: A name of `emphasis.baselines.names()`, or a method of your own, such as "FILE.py:CLASS", which is not
            imported here.
        options: Hyperparameters.
        source: Digest of the code of a method of your own, set when the recipe is run.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not is_own(self.name):
            source = {"source": self.source} if self.source else {}
            check_options(self.name, {**self.options, **source})


def is_own(name: str) -> bool:
    """Return whether a name stands for a method of your own: "FILE.py:CLASS" or "module:CLASS"."""
    return ":" in name


@dataclass(frozen=True)
class Evaluation:
    """Evaluated before the first step, at every `every`-th iteration and at the end.

    Attributes:
        every: Iterations between evaluations.
        trace: Whether every evaluation keeps the probability of each training example's label.
        train_size: How many training examples it looks at, evenly spaced; 0: all. What is said of the fit is of these.
    """

    every: int = 500
    trace: bool = False
    train_size: int = 0

    def __post_init__(self) -> None:
        check(self.every >= 1, "every", self.every, "use a whole number >= 1")
        check(self.train_size >= 0, "train_size", self.train_size, "use a whole number >= 0")


_ADDED_FIELDS = (
    ("dataset", "validation_labels", "true"),
    ("dataset", "fold", 0),
    ("dataset", "labels", ""),
    ("dataset", "labels_digest", ""),
    ("evaluation", "train_size", 0),
    ("solver", "clip", 1),
    ("solver", "videos", 1),
)
"""Settings added later, with their defaults; at the default they are left out of `Cell.key`, so that the keys of older
results stay valid."""


@dataclass(frozen=True)
class Cell:
    """One network of a recipe: its place in the table, and all settings that determine its results.

    Attributes:
        condition: Column of the table; "" if there is only one.
        method: Row of the table.
        group: Group of the method in the table.
        seed: Seed of initialization, noise, batches, crops and dropout.
        dataset: The data.
        noise: Noise put on the training labels.
        network: The network.
        solver: The optimizer.
        evaluation: When and on what it is evaluated.
        objective: A weighting, or a method of `emphasis.baselines`.
        precision: Precision of the arithmetic, one of `PRECISIONS`.
    """

    condition: str
    method: str
    group: str
    seed: int
    dataset: Dataset
    noise: Noise
    network: Network
    solver: Solver
    evaluation: Evaluation
    objective: Objective | MethodSpec
    precision: str = "32-true"

    def shared(self) -> dict[str, Any]:
        """Return, as plain data, the settings that networks trained as one batched computation have in common."""
        parts = ("dataset", "noise", "network", "solver", "evaluation")
        settings: dict[str, Any] = {part: dataclasses.asdict(getattr(self, part)) for part in parts}
        for part, name, value in _ADDED_FIELDS:
            if settings[part].get(name) == value:
                del settings[part][name]
        plain: dict[str, Any] = json.loads(json.dumps({**settings, "precision": self.precision}))
        return plain

    def config(self) -> dict[str, Any]:
        """Return, as plain data, the settings that determine the results, and the source of a method of your own."""
        source = self.objective.source if isinstance(self.objective, MethodSpec) else ""
        own = {"source": source} if source else {}
        return {**self.shared(), **objective_as_dict(self.objective), **own, "seed": self.seed}

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that differ if `config` does."""
        return digest(self.config())


def objective_as_dict(objective: Objective | MethodSpec) -> dict[str, Any]:
    """Return the objective as plain data."""
    if isinstance(objective, MethodSpec):
        return {"training": json.loads(json.dumps({"name": objective.name, **objective.options}))}
    return {
        "weighting": objective.weighting.to_dict(),
        "normalization": objective.normalization,
        "max_margin": objective.max_margin,
        **({} if objective.arithmetic == "exact" else {"arithmetic": objective.arithmetic}),
        **({"schedule": schedule_to_dict(objective.schedule)} if objective.schedule else {}),
    }


def digest(plain: Any) -> str:
    """Return 16 hexadecimal digits of plain data."""
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:16]


Status = Literal["full", "scaled", "data-unavailable"]


__getattr__ = renamed(__name__, {"Training": "MethodSpec"})
