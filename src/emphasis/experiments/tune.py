"""DM's lam, beta, form and normalisation for data of which no label is known to be right.

Section 4.1 of the paper sets the emphasis mode first, by how much noise there is, and then searches the spread on a
validation set. Here nothing is trusted: the noise rate is estimated from what a network made of the labels
(`experiments.audit`), and beta is judged by held-out labels with all their noise.

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

from emphasis.datasets.download import Progress, silent
from emphasis.datasets.split import folds_of
from emphasis.diagnostics.noise_rate import mixture_noise_rate
from emphasis.experiments.audit import Audit, as_audit, audit, has_changed
from emphasis.experiments.build import RecipeError
from emphasis.experiments.jobs import Say
from emphasis.experiments.own_data import ROBUST, with_method
from emphasis.experiments.recipe import Method, Recipe
from emphasis.experiments.runner import JobProgress, run
from emphasis.experiments.search import Found, Trial, Vary, describe, final_accuracy, search
from emphasis.experiments.store import claim, without_nan
from emphasis.files import naming_refusals, write_text
from emphasis.training.settings import Execution
from emphasis.weighting import Weighting, from_dict, lam_for

TUNE, PAGE, AUDIT = "tune.json", "tune.html", "audit"
SPACE = (
    Vary("weighting.beta", low=0.5, high=24.0, log=True),
    Vary("weighting.vanishing", (False, True)),
    Vary("normalization", ("integral", "batch")),
)
_METHOD, _BASELINE = "DM", "CCE"
_START = 4.0  # beta of a method whose beta is to be searched
_VALIDATION = 0.2


@dataclass(frozen=True, eq=False)
class Tuned:
    """What a tuning has found.

    Attributes:
        recipe: What its networks were trained by.
        noise_rate: Estimated, or as told.
        audit: What it was estimated from; None if it was told.
        lam: For that rate.
        found: The search.
        baseline: Mean and standard deviation of the validation accuracy with cross-entropy, of the same folds.
    """

    recipe: Recipe
    noise_rate: float
    audit: Audit | None
    lam: float
    found: Found
    baseline: tuple[float, float]

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
    def weighting(self) -> Weighting:
        """The best found."""
        return weighting_of(self.lam, self.found.best.settings)

    @property
    def normalization(self) -> str:
        """Of the best found."""
        return str(self.found.best.settings.get("normalization", "integral"))

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

    if not 1 <= folds <= (most := folds_of(_VALIDATION)):
        raise RecipeError(f"folds={folds} is not allowed; use a whole number, 1 to {most}")
    if trials < 1:
        raise RecipeError(f"trials={trials} is not allowed; use a whole number >= 1")
    about: dict[str, Any] = {"condition": condition, "noise_rate": noise_rate, "iterations": iterations, "root": root}
    base, split = with_method(recipe, _dm(0.0), **about, loading=loading)
    audited = as_audit(base, split, ROBUST)
    searched = replace(base, name=f"{recipe.name}-search")
    if force or has_changed(folder / "search", searched):
        if not force:
            say("the data has changed since the last time: beginning anew")
        with naming_refusals("write to", folder):
            claim(folder / "search", searched, force=True)
    found_wrong: Audit | None = None
    if assumed_rate is None:
        found_wrong = audit(audited, split, folder / AUDIT, root=root, execution=execution, force=force,
                            progress=progress, say=say)  # fmt: skip
        rate = found_wrong.suspects.noise_rate
        say(f"estimated noise rate: {100 * rate:.1f} %")
    else:
        rate = assumed_rate
    lam = round(lam_for(rate), 2)
    base = replace(base, methods=(_dm(lam),), seeds=seeds)
    how: dict[str, Any] = {
        "root": root, "execution": execution, "workers": workers, "threads": threads, "progress": progress,
        "loading": loading, "say": say,
    }  # fmt: skip
    held_out: dict[str, Any] = {"validation": _VALIDATION, "noisy_validation": True, "folds": folds}
    found = search(base, folder / "search", method=_METHOD, space=space, trials=trials, batch=batch, seed=seed,
                   retrain=retrain, **held_out, **how)  # fmt: skip
    baseline = _baseline(base, folder / "search", folds, how)
    tuned = Tuned(base, rate, found_wrong, lam, found, baseline)
    write_text(folder / TUNE, json.dumps(without_nan(numbers(tuned)), indent=1, allow_nan=False) + "\n")
    return tuned


def _dm(lam: float) -> Method:
    """Return the method whose other settings are searched."""
    return Method(_METHOD, weighting={"family": "DM", "lam": lam, "beta": _START}, normalization="integral")


def _baseline(base: Recipe, folder: Path, folds: int, how: dict[str, Any]) -> tuple[float, float]:
    """Return mean and standard deviation of cross-entropy's accuracy on the folds' noisy labels."""
    method = Method(_BASELINE, weighting={"family": "CCE"})
    rows = []
    for fold in range(folds):
        part = base.changed({"dataset.validation": _VALIDATION, "dataset.validation_labels": "noisy",
                             "dataset.fold": fold})  # fmt: skip
        named = replace(part, name=f"{base.name}-search", methods=(method,), baseline=_BASELINE)
        rows += run(named, folder, **how)
    return final_accuracy(rows)


def described(trial: Trial) -> str:
    """Return a trial's settings as text, such as "beta=7.12, vanishing=True, normalization=integral"."""
    return describe({name.removeprefix("weighting."): value for name, value in trial.settings.items()})


def numbers(tuned: Tuned) -> dict[str, Any]:
    """Return what was found as plain data."""
    best = tuned.found.best
    return {
        "noise_rate": tuned.noise_rate,
        "told": tuned.told,
        "mixture_rate": tuned.mixture_rate,
        "lam": tuned.lam,
        "weighting": tuned.weighting.to_dict(),
        "normalization": tuned.normalization,
        "python": tuned.python,
        "validation": {"mean": best.mean, "std": best.std, "folds": tuned.folds},
        "cross_entropy": {"mean": tuned.baseline[0], "std": tuned.baseline[1], "folds": tuned.folds},
        "trials": len(tuned.found.trials),
        "stopped_early": tuned.stopped_early,
    }
