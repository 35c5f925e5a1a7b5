"""DM's lam, beta, form, normalisation and learning rate for data of which no label is known to be right.

Section 4.1 of the paper sets the emphasis mode first, by how much noise there is, and then searches the spread on a
validation set. Here nothing is trusted: the noise rate is estimated from what a network made of the labels
(`experiments.audit`), and the rest is judged by held-out labels with all their noise. Cross-entropy, at the learning
rate that suits it best, is judged by the same folds, and recommended unless the best found is clearly better.

The folder of a tuning:

    audit/               the network that the noise rate was estimated from, and its page
    search/              the search
    tune.json            what was found, in numbers
    tune.html            the page
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from emphasis.datasets.download import Progress, silent
from emphasis.datasets.split import folds_of
from emphasis.diagnostics.noise_rate import mixture_noise_rate
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.jobs import Say
from emphasis.experiments.runs.runner import JobProgress
from emphasis.experiments.runs.store import claim, without_nan
from emphasis.experiments.studies.audit import Audit, as_audit, audit, has_changed
from emphasis.experiments.studies.own_data import with_method
from emphasis.experiments.studies.rates import at_rates, best_of, is_to_be_found, with_rate
from emphasis.experiments.studies.search import Found, Trial, Vary, describe, final_accuracies, final_accuracy, search
from emphasis.files import naming_refusals, write_text
from emphasis.learning_rate import HELD_OUT
from emphasis.metrics import mean_and_std
from emphasis.training.settings import Execution
from emphasis.weighting import CCE, DEFAULT_WEIGHTING, DM, Weighting, from_dict, lam_for

TUNE, PAGE, AUDIT = "tune.json", "tune.html", "audit"
SPACE = (
    Vary("weighting.beta", low=0.5, high=24.0, log=True),
    Vary("weighting.vanishing", (False, True)),
    Vary("normalization", ("integral", "batch")),
)
_METHOD, _CCE = "DM", Method("CCE", weighting={"family": "CCE"})
_START = 4.0  # beta of a method whose beta is to be searched
_RATE = "solver.learning_rate"
_LAM = Vary("weighting.lam", (0.0, 0.5, 1.0))  # of two classes, whose noise rate cannot be estimated well
_STEEPEST = 10.0  # the most that a learning rate makes up for a weak push at the beginning


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning has found.

    Attributes:
        recipe: What its networks were trained by.
        noise_rate: Estimated, or as told.
        audit: What it was estimated from; None if it was told.
        num_classes: C.
        lam: For that rate and number of classes.
        found: The search.
        baseline: Cross-entropy at the learning rate that suits it best, of the same folds and seeds.
        unlearned: Share of the labels it was trained on that it contradicts in the end.
    """

    recipe: Recipe
    noise_rate: float
    audit: Audit | None
    num_classes: int
    lam: float
    found: Found
    baseline: Trial
    unlearned: float

    @property
    def title(self) -> str:
        """Of what data."""
        return self.recipe.title

    @property
    def told(self) -> bool:
        """Whether the noise rate was told."""
        return self.audit is None

    @cached_property
    def mixture_rate(self) -> float:
        """The estimate of a mixture of two normal distributions, to be compared; NaN if nothing was estimated."""
        return math.nan if self.audit is None else mixture_noise_rate(self.audit.suspects.score)

    @property
    def doubtful(self) -> bool:
        """Whether the noise rate is an estimate of two classes: those who learned wrong labels contradict none."""
        return not self.told and self.num_classes == 2

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Between what the noise rate may lie; NaN if it was told.

        A network contradicts too few of the labels that it was trained on, where it has learned wrong ones. Of labels
        that were held out it contradicts the wrong ones, and too many besides: those that it could not predict. The
        interval holds both shares, and the estimate, with two standard errors at either end.
        """
        if self.audit is None:
            return math.nan, math.nan
        labels = len(self.audit.labels)
        held_out = 1.0 - max(self.baseline.mean, self.found.best.mean)
        shares = [(self.unlearned, labels), (self.noise_rate, labels), (held_out, labels * HELD_OUT * self.folds)]
        ends = [2.0 * math.sqrt(share * (1.0 - share) / number) for share, number in shares]
        low = min(share - end for (share, _), end in zip(shares, ends, strict=True))
        high = max(share + end for (share, _), end in zip(shares, ends, strict=True))
        return max(0.0, low), min(1.0, high)

    @cached_property
    def difference(self) -> tuple[float, float]:
        """Mean and standard deviation over folds and seeds of the best trial's accuracy less cross-entropy's."""
        pairs = zip(self.found.best.accuracies, self.baseline.accuracies, strict=True)
        mean, std = mean_and_std([ours - theirs for ours, theirs in pairs])
        return float(mean), float(std)

    @property
    def clearly_better(self) -> bool:
        """Whether the best trial is ahead of cross-entropy by more than the spread, which takes two networks to see."""
        mean, std = self.difference
        return mean > 0.0 and mean > std

    @property
    def folds(self) -> int:
        """By how many the best was judged: by all."""
        return self.found.best.folds

    @property
    def ranked(self) -> list[Trial]:
        """The trials from best to worst, those that were stopped early last."""
        return sorted(self.found.trials, key=lambda trial: (-trial.folds, -trial.mean))

    @property
    def stopped_early(self) -> int:
        """How many trials fell behind, and were not judged by every fold."""
        return sum(trial.folds < self.folds for trial in self.found.trials)

    @property
    def best_weighting(self) -> Weighting:
        """DM of the best trial."""
        return weighting_of(self.lam, self.found.best.settings)

    @property
    def recommended(self) -> Trial:
        """The best trial if it is clearly better than cross-entropy, else that."""
        return self.found.best if self.clearly_better else self.baseline

    @property
    def weighting(self) -> Weighting:
        """What is recommended."""
        return self.best_weighting if self.clearly_better else CCE()

    @property
    def normalization(self) -> str:
        """Of what is recommended."""
        return str(self.recommended.settings.get("normalization", "integral"))

    @property
    def learning_rate(self) -> float:
        """Of what is recommended; it falls to 0 by `emphasis.learning_rate.cosine`."""
        return float(self.recommended.settings.get(_RATE, next(self.recipe.cells()).solver.learning_rate))

    @property
    def verdict(self) -> str:
        """Why that is recommended, in a sentence."""
        mean, std = self.difference
        if math.isnan(std):
            return "One network cannot show what is clearly better than cross-entropy: use more folds or seeds."
        how = f"{100 * mean:+.1f} ± {100 * std:.1f} points over {len(self.found.best.accuracies)} networks"
        if self.clearly_better:
            return f"The best DM is clearly better than cross-entropy at its best learning rate: {how}."
        return f"Nothing is clearly better than cross-entropy at its best learning rate: the best DM is {how}."

    @property
    def python(self) -> str:
        """The line of Python that makes its loss."""
        return f'EmphasisLoss({self.weighting!r}, normalization="{self.normalization}")'


def weighting_of(lam: float, settings: dict[str, Any]) -> Weighting:
    """Return the weighting of a trial's settings."""
    own = {name.removeprefix("weighting."): value for name, value in settings.items() if name.startswith("weighting.")}
    return from_dict({"family": "DM", "lam": lam, "beta": _START, **own})


def tune(
    recipe: Recipe,
    folder: Path,
    *,
    condition: str = "",
    noise_rate: float | None = None,
    assumed_rate: float | None = None,
    space: Sequence[Vary] = SPACE,
    trials: int = 24,
    batch: int = 8,
    folds: int = 3,
    seeds: int = 1,
    seed: int = 0,
    iterations: int | None = None,
    retrain: bool = False,
    root: Path | None = None,
    execution: Execution | None = None,
    workers: int = 1,
    threads: int | None = None,
    force: bool = False,
    progress: JobProgress = lambda _job, _done, _total: None,
    loading: Progress = silent,
    say: Say = lambda _: None,
) -> Tuned:
    """Choose lam by an estimate of the noise rate and the rest by a search on noisy labels, or go on with that.

    The learning rate is searched as well if the recipe leaves it to be found (`experiments.rates`), and lam, unless the
    noise rate is told, if there are two classes.

    Args:
        recipe: Its data, noise, network and solver are taken.
        folder: Where networks are kept.
        condition: The recipe's column; "": the first.
        noise_rate: Put symmetric noise of this rate on the labels first; None: as the recipe.
        assumed_rate: Do not estimate, take this.
        space: What to search; without weighting.lam, lam follows from the noise rate.
        trials: In all.
        batch: Trials suggested, and trained, together.
        folds: Fifths of the training data, 5 at most, that a trial is judged by, unless it falls behind.
        seeds: Networks per trial and fold.
        seed: Of the search's sampler.
        iterations: Steps; None: the recipe's, and for a table or a folder what suits the number of examples.
        retrain: Whether the best is trained on all the training data in the end, and tested.
        root: Where data sets are.
        execution: Where and how it runs.
        workers: Processes.
        threads: For torch, in each.
        force: Begin anew, whatever the folder holds.
        progress: As `runner.run`'s.
        loading: Told how far the data is loaded.
        say: Called with what the user should know.

    Raises:
        RecipeError, DataError: As `own_data.with_method`.
        FolderError: `folder` holds something else, or other data.
        ValueError: A network that the estimate needs diverged, or a setting is not allowed.
        ModuleNotFoundError: Optuna, of the extra "search", is missing.
    """
    import optuna  # noqa: F401  (so that it is missed before anything is trained)

    if not 1 <= folds <= (most := folds_of(HELD_OUT)):
        raise RecipeError(f"folds={folds} is not allowed; use a whole number, 1 to {most}")
    if trials < 1:
        raise RecipeError(f"trials={trials} is not allowed; use a whole number >= 1")
    about: dict[str, Any] = {"condition": condition, "noise_rate": noise_rate, "iterations": iterations, "root": root}
    base, split = with_method(recipe, _dm(0.0), **about, loading=loading)
    searched = searched_by(base)
    if force or has_changed(folder / "search", searched):
        if not force:
            say("the data has changed since the last time: beginning anew")
        with naming_refusals("write to", folder):
            claim(folder / "search", searched, force=True)
    base = replace(base, seeds=seeds)
    how: dict[str, Any] = {
        "root": root, "execution": execution, "workers": workers, "threads": threads, "progress": progress,
        "loading": loading, "say": say,
    }  # fmt: skip
    compared = replace(searched_by(base), methods=(_CCE,), baseline=_CCE.name)
    by_rate = at_rates(compared, folder / "search", folds=folds, **how)
    best = best_of(by_rate)
    baseline = Trial({_RATE: best}, *final_accuracy(by_rate[best]), folds, final_accuracies(by_rate[best]))
    unlearned = 1.0 - float(np.mean([row["final_fit_noisy"] or 0.0 for row in by_rate[best]]))
    say(f"cross-entropy is best at a learning rate of {best:g}: {100 * baseline.mean:.2f} %")
    space = [*space, *more_space(space, best if is_to_be_found(base) else None, split.num_classes, assumed_rate)]
    found_wrong: Audit | None = None
    if assumed_rate is None:
        audited = replace(as_audit(base, split, DEFAULT_WEIGHTING), seeds=1)
        found_wrong = audit(audited, split, folder / AUDIT, root=root, execution=execution, force=force,
                            progress=progress, say=say)  # fmt: skip
        rate = found_wrong.suspects.noise_rate
        say(f"estimated noise rate: {100 * rate:.1f} %")
    else:
        rate = assumed_rate
    lam = lam_of(rate, split.num_classes)
    base = with_rate(replace(base, methods=(_dm(lam),)), best)
    held_out: dict[str, Any] = {"validation": HELD_OUT, "noisy_validation": True, "folds": folds}
    found = search(base, folder / "search", method=_METHOD, space=space, trials=trials, batch=batch, seed=seed,
                   retrain=retrain, **held_out, **how)  # fmt: skip
    tuned = Tuned(base, rate, found_wrong, split.num_classes, lam, found, baseline, unlearned)
    write_text(folder / TUNE, json.dumps(without_nan(numbers(tuned)), indent=1, allow_nan=False) + "\n")
    return tuned


def _dm(lam: float) -> Method:
    """Return the method whose other settings are searched."""
    return Method(_METHOD, weighting={"family": "DM", "lam": lam, "beta": _START}, normalization="integral")


def lam_of(noise_rate: float, num_classes: int) -> float:
    """Return lam for a noise rate: `lam_for`'s, less for more than ten classes.

    A network that knows nothing gives each class p = 1/C, where a large lam leaves next to nothing of the push.
    """
    return round(lam_for(noise_rate) * math.log(10) / math.log(max(num_classes, 10)), 2)


def more_space(space: Sequence[Vary], rate: float | None, num_classes: int, told: float | None) -> list[Vary]:
    """Return what is searched beside `space`: learning rates around cross-entropy's, and of two classes lam.

    The integral fixes the area under w, not the push at p = 1/C, where training starts. The more classes, the weaker
    that is beside cross-entropy's, and the higher a rate may suit.
    """
    names, more = [vary.name for vary in space], []
    if rate is not None and _RATE not in names:
        chance = 1.0 / num_classes
        push = [float(one.density(chance)) for one in (CCE(), DM(lam=0.5, beta=_START, vanishing=True))]
        weaker = min(max(push[0] / push[1], 1.0), _STEEPEST)
        more.append(Vary(_RATE, low=rate / 3.0, high=3.0 * weaker * rate, log=True))
    if num_classes == 2 and told is None and _LAM.name not in names:
        more.append(_LAM)
    return more


def searched_by(base: Recipe) -> Recipe:
    """Return the recipe as the folder of the search knows it."""
    return replace(base, name=f"{base.name}-search")


def described(trial: Trial) -> str:
    """Return a trial's settings as text, such as "beta=7.12, vanishing=True, normalization=integral"."""
    shown = {name.removeprefix("weighting.").removeprefix("solver."): value for name, value in trial.settings.items()}
    return describe(shown)


def numbers(tuned: Tuned) -> dict[str, Any]:
    """Return what was found as plain data."""
    best, baseline = tuned.found.best, tuned.baseline
    return {
        "noise_rate": tuned.noise_rate,
        "told": tuned.told,
        "noise_rate_interval": tuned.interval,
        "noise_rate_doubtful": tuned.doubtful,
        "unlearned": tuned.unlearned,
        "mixture_rate": tuned.mixture_rate,
        "num_classes": tuned.num_classes,
        "lam": tuned.lam,
        "recommended": "DM" if tuned.clearly_better else "cross-entropy",
        "difference": dict(zip(("mean", "std"), tuned.difference, strict=True)),
        "learning_rate": tuned.learning_rate,
        "weighting": tuned.weighting.to_dict(),
        "normalization": tuned.normalization,
        "python": tuned.python,
        "validation": {"mean": best.mean, "std": best.std, "folds": tuned.folds},
        "best_trial": {**best.settings, "lam": tuned.best_weighting.to_dict()["lam"]},
        "cross_entropy": {"mean": baseline.mean, "std": baseline.std, "folds": tuned.folds, **baseline.settings},
        "trials": len(tuned.found.trials),
        "stopped_early": tuned.stopped_early,
    }
