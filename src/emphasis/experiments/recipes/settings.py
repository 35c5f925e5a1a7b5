"""What one network of an experiment is made of, as frozen data; a recipe is many of them.

All of it determines the numbers of a result: `Cell.key` is a digest of it. What else plays a part is the machine, as
far as it rounds: device, threads, and how many networks share one computation. Each result says which those were.
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

NOISE_KINDS = (
    "none",
    "symmetric",
    "pair_flip",
    "cifar10_asymmetric",
    "superclass_swap",
    "block_swap",
    "part_dependent",
    "pn_ratio",
    "long_tail",
    "human",
)
_RATED = ("symmetric", "pair_flip", "cifar10_asymmetric", "superclass_swap", "block_swap", "part_dependent")


@dataclass(frozen=True)
class Dataset:
    """Which data.

    Attributes:
        name: Of `emphasis.datasets.NAMES`.
        augment: Crop and flip training images at random; after padding by 4, unless networks see less than all of them.
        train_size: Train on this many examples of the training part, all classes alike; 0: on all.
        validation: Hold out this share of the training part and test on it; 0: use the test part.
        validation_labels: "true", or "noisy": noise is put on the held-out labels as on the others.
        fold: Which part `validation` holds out: 0, 1, ... have no example in common.
        split_seed: Of `train_size` and `validation`, and of data sets that have no test part of their own.
        options: What else the data set's loader takes.
    """

    name: str
    augment: bool = False
    train_size: int = 0
    validation: float = 0.0
    validation_labels: Literal["true", "noisy"] = "true"
    fold: int = 0
    split_seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.train_size >= 0, "train_size", self.train_size, "use a whole number >= 0")
        check(0.0 <= self.validation < 1.0, "validation", self.validation, "use a number in [0, 1)")
        last = folds_of(self.validation) - 1 if self.validation else 0
        check(0 <= self.fold <= last, "fold", self.fold, f"use 0 to {last}, with a validation of {self.validation}")


@dataclass(frozen=True)
class Noise:
    """What is done to the training labels; see `emphasis.corruption`.

    Attributes:
        kind: One of `NOISE_KINDS`; "human": labels that people gave, which come with the data.
        rate: Of label noise, in [0, 1].
        ratio: Positives to negatives of "pn_ratio", or the imbalance factor of "long_tail".
        labels: Which of the human labels.
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
    """Which network: a name that `emphasis.models` knows, and its options; "mlp" trains many at once."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MethodSpec:
    """A method of `emphasis.baselines` in place of a weighting.

    Attributes:
        name: The package's name for it, or that of one's own, such as "FILE.py:CLASS", which is not imported here.
        options: Its hyperparameters.
        source: A digest of the code of a method of one's own, which whoever runs it fills in.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def __post_init__(self) -> None:
        if not is_own(self.name):
            told = {"source": self.source} if self.source else {}
            check_options(self.name, {**self.options, **told})


def is_own(name: str) -> bool:
    """Return whether a method's name is of one's own, "FILE.py:CLASS" or "module:CLASS"."""
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
    ("evaluation", "train_size", 0),
    ("solver", "clip", 1),
    ("solver", "videos", 1),
)
"""Settings that came later, with what they have always been: not part of `Cell.key`, so that results keep theirs."""


@dataclass(frozen=True)
class Cell:
    """One network: where it stands in the recipe's table, and all that determines its numbers.

    Attributes:
        condition: The column of the table; "" if there is only one.
        method: The row.
        group: Of the method.
        seed: Of initialisation, noise, batches, crops and dropout.
        dataset: Which data.
        noise: What is done to the labels.
        network: Which network.
        solver: The optimiser.
        evaluation: How often it is looked at.
        objective: The weighting, or the method that is more than one.
        precision: Of the arithmetic.
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
        """Return, as plain data, what networks trained as one batched computation have in common."""
        parts = ("dataset", "noise", "network", "solver", "evaluation")
        settings: dict[str, Any] = {part: dataclasses.asdict(getattr(self, part)) for part in parts}
        for part, name, value in _ADDED_FIELDS:
            if settings[part].get(name) == value:
                del settings[part][name]
        plain: dict[str, Any] = json.loads(json.dumps({**settings, "precision": self.precision}))
        return plain

    def config(self) -> dict[str, Any]:
        """Return, as plain data, what determines the numbers; a method of one's own by its source, too."""
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
