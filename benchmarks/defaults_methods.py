"""The losses of benchmarks/defaults.py, as formulas of their own: derivatives with respect to the logits.

What a weighting w(p) does is a factor r(p) on cross-entropy's derivative S - onehot(y), with r = w(p) / (2 (1 - p)).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_LEAST = 1e-12  # of p: a power of it is still a number
WARM_UP = 0.2  # the share of the steps that the warm-up lasts


@dataclass(frozen=True)
class Batch:
    """What n networks say of the same B examples: probabilities S (n, B, C), labels y and numbers `rows` (B,)."""

    S: Tensor
    y: Tensor
    rows: Tensor

    @cached_property
    def p(self) -> Tensor:
        """Return (n, B), the labels' probabilities."""
        return self.S[:, torch.arange(len(self.y)), self.y]

    @cached_property
    def push(self) -> Tensor:
        """Return cross-entropy's derivative, S - onehot(y)."""
        push = self.S.clone()
        push[:, torch.arange(len(self.y)), self.y] -= 1.0
        return push


class Method:
    """A loss; this one is cross-entropy."""

    warms_up = False

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self, networks: int, classes: int, examples: int) -> None:
        """Forget all, for `networks` networks that will learn from `examples` examples."""
        self.networks, self.classes, self.examples = networks, classes, examples

    def derivative(self, batch: Batch) -> Tensor:
        """Return (n, B, C), the derivative of each example's loss."""
        return batch.push


class Relative(Method):
    """Cross-entropy's derivative times (p / p_max)^e, with p_max the largest probability of the example's classes.

    The exponent e is q p_max^certainty: with certainty > 0 a network that is not sure of anything is not believed.
    With `doubt` > 0 it is multiplied by min(1, mean (p_max - p) / doubt)^power, the mean over the batch: where the
    network contradicts few labels there is little to hold back.
    """

    def __init__(self, name: str, q: float, certainty: float = 0.0, doubt: float = 0.0, power: float = 1.0) -> None:
        super().__init__(name)
        self.q, self.certainty, self.doubt, self.power = q, certainty, doubt, power

    def derivative(self, batch: Batch) -> Tensor:
        largest = batch.S.amax(-1)
        exponent = self.exponent(batch)
        if self.doubt:
            doubt = ((largest - batch.p).mean(-1, keepdim=True) / self.doubt).clamp_max(1.0)
            exponent = exponent * doubt**self.power
        return batch.push * (batch.p.clamp_min(1e-30) / largest).pow(exponent)[..., None]

    def exponent(self, batch: Batch) -> Tensor | float:
        return self.q * batch.S.amax(-1) ** self.certainty if self.certainty else self.q


class AbovePrior(Relative):
    """Relative with e = q max(0, (p_max - prior) / (1 - prior)), the prior the batch's mean probability of that class.

    A network that gives every example the frequencies of the classes knows nothing, however large p_max is; it learns
    as with cross-entropy.
    """

    def exponent(self, batch: Batch) -> Tensor:
        largest, which = batch.S.max(-1)
        prior = batch.S.mean(1).gather(1, which)
        return self.q * ((largest - prior) / (1.0 - prior).clamp_min(1e-6)).clamp_min(0.0)


class Heard(AbovePrior):
    """`AbovePrior` with an exponent that is smaller for labels of classes that are predicted too rarely.

    It is multiplied by min(1, mean probability of the label's class / its frequency) over the other examples of the
    batch: where labels of a class are contradicted because it has not been learned yet, it is heard until it has.
    """

    def exponent(self, batch: Batch) -> Tensor:
        others = torch.bincount(batch.y, minlength=self.classes)[batch.y] - 1.0
        predicted = batch.S.sum(1)[:, batch.y] - batch.p
        heard = torch.where(others > 0.0, predicted / others.clamp_min(1.0), 1.0).clamp_max(1.0)
        return super().exponent(batch) * heard


class AfterWarmUp(AbovePrior):
    """`AbovePrior` after a warm-up with cross-entropy."""

    warms_up = True

    def start(self, networks: int, classes: int, examples: int) -> None:
        super().start(networks, classes, examples)
        self.switched = False

    def switch(self, _: Tensor) -> None:
        """End the warm-up."""
        self.switched = True

    def derivative(self, batch: Batch) -> Tensor:
        return super().derivative(batch) if self.switched else batch.push


class Weighted(Method):
    """w(p), scaled to the integral 1 over p, as "integral" does."""

    def __init__(self, name: str, weight: Callable[[Tensor], Tensor]) -> None:
        super().__init__(name)
        self.weight = weight
        grid = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
        self.scale: Tensor | float = 1.0 / float(weight(grid).mean())

    def derivative(self, batch: Batch) -> Tensor:
        # No push where 1 - p rounds to 0, as in the library: DM as published divides by it.
        factor = self.scale * torch.where(1.0 - batch.p > 6e-8, self.ratio(batch.p), 0.0)
        return batch.push * factor[..., None]

    def ratio(self, p: Tensor) -> Tensor:
        """Return w(p) / (2 (1 - p)), not scaled."""
        return self.weight(p) / (2.0 * (1.0 - p).clamp_min(6e-8))


class AtChance(Weighted):
    """Vanishing DM(L, beta), L = 0.5 min(1, ln 10 / ln C), scaled to push as cross-entropy does where p = 1 / C."""

    def __init__(self, name: str, beta: float = 1.0) -> None:
        super().__init__(name, vanishing_dm(0.5, beta))
        self.beta = beta

    def start(self, networks: int, classes: int, examples: int) -> None:
        super().start(networks, classes, examples)
        self.weight = vanishing_dm(0.5 * min(1.0, math.log(10.0) / math.log(classes)), self.beta)
        self.scale = 1.0 / float(self.ratio(torch.tensor(1.0 / classes)))


class Blend(Method):
    """(1 - s) cross-entropy + s another loss, s = (mean p of the batch - 1 / C) / 0.3, limited to [0, 1]."""

    def __init__(self, name: str, other: Method) -> None:
        super().__init__(name)
        self.other = other

    def start(self, networks: int, classes: int, examples: int) -> None:
        super().start(networks, classes, examples)
        self.other.start(networks, classes, examples)

    def derivative(self, batch: Batch) -> Tensor:
        share = ((batch.p.mean(-1) - 1.0 / self.classes) / 0.3).clamp(0.0, 1.0)[:, None, None]
        return torch.lerp(batch.push, self.other.derivative(batch), share)


class Budget(Weighted):
    """w(p) scaled so that the weights of a batch have the sum of cross-entropy's, 2 (1 - p), and none exceeds a cap."""

    def __init__(self, name: str, weight: Callable[[Tensor], Tensor], cap: float) -> None:
        super().__init__(name, weight)
        self.cap = cap

    def derivative(self, batch: Batch) -> Tensor:
        weight, rest = self.weight(batch.p), 2.0 * (1.0 - batch.p)
        scale = rest.sum(-1, keepdim=True) / weight.sum(-1, keepdim=True).clamp_min(1e-12)
        return batch.push * ((weight * scale).clamp_max(self.cap) / rest.clamp_min(1e-7))[..., None]


class WarmUp(Weighted):
    """Cross-entropy, then vanishing DM(0.5, 1) with cross-entropy's mean push at the switch (10 "integral" at most)."""

    warms_up = True

    def __init__(self, name: str) -> None:
        super().__init__(name, vanishing_dm(0.5, 1.0))
        self.integral = float(self.scale)

    def start(self, networks: int, classes: int, examples: int) -> None:
        super().start(networks, classes, examples)
        self.switched = False

    def switch(self, p: Tensor) -> None:
        """End the warm-up; p: (n, N) of all training examples."""
        ratio = (2.0 * (1.0 - p)).mean(-1, keepdim=True) / self.weight(p).mean(-1, keepdim=True).clamp_min(1e-12)
        self.scale, self.switched = ratio.clamp_max(10.0 * self.integral), True

    def derivative(self, batch: Batch) -> Tensor:
        return super().derivative(batch) if self.switched else batch.push


class SCE(Method):
    """alpha cross-entropy + beta reverse cross-entropy, with log 0 = -4 (Wang et al., 2019)."""

    def derivative(self, batch: Batch) -> Tensor:
        return batch.push * (0.1 + 4.0 * batch.p)[..., None]


class LabelSmoothing(Method):
    """Cross-entropy with a tenth of the target on all classes."""

    def derivative(self, batch: Batch) -> Tensor:
        return 0.9 * batch.push + 0.1 * (batch.S - 1.0 / self.classes)


class ELR(Method):
    """Cross-entropy + 3 log(1 - <targets, S>), targets a running mean with 0.7 (Liu et al., 2020)."""

    def start(self, networks: int, classes: int, examples: int) -> None:
        super().start(networks, classes, examples)
        self.targets = torch.zeros(networks, examples, classes)

    def derivative(self, batch: Batch) -> Tensor:
        S, rows = batch.S, batch.rows
        clipped = S.clamp(1e-4, 1.0 - 1e-4)
        targets = 0.7 * self.targets[:, rows] + 0.3 * clipped / clipped.sum(-1, keepdim=True)
        self.targets[:, rows] = targets.to(self.targets.dtype)
        slope = -3.0 * targets / (1.0 - (targets * clipped).sum(-1, keepdim=True))
        slope *= clipped == S
        slope -= (slope * S).sum(-1, keepdim=True)
        return batch.push + S * slope


class NCEAndRCE(Method):
    """Normalized and reverse cross-entropy, 1 and 1, with log 0 = -4 (Ma et al., 2020)."""

    def derivative(self, batch: Batch) -> Tensor:
        own = -batch.p.clamp_min(_LEAST).log()[..., None]
        total = -batch.S.clamp_min(_LEAST).log().sum(-1, keepdim=True)
        normalized = (batch.push * total - own * (self.classes * batch.S - 1.0)) / total**2
        return normalized + 4.0 * batch.p[..., None] * batch.push


def vanishing_dm(lam: float, beta: float) -> Callable[[Tensor], Tensor]:
    """Return w(p) = exp(beta p^lam (1 - p)) - 1."""
    return lambda p: torch.expm1(beta * p.clamp_min(_LEAST).pow(lam) * (1.0 - p))


def dm(lam: float, beta: float) -> Callable[[Tensor], Tensor]:
    """Return w(p) = exp(beta p^lam (1 - p))."""
    return lambda p: torch.exp(beta * p.clamp_min(_LEAST).pow(lam) * (1.0 - p))


def gce(q: float) -> Callable[[Tensor], Tensor]:
    """Return w(p) = 2 p^q (1 - p)."""
    return lambda p: 2.0 * p.clamp_min(_LEAST).pow(q) * (1.0 - p)


CCE, BEST = "CCE", "doubt above prior 1"
EARLY = "CCE, stopped early"


def known_methods() -> list[Method]:
    """Return cross-entropy, first, and what was known or proposed before."""
    return [
        Method(CCE),
        WarmUp("calibrated warm-up"),
        AtChance("DM at chance scale"),
        Weighted("GCE 0.7", gce(0.7)),
        SCE("SCE"),
        ELR("ELR"),
        NCEAndRCE("NCE+RCE"),
        LabelSmoothing("label smoothing"),
        Weighted("DM(0.5, 12)", dm(0.5, 12.0)),
        Relative("Relative 0.5", 0.5),
    ]


def candidates() -> list[Method]:
    """Return the forms that the default is chosen from."""
    return [
        Relative("Relative 0.7, 1.5", 0.7, 1.5),
        AbovePrior("above prior 0.7", 0.7),
        AbovePrior("above prior 1", 1.0),
        Relative("doubt 0.7", 0.7, 1.0, 0.2),
        AbovePrior(BEST, 1.0, doubt=0.2),
    ]


def after_warm_up() -> list[Method]:
    """Return the best forms after a warm-up with cross-entropy."""
    return [
        AfterWarmUp("above prior 1 after warm-up", 1.0),
        AfterWarmUp(f"{BEST} after warm-up", 1.0, doubt=0.2),
    ]


def further_forms() -> list[Method]:
    """Return forms that were tried later, and are no better as a whole."""
    return [
        AbovePrior("doubt 0.1", 1.0, doubt=0.1),
        AbovePrior("doubt 0.15 squared", 1.0, doubt=0.15, power=2.0),
        Heard("heard", 1.0, doubt=0.2),
        Heard("heard, doubt 0.15 squared", 1.0, doubt=0.15, power=2.0),
    ]


def blends() -> list[Method]:
    """Return mixtures with cross-entropy, and forms that share out what cross-entropy would give a batch."""
    return [
        Blend("chance scale, blend", AtChance("", 4.0)),
        Blend("budget, cap 2, blend", Budget("", vanishing_dm(0.5, 1.0), 2.0)),
        Blend("budget, cap 4, blend", Budget("", vanishing_dm(0.5, 1.0), 4.0)),
        Weighted("0.3 CCE + 0.7 GCE", lambda p: (0.6 + 1.4 * p.clamp_min(_LEAST).pow(0.7)) * (1.0 - p)),
    ]


MORE = {"candidates": candidates, "warm_up": after_warm_up, "further": further_forms, "blends": blends}
"""What was compared later on the tasks of the perceptrons, by the name of its file."""


def methods() -> list[Method]:
    return [*known_methods(), *candidates(), *after_warm_up()]


def dm_and_gce() -> list[Method]:
    """Return forms of DM with growing beta at lam 0.5 and 0.7; GCE with q = lam is vanishing DM's limit at beta 0."""
    found: list[Method] = [
        Weighted("GCE 0.5", gce(0.5)),
        Weighted("GCE 0.7", gce(0.7)),
        Relative("doubt 0.7", 0.7, 1.0, 0.2),
    ]
    for lam, beta in ((0.5, 1.0), (0.5, 4.0), (0.5, 12.0), (0.7, 4.0)):
        found.append(Weighted(f"vanishing DM({lam:g}, {beta:g})", vanishing_dm(lam, beta)))
    return [*found, Weighted("DM(0.5, 4)", dm(0.5, 4.0)), Weighted("DM(0.5, 12)", dm(0.5, 12.0))]
