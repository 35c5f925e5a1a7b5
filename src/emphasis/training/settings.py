"""Settings of training as plain data: the solver, the objective of each method, and the execution."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from emphasis.errors import EmphasisValueError
from emphasis.learning_rate import cosine
from emphasis.validation import check
from emphasis.weighting import DM, MaxMargin, Measured, Ramp, Weighting, scheduled
from emphasis.weighting.serialise import is_named

Normalization = Literal["integral", "batch"] | None
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
STRATEGIES = ("ddp", "fsdp")


@dataclass(frozen=True)
class Objective:
    """A weighting and its options for `emphasis.torch.emphasis_loss`.

    Attributes:
        weighting: Weighting w(p); a weighting given by name only is not checked.
        normalization: "integral", "batch" or None.
        max_margin: Margin beyond which the derivative is 0: a number, "auto" or None.
        schedule: Schedules of the parameters of the weighting that change during training.
        arithmetic: "exact"; "keep-learned", in which examples beyond `max_margin` stay in the sum of "batch"; or
            "float32-published", that of the released code, for a `DM` with "batch" and no `max_margin`. The last two
            are for comparison, in recipes only; see `emphasis.training.arithmetic`.
    """

    weighting: Weighting
    normalization: Normalization = None
    max_margin: MaxMargin = "auto"
    schedule: Mapping[str, Ramp | Measured] = field(default_factory=dict)
    arithmetic: Literal["exact", "keep-learned", "float32-published"] = "exact"

    def __post_init__(self) -> None:
        self._check_arithmetic()
        if self.normalization not in ("integral", "batch", None):
            raise EmphasisValueError(
                f'normalization={self.normalization!r} is not allowed; use "integral", "batch" or None'
            )
        # Only the ends of schedules are checked, since the values between two allowed values are allowed.
        known = [] if is_named(self.weighting) else [self.weighting, self.at(0.0), self.at(1.0)]
        if known or self.max_margin != "auto":
            self.weighting.max_margin(self.max_margin)
        if self.max_margin not in ("auto", None):  # 16 and 16.0 are the same setting
            object.__setattr__(self, "max_margin", float(self.max_margin))
        if self.normalization == "integral":
            _ = [weighting.log_normalizer for weighting in known]  # raises if the integral is infinite

    def _check_arithmetic(self) -> None:
        known = ("exact", "keep-learned", "float32-published")
        check(self.arithmetic in known, "arithmetic", self.arithmetic, f"use one of {', '.join(known)}")
        check(
            self.arithmetic == "exact" or self.normalization == "batch",
            "arithmetic",
            self.arithmetic,
            'give normalization="batch" with it',
        )
        if self.arithmetic == "float32-published":
            plain_dm = isinstance(self.weighting, DM) and not self.weighting.vanishing
            check(plain_dm, "arithmetic", self.arithmetic, "use it with DM(vanishing=False) only")
            check(self.max_margin is None, "arithmetic", self.arithmetic, "give max_margin=None with it")

    def at(self, progress: float, noise_rate: float | None = None) -> Weighting:
        """Return the weighting at a progress in [0, 1], given the noise rate measured so far; see `scheduled`."""
        return scheduled(self.weighting, self.schedule, progress, noise_rate)

    @property
    def measures(self) -> bool:
        """Whether the weighting depends on the noise rate measured for each network."""
        return any(isinstance(schedule, Measured) for schedule in self.schedule.values())


@dataclass(frozen=True)
class Schedule:
    """Schedule of the learning rate.

    Attributes:
        policy: "constant"; "step", which multiplies by `factor` at each iteration of `at`; "inv", which multiplies by
            (1 + gamma * iteration) ** -power as in Caffe; or "cosine", a short linear rise and a cosine decay to 0 at
            the last iteration.
        at: Iterations of the steps, in ascending order.
        factor: Factor of each step, in (0, 1].
        gamma: Factor of the iteration for "inv", >= 0.
        power: Exponent for "inv", >= 0.
    """

    policy: Literal["constant", "step", "inv", "cosine"] = "constant"
    at: tuple[int, ...] = ()
    factor: float = 0.1
    gamma: float = 0.0
    power: float = 0.0

    def __post_init__(self) -> None:
        known = ("constant", "step", "inv", "cosine")
        check(self.policy in known, "policy", self.policy, 'use "constant", "step", "inv" or "cosine"')
        rising = all(0 < a < b for a, b in zip((0, *self.at)[1:], (*self.at, math.inf)[1:], strict=False))
        check(rising, "at", self.at, "use iterations > 0 in ascending order")
        check(0.0 < self.factor <= 1.0, "factor", self.factor, "use a number in (0, 1]")
        check(0.0 <= self.gamma < math.inf, "gamma", self.gamma, "use a finite number >= 0")
        check(0.0 <= self.power < math.inf, "power", self.power, "use a finite number >= 0")

    def scale(self, iteration: int, iterations: int = 1) -> float:
        """Return the factor of the base learning rate in the step that follows `iteration` steps.

        "cosine" depends on the total number of steps, `iterations`.
        """
        if self.policy == "cosine":
            return cosine(iteration, iterations)
        if self.policy == "step":
            return math.prod([self.factor] * sum(iteration >= at for at in self.at))
        if self.policy == "inv":
            return float((1.0 + self.gamma * iteration) ** -self.power)
        return 1.0


@dataclass(frozen=True)
class Solver:
    """A stochastic optimizer and the length of training, in iterations.

    Attributes:
        iterations: Number of steps, >= 1.
        batch_size: Examples per step and network, >= 1.
        learning_rate: Base learning rate, > 0, which the schedule multiplies.
        name: "sgd" or "adam".
        momentum: Momentum of SGD, in [0, 1).
        nesterov: Whether SGD uses Nesterov momentum.
        weight_decay: L2 penalty of all parameters, >= 0, which is added to the gradient as in Caffe.
        delta: Constant of Adam, > 0, with Caffe's meaning; see `emphasis.training.optimizers`.
        betas: Coefficients of Adam, each in [0, 1).
        schedule: Schedule of the learning rate.
    """

    iterations: int
    batch_size: int
    learning_rate: float
    name: Literal["sgd", "adam"] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    delta: float = 1e-8
    betas: tuple[float, ...] = (0.9, 0.999)
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        for name in ("iterations", "batch_size"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "use a whole number >= 1")
        check(self.name in ("sgd", "adam"), "name", self.name, 'use "sgd" or "adam"')
        for name in ("learning_rate", "delta"):
            check(0.0 < getattr(self, name) < math.inf, name, getattr(self, name), "use a finite number > 0")
        check(0.0 <= self.momentum < 1.0, "momentum", self.momentum, "use a number in [0, 1)")
        check(not self.nesterov or self.momentum > 0.0, "nesterov", True, "give a momentum > 0 with it")
        check(self.name == "sgd" or self.momentum == 0.0, "momentum", self.momentum, "use betas instead with Adam")
        check(0.0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "use a finite number >= 0")
        good = len(self.betas) == 2 and all(0.0 <= beta < 1.0 for beta in self.betas)
        check(good, "betas", self.betas, "use two numbers in [0, 1)")


@dataclass(frozen=True)
class ClipSolver(Solver):
    """A solver whose batches consist of clips of videos.

    Attributes:
        clip: Number of consecutive frames of the same video in a batch, >= 1.
        videos: Number of consecutive videos of the same person, >= 1. If both are 1, examples are drawn individually.
    """

    clip: int = 1
    videos: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("clip", "videos"):
            check(getattr(self, name) >= 1, name, getattr(self, name), "use a whole number >= 1")
        parts = self.clip * self.videos
        check(self.batch_size % parts == 0, "batch_size", self.batch_size, f"use a multiple of clip * videos = {parts}")

    def simplified(self) -> Solver:
        """Return a plain solver if examples are drawn individually, and this solver otherwise."""
        if self.clip * self.videos > 1:
            return self
        return Solver(**{part.name: getattr(self, part.name) for part in fields(Solver)})


def clip_length(solver: Solver) -> int:
    """Return the number of consecutive frames of a video in a batch; 1 if examples are drawn individually."""
    return solver.clip if isinstance(solver, ClipSolver) else 1


@dataclass(frozen=True)
class Execution:
    """Settings of the execution of training: devices, precision and compilation.

    Attributes:
        accelerator: "auto", "cpu", "cuda" or "mps", as accepted by Lightning Fabric.
        precision: "32-true", "bf16-mixed" or "16-mixed".
        compile: Whether `torch.compile` is applied to the network.
        devices: Number of devices of this machine that the batch of each step is split over, with a process each.
        strategy: Distribution of the network and the optimizer over several devices: "ddp" replicates them, "fsdp"
            shards them.
    """

    accelerator: str = "auto"
    precision: str = "32-true"
    compile: bool = False
    devices: int = 1
    strategy: Literal["ddp", "fsdp"] = "ddp"

    def __post_init__(self) -> None:
        known = ("auto", "cpu", "cuda", "mps")
        check(self.accelerator in known, "accelerator", self.accelerator, f"use one of {', '.join(known)}")
        check(self.precision in PRECISIONS, "precision", self.precision, f"use one of {', '.join(PRECISIONS)}")
        check(self.devices >= 1, "devices", self.devices, "use a whole number >= 1")
        check(self.strategy in STRATEGIES, "strategy", self.strategy, f"use one of {', '.join(STRATEGIES)}")


def number_of_ranks(execution: Execution) -> int:
    """Return the number of processes that train each network together, one per device on all machines of torchrun.

    Raises:
        ValueError: torchrun has started another number of processes on this machine than there are devices, or FSDP is
            requested for one device.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", execution.devices))
    if here != execution.devices:
        raise EmphasisValueError(
            f"devices={execution.devices} is not allowed where torchrun has started {here} processes on "
            f"this machine; use {here}, or --nproc-per-node {execution.devices}"
        )
    ranks = int(os.environ["WORLD_SIZE"]) if "LOCAL_WORLD_SIZE" in os.environ else here
    alone = execution.strategy == "fsdp" and ranks == 1
    check(not alone, "strategy", execution.strategy, "give devices >= 2 with it, over which the network is sharded")
    return ranks
