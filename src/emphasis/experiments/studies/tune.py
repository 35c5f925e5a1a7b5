"""Tuning: DM's lam, beta and form, normalization and learning rate, for data of which no label is known to be right.

Section 4.1 of the paper first sets the emphasis mode by the amount of noise, and then searches the emphasis variance
on a validation set. Here no label is trusted: the noise rate is estimated from the predictions of a network during
training (`studies.audit`), and everything else is searched by the accuracy on held-out labels with all their noise.
Cross-entropy at its best learning rate is evaluated on the same folds, and is recommended unless the best trial is
clearly better.

The folder of a tuning:

    audit/               the network that the noise rate is estimated from, and its page
    search/              the search
    tune.json            the result in numbers
    tune.html            the page
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from emphasis.datasets import Split
from emphasis.datasets.split import folds_of
from emphasis.experiments.recipes.convert import RecipeError
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext
from emphasis.experiments.runs.store import acquire, without_nan
from emphasis.experiments.studies.accuracy import final_accuracies, final_accuracy
from emphasis.experiments.studies.audit import as_audit_recipe, audit, has_changed
from emphasis.experiments.studies.audit_result import Audit
from emphasis.experiments.studies.own_data import single_method_recipe
from emphasis.experiments.studies.rates import best_of, needs_rate, train_at_rates, with_rate
from emphasis.experiments.studies.search import Trial, search
from emphasis.experiments.studies.space import Vary
from emphasis.experiments.studies.tuning_result import INITIAL_BETA, RATE, TuningResult, numbers
from emphasis.files import naming_refusals, write_text
from emphasis.learning_rate import HELD_OUT
from emphasis.weighting import CCE, DEFAULT_WEIGHTING, DM, lam_for

TUNE, PAGE, AUDIT = "tune.json", "tune.html", "audit"
SPACE = (
    Vary("weighting.beta", low=0.5, high=24.0, log=True),
    Vary("weighting.vanishing", (False, True)),
    Vary("normalization", ("integral", "batch")),
)
_METHOD, _CCE = "DM", Method("CCE", weighting={"family": "CCE"})
_LAM = Vary("weighting.lam", (0.0, 0.5, 1.0))  # for two classes, where the noise rate cannot be estimated well
_MAX_RATE_FACTOR = 10.0  # by which the learning rate may make up for small gradients at the beginning


def tune(
    recipe: Recipe,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
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
    force: bool = False,
) -> TuningResult:
    """Choose lam by an estimate of the noise rate, and the rest by a search on noisy labels; continue if stopped.

    The learning rate is searched too if the recipe leaves it open (`studies.rates`), and so is lam for two classes,
    unless the noise rate is given.

    Args:
        recipe: Recipe whose data, noise, network and solver are used.
        folder: Folder of the networks.
        context: How they are trained.
        reporter: Receives progress and messages.
        condition: Condition of the recipe; "" for the first.
        noise_rate: Rate of symmetric noise to put on the labels first; None for the noise of the recipe.
        assumed_rate: Noise rate to take instead of estimating it.
        space: Settings to search; unless it contains weighting.lam, lam follows from the noise rate.
        trials: Total number of trials.
        batch: Number of trials that are suggested and trained together.
        folds: Number of fifths of the training data, at most 5, that a trial is evaluated on unless it is pruned.
        seeds: Number of networks per trial and fold.
        seed: Seed of the sampler.
        iterations: Number of training steps; None for the recipe's, or for what suits the size of a table or folder.
        retrain: Whether the best settings are trained on the whole training part and tested.
        force: Whether everything is trained anew.

    Returns:
        The recommendation, with the search and the audit behind it.

    Raises:
        RecipeError, DataError: As `own_data.single_method_recipe`.
        FolderError: If `folder` holds something else, or other data.
        ValueError: If a network that the estimate needs diverged, or a setting is not allowed.
        ModuleNotFoundError: If Optuna, of the extra "search", is missing.
    """
    import optuna  # noqa: F401  (if it is missing, this is noticed before anything is trained)

    if not 1 <= folds <= (most := folds_of(HELD_OUT)):
        raise RecipeError(f"folds={folds} is not allowed; use a whole number, 1 to {most}")
    if trials < 1:
        raise RecipeError(f"trials={trials} is not allowed; use a whole number >= 1")
    base, split = single_method_recipe(
        recipe, _dm(0.0), context, reporter, condition=condition, noise_rate=noise_rate, iterations=iterations
    )
    search_folder, search_recipe = folder / "search", _for_search(base)
    if force or has_changed(search_folder, search_recipe):
        if not force:
            reporter.message("the data has changed since the last time: starting from the beginning")
        with naming_refusals("write to", search_folder):
            acquire(search_folder, search_recipe, force=True)
    base = replace(base, seeds=seeds)
    baseline, contradicted = _train_cross_entropy(base, search_folder, context, reporter, folds)
    best_rate = baseline.settings[RATE]
    rate, audited = assumed_rate, None
    if rate is None:
        audited = _estimate(base, split, folder / AUDIT, context, reporter, force)
        rate = audited.suspects.noise_rate
    lam = lam_of(rate, split.num_classes)
    added = more_space(space, best_rate if needs_rate(base) else None, split.num_classes, assumed_rate)
    base = with_rate(replace(base, methods=(_dm(lam),)), best_rate)
    result = search(
        base,
        search_folder,
        context,
        reporter,
        method=_METHOD,
        space=[*space, *added],
        trials=trials,
        batch=batch,
        validation=HELD_OUT,
        noisy_validation=True,
        folds=folds,
        retrain=retrain,
        seed=seed,
    )
    tuned = TuningResult(base, rate, audited, split.num_classes, lam, result, baseline, contradicted)
    write_text(folder / TUNE, json.dumps(without_nan(numbers(tuned)), indent=1, allow_nan=False) + "\n")
    return tuned


def _train_cross_entropy(
    base: Recipe, folder: Path, context: RunContext, reporter: Reporter, folds: int
) -> tuple[Trial, float]:
    """Train cross-entropy at all candidate learning rates.

    Returns:
        The best rate as a trial, and the fraction of its training labels that it contradicts at the end.
    """
    recipe = replace(_for_search(base), methods=(_CCE,), baseline=_CCE.name)
    rows_by_rate = train_at_rates(recipe, folder, context, reporter, folds=folds)
    rate = best_of(rows_by_rate)
    rows = rows_by_rate[rate]
    trial = Trial({RATE: rate}, *final_accuracy(rows), folds, final_accuracies(rows))
    reporter.message(f"cross-entropy is best at a learning rate of {rate:g}: {100 * trial.mean:.2f} %")
    return trial, 1.0 - float(np.mean([row["final_fit_noisy"] or 0.0 for row in rows]))


def _estimate(base: Recipe, split: Split, folder: Path, context: RunContext, reporter: Reporter, force: bool) -> Audit:
    """Return an audit, whose suspects estimate the noise rate."""
    recipe = replace(as_audit_recipe(base, split, DEFAULT_WEIGHTING), seeds=1)
    audited = audit(recipe, split, folder, replace(context, workers=1, threads=None), reporter, force=force)
    reporter.message(f"estimated noise rate: {100 * audited.suspects.noise_rate:.1f} %")
    return audited


def _dm(lam: float) -> Method:
    """Return the method whose other settings are searched."""
    return Method(_METHOD, weighting={"family": "DM", "lam": lam, "beta": INITIAL_BETA}, normalization="integral")


def _for_search(base: Recipe) -> Recipe:
    """Return the recipe under the name that the folder of the search has."""
    return replace(base, name=f"{base.name}-search")


def lam_of(noise_rate: float, num_classes: int) -> float:
    """Return lam for a noise rate: that of `lam_for`, and less for more than ten classes.

    An untrained network gives each class p = 1/C, where a large lam leaves hardly any gradient.
    """
    return round(lam_for(noise_rate) * math.log(10) / math.log(max(num_classes, 10)), 2)


def more_space(space: Sequence[Vary], rate: float | None, num_classes: int, assumed_rate: float | None) -> list[Vary]:
    """Return what is searched in addition to `space`.

    Args:
        space: Settings that are searched already.
        rate: The best learning rate of cross-entropy, around which others are searched; None if it is given.
        num_classes: C.
        assumed_rate: Noise rate that was given; None if it was estimated, which is not reliable for two classes.

    The integral fixes the area under w, not the gradient at p = 1/C, where training starts. With more classes that
    gradient is smaller relative to cross-entropy's, and a higher learning rate may suit.
    """
    names, added = [vary.name for vary in space], []
    if rate is not None and RATE not in names:
        chance = 1.0 / num_classes
        baseline, vanishing = (
            float(weighting.density(chance)) for weighting in (CCE(), DM(lam=0.5, beta=INITIAL_BETA, vanishing=True))
        )
        factor = min(max(baseline / vanishing, 1.0), _MAX_RATE_FACTOR)
        added.append(Vary(RATE, low=rate / 3.0, high=3.0 * factor * rate, log=True))
    if num_classes == 2 and assumed_rate is None and _LAM.name not in names:
        added.append(_LAM)
    return added
