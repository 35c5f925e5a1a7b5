"""What tuning finds: the recommended weighting, and the numbers behind the recommendation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from emphasis.diagnostics.noise_rate import mixture_noise_rate
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.studies.audit_result import Audit
from emphasis.experiments.studies.search import SearchResult, Trial, describe_settings
from emphasis.learning_rate import HELD_OUT
from emphasis.metrics import mean_and_std
from emphasis.weighting import CCE, Weighting, from_dict

INITIAL_BETA = 4.0
"""beta of a DM whose beta is to be searched."""

RATE = "solver.learning_rate"


@dataclass(frozen=True, eq=False)
class TuningResult:
    """Result of tuning.

    Attributes:
        recipe: Recipe of the networks.
        noise_rate: Estimated noise rate, or the one that was given.
        audit: Audit that the estimate is from; None if the noise rate was given.
        num_classes: Number C of classes.
        lam: lam for this noise rate and number of classes.
        search: Result of the search.
        baseline: Cross-entropy at its best learning rate, on the same folds and seeds.
        contradicted: Fraction of its training labels that cross-entropy contradicts at the end.
    """

    recipe: Recipe
    noise_rate: float
    audit: Audit | None
    num_classes: int
    lam: float
    search: SearchResult
    baseline: Trial
    contradicted: float

    @property
    def title(self) -> str:
        """Title of the data."""
        return self.recipe.title

    @property
    def rate_is_given(self) -> bool:
        """Whether the noise rate was given, not estimated."""
        return self.audit is None

    @cached_property
    def mixture_rate(self) -> float:
        """Noise rate by a mixture of two normal distributions, for comparison; NaN if nothing was estimated."""
        return math.nan if self.audit is None else mixture_noise_rate(self.audit.suspects.score)

    @property
    def doubtful(self) -> bool:
        """Whether the noise rate is an estimate for two classes: memorized wrong labels contradict nothing."""
        return not self.rate_is_given and self.num_classes == 2

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Range of possible noise rates; NaN if the noise rate was given.

        A network contradicts too few of its training labels if it has memorized wrong ones. Of held-out labels it
        contradicts the wrong ones, and in addition those that it cannot predict. The interval covers both fractions
        and the estimate, with two standard errors at either end.
        """
        if self.audit is None:
            return math.nan, math.nan
        labels = len(self.audit.labels)
        held_out = 1.0 - max(self.baseline.mean, self.search.best.mean)
        rates = [
            (self.contradicted, labels),
            (self.noise_rate, labels),
            (held_out, labels * HELD_OUT * self.folds),
        ]
        errors = [2.0 * math.sqrt(rate * (1.0 - rate) / count) for rate, count in rates]
        low = min(rate - error for (rate, _), error in zip(rates, errors, strict=True))
        high = max(rate + error for (rate, _), error in zip(rates, errors, strict=True))
        return max(0.0, low), min(1.0, high)

    @cached_property
    def difference(self) -> tuple[float, float]:
        """Mean and standard deviation, over folds and seeds, of the best trial's accuracy minus cross-entropy's."""
        pairs = zip(self.search.best.accuracies, self.baseline.accuracies, strict=True)
        mean, std = mean_and_std([ours - theirs for ours, theirs in pairs])
        return float(mean), float(std)

    @property
    def clearly_better(self) -> bool:
        """Whether the best trial exceeds cross-entropy by more than the standard deviation of the difference."""
        mean, std = self.difference
        return mean > 0.0 and mean > std

    @property
    def folds(self) -> int:
        """Number of folds that the best trial was evaluated on, which is all."""
        return self.search.best.folds

    @property
    def ranked(self) -> list[Trial]:
        """Trials from best to worst; those that were pruned come last."""
        return sorted(self.search.trials, key=lambda trial: (-trial.folds, -trial.mean))

    @property
    def stopped_early(self) -> int:
        """Number of trials that were pruned before the last fold."""
        return sum(trial.folds < self.folds for trial in self.search.trials)

    @property
    def best_weighting(self) -> Weighting:
        """DM of the best trial."""
        return weighting_of(self.lam, self.search.best.settings)

    @property
    def recommended(self) -> Trial:
        """The best trial if it is clearly better than cross-entropy, otherwise cross-entropy."""
        return self.search.best if self.clearly_better else self.baseline

    @property
    def weighting(self) -> Weighting:
        """Recommended weighting."""
        return self.best_weighting if self.clearly_better else CCE()

    @property
    def normalization(self) -> str:
        """Recommended normalization."""
        return str(self.recommended.settings.get("normalization", "integral"))

    @property
    def learning_rate(self) -> float:
        """Recommended initial learning rate; it falls to 0 by `emphasis.learning_rate.cosine`."""
        return float(self.recommended.settings.get(RATE, next(self.recipe.cells()).solver.learning_rate))

    @property
    def verdict(self) -> str:
        """The reason for the recommendation, in one sentence."""
        mean, std = self.difference
        if math.isnan(std):
            return "One network cannot show what is clearly better than cross-entropy: use more folds or seeds."
        points = f"{100 * mean:+.1f} ± {100 * std:.1f} points over {len(self.search.best.accuracies)} networks"
        if self.clearly_better:
            return f"The best DM is clearly better than cross-entropy at its best learning rate: {points}."
        return f"Nothing is clearly better than cross-entropy at its best learning rate: the best DM is {points}."

    @property
    def python(self) -> str:
        """Python code of the recommended loss."""
        return f'EmphasisLoss({self.weighting!r}, normalization="{self.normalization}")'


def weighting_of(lam: float, settings: Mapping[str, Any]) -> Weighting:
    """Return the weighting of a trial: a DM with `lam`, unless the settings say otherwise."""
    parameters = {
        name.removeprefix("weighting."): value for name, value in settings.items() if name.startswith("weighting.")
    }
    return from_dict({"family": "DM", "lam": lam, "beta": INITIAL_BETA, **parameters})


def described(trial: Trial) -> str:
    """Return a trial's settings as text, such as "beta=7.12, vanishing=True, normalization=integral"."""
    return describe_settings(
        {name.removeprefix("weighting.").removeprefix("solver."): value for name, value in trial.settings.items()}
    )


def numbers(result: TuningResult) -> dict[str, Any]:
    """Return the content of tune.json."""
    best, baseline = result.search.best, result.baseline
    return {
        "noise_rate": result.noise_rate,
        "told": result.rate_is_given,
        "noise_rate_interval": result.interval,
        "noise_rate_doubtful": result.doubtful,
        "unlearned": result.contradicted,
        "mixture_rate": result.mixture_rate,
        "num_classes": result.num_classes,
        "lam": result.lam,
        "recommended": "DM" if result.clearly_better else "cross-entropy",
        "difference": dict(zip(("mean", "std"), result.difference, strict=True)),
        "learning_rate": result.learning_rate,
        "weighting": result.weighting.to_dict(),
        "normalization": result.normalization,
        "python": result.python,
        "validation": {"mean": best.mean, "std": best.std, "folds": result.folds},
        "best_trial": {**best.settings, "lam": result.best_weighting.to_dict()["lam"]},
        "cross_entropy": {"mean": baseline.mean, "std": baseline.std, "folds": result.folds, **baseline.settings},
        "trials": len(result.search.trials),
        "stopped_early": result.stopped_early,
    }
