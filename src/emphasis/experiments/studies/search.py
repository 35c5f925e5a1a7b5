"""Search for settings on a validation set, as in section 4 of the paper, with Optuna.

The training part is split 80/20. Each trial trains on the 80 %, with label noise, and is evaluated on the 20 % with
their true labels, or with noisy ones. A data set that comes with a validation part of its own, such as Clothing1M, is
not split: each trial trains on all of the training part and is evaluated on that one. The test set is not used. The
best settings are then trained on the whole training part and tested. With several folds a trial is evaluated on one
20 % after another, and trials that fall behind on the first folds, as Optuna's median pruner decides, are not trained
on the others.

A search stores nothing but its networks, which are cells of the store like any other. The sampler is seeded, so a
search that was stopped starts again from its beginning, finds its networks in the store, and continues as if it had
not been stopped. Processes with the same seed perform the same search at the same time, and share its networks. The
networks of one batch of trials are trained together where possible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emphasis.datasets import OWN_VALIDATION
from emphasis.experiments.recipes.convert import OBJECTIVE, RecipeError, overridden
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.context import DEFAULT_CONTEXT, SILENT, Reporter, RunContext, WithoutResumed
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import JOURNAL, SEARCH, Row, without_nan, writing
from emphasis.experiments.studies.accuracy import final_accuracies, final_accuracy
from emphasis.experiments.studies.space import DEFAULT_SPACE, Vary
from emphasis.files import replacing, write_text

if TYPE_CHECKING:
    import optuna

_RETRAINED = "best, on all training data"


@dataclass(frozen=True)
class Trial:
    """Settings and the validation accuracy that they reach.

    Attributes:
        settings: Value of each varied setting.
        mean: Mean accuracy over folds and seeds.
        std: Standard deviation over folds and seeds.
        folds: Number of folds that it was evaluated on: all, unless it was pruned.
        accuracies: Accuracy of each network, fold by fold and seed by seed.
    """

    settings: dict[str, Any]
    mean: float
    std: float
    folds: int = 1
    accuracies: tuple[float, ...] = ()


@dataclass(frozen=True)
class SearchResult:
    """Result of a search.

    Attributes:
        trials: Trials in the order in which they were suggested.
        best: The trial with the highest mean among those evaluated on every fold.
        rows: Lines of the networks that were trained with the best settings on the whole training part; may be empty.
        validation: What the trials were evaluated on, in words.
    """

    trials: tuple[Trial, ...]
    best: Trial
    rows: tuple[Row, ...]
    validation: str = ""


def search(
    recipe: Recipe,
    folder: Path,
    context: RunContext = DEFAULT_CONTEXT,
    reporter: Reporter = SILENT,
    *,
    method: str,
    condition: str = "",
    space: Sequence[Vary] = DEFAULT_SPACE,
    trials: int = 32,
    batch: int = 8,
    validation: float | Literal["own"] | None = None,
    noisy_validation: bool = False,
    folds: int = 1,
    retrain: bool = True,
    seed: int = 0,
) -> SearchResult:
    """Search the settings of one method in one condition, or continue a search that was stopped.

    Args:
        recipe: Recipe whose data, network and solver are used, with its number of seeds per trial.
        folder: Folder of the networks.
        context: How they are trained.
        reporter: Receives progress and messages.
        method: Method of the recipe to start from.
        condition: Condition of the recipe; "" if it has only one.
        space: Settings to vary.
        trials: Total number of trials.
        batch: Number of trials that are suggested and trained together; it influences the search.
        validation: Fraction of the training part that is held out; "own" evaluates on the validation part that the
            data set comes with; None takes that where there is one, and 0.2 otherwise.
        noisy_validation: Whether label noise is put on the held-out labels too, as if no label were known to be right.
        folds: Number of parts that are held out one after another; at most 1/`validation`, and 1 with "own".
        retrain: Whether the best settings are trained on the whole training part and tested.
        seed: Seed of the sampler.

    Returns:
        All trials, the best one, and the test results of its settings.

    Raises:
        RecipeError: If there is no such method, condition or setting.
        FolderError: If `folder` holds something else.
        ModuleNotFoundError: If Optuna, of the extra "search", is missing.
    """
    import optuna

    for name, value in (("trials", trials), ("batch", batch), ("folds", folds)):
        if value < 1:
            raise RecipeError(f"{name}={value} is not allowed; use a whole number >= 1")
    names = [vary.name for vary in space]
    if len(set(names)) < len(names):
        raise RecipeError(f"{max(names, key=names.count)} is varied twice; give all its values at once")
    base = recipe.limited([condition] if condition else [], [method])
    if len(base.conditions) > 1:
        known = ", ".join(map(repr, recipe.condition_names))
        raise RecipeError(f"{recipe.name} has several conditions; name one of {known}")
    base = replace(base, name=f"{recipe.name}-search", paper={}, paper_spread={}, reported=(), scaled=None)
    held_out = base.changed(_validation_settings(base, validation, noisy_validation, folds))

    def run_part(part: Recipe) -> list[Row]:
        return run(part, folder, context, WithoutResumed(reporter))

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=batch)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(
        direction="maximize", sampler=sampler, pruner=pruner, study_name=f"{base.name} {method}"
    )
    finished: list[Trial] = []
    while len(finished) < trials:
        suggested = [study.ask() for _ in range(batch)]  # always whole batches, so that more trials extend a search
        settings = [{vary.name: vary.suggest(trial) for vary in space} for trial in suggested]
        batch_trials = list(zip(suggested, settings, strict=True))[: trials - len(finished)]
        rows_by_trial = _train_trials(batch_trials, base, held_out, folds, run_part)
        for suggestion, values in batch_trials:
            rows = rows_by_trial[suggestion.number]
            evaluated = len(rows) // base.seeds_of(base.condition_names[0])
            trial = Trial(values, *final_accuracy(rows), folds=evaluated, accuracies=final_accuracies(rows))
            finished.append(trial)
            is_complete = evaluated == folds
            state = None if is_complete else optuna.trial.TrialState.PRUNED
            study.tell(suggestion, trial.mean if is_complete else None, state)
        best = max((trial for trial in finished if trial.folds == folds), key=lambda trial: trial.mean)
        accuracy, described = 100 * best.mean, describe_settings(best.settings)
        reporter.message(f"{len(finished)} of {trials} trials; best so far {accuracy:.2f} % with {described}")

    retrained: list[Row] = []
    if retrain:
        chosen = _with_settings(base, best.settings, _RETRAINED)
        retrained = run_part(replace(base, methods=(chosen,), baseline=_RETRAINED))
    result = SearchResult(tuple(finished), best, tuple(retrained), _described(held_out))
    summary = without_nan(_summary(result, recipe, method, condition, held_out))
    with writing(folder):
        _export(study, folder / JOURNAL)
        write_text(folder / SEARCH, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return result


def _validation_settings(
    base: Recipe, validation: float | Literal["own"] | None, noisy: bool, folds: int
) -> dict[str, Any]:
    """Return the settings of the data set with which networks are evaluated on a validation part.

    Raises:
        RecipeError: If the data set has no validation part of its own, or one that cannot be used as asked for.
    """
    name = next(base.cells()).dataset.name
    if validation is None:
        validation = "own" if name in OWN_VALIDATION and not noisy and folds == 1 else 0.2
    if validation != "own":
        labels = {"dataset.validation_labels": "noisy"} if noisy else {}
        return {"dataset.validation": validation, **labels}
    if name not in OWN_VALIDATION:
        known = ", ".join(OWN_VALIDATION)
        raise RecipeError(
            f"the data set {name} has no validation part of its own; hold out a share (they have: {known})"
        )
    if noisy or folds > 1:
        asked = "noisy labels" if noisy else f"folds={folds}"
        raise RecipeError(f"the validation part of {name} is one part with verified labels, so {asked} is not possible")
    return {f"dataset.{option}": value for option, value in OWN_VALIDATION[name].items()}


def _described(held_out: Recipe) -> str:
    dataset = next(held_out.cells()).dataset
    if not dataset.validation:
        return f"the validation part of {dataset.name}"
    return f"{dataset.validation:.0%} of the training data, held out"


def _export(study: optuna.Study, path: Path) -> None:
    """Write the finished trials to a file of Optuna's JournalStorage, which optuna-dashboard shows."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    with replacing(path) as partial:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(partial)))
        copy = optuna.create_study(storage=storage, study_name=study.study_name, direction="maximize")
        copy.add_trials([trial for trial in study.trials if trial.state.is_finished()])


def _train_trials(
    trials: Sequence[tuple[optuna.Trial, dict[str, Any]]],
    base: Recipe,
    held_out: Recipe,
    folds: int,
    run_part: Callable[[Recipe], list[Row]],
) -> dict[int, list[Row]]:
    """Train a batch of trials fold by fold, without those that the pruner stops.

    Returns:
        The lines of each trial's networks by the number of the trial, fold by fold.
    """
    rows_by_trial: dict[int, list[Row]] = {trial.number: [] for trial, _ in trials}
    remaining = list(trials)
    for fold in range(folds):
        methods = tuple(_with_settings(base, values, f"trial {trial.number}") for trial, values in remaining)
        part = held_out.changed({"dataset.fold": fold}) if fold else held_out
        rows = run_part(replace(part, methods=methods, baseline=methods[0].name))
        for trial, _ in remaining:
            trial_rows = rows_by_trial[trial.number]
            trial_rows += [row for row in rows if row["method"] == f"trial {trial.number}"]
            trial.report(final_accuracy(trial_rows)[0], fold)
        remaining = [(trial, values) for trial, values in remaining if not trial.should_prune()]
        if not remaining:
            break
    return rows_by_trial


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Return settings as text, such as "weighting.lam=0.5, weighting.beta=7.12"."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items())


def _with_settings(recipe: Recipe, settings: Mapping[str, Any], name: str) -> Method:
    """Return the recipe's only method, as it is in its only condition, with settings replaced."""
    method = recipe.methods[0]
    in_condition = method.at.get(recipe.conditions[0].name, {})
    parts = method.objective_in(recipe.conditions[0].name)
    parts |= {part: overridden(getattr(method, part), in_condition.get(part, {})) for part in ("network", "solver")}
    for setting, value in settings.items():
        part, _, key = setting.partition(".")
        if key and parts[part] is None:
            raise RecipeError(f"{setting} cannot be varied: {method.name} has no {part}")
        parts[part] = {**parts[part], key: value} if key else value
    return replace(method, name=name, at={}, only=(), **parts)


def _summary(result: SearchResult, recipe: Recipe, method: str, condition: str, held_out: Recipe) -> dict[str, Any]:
    mean, std = final_accuracy(result.rows) if result.rows else (math.nan, math.nan)
    dataset = held_out.conditions[0].dataset
    summary: dict[str, Any] = {
        "recipe": recipe.name,
        "condition": condition,
        "method": method,
        "validation": dataset.get("validation") or "own",
        "validation_labels": dataset.get("validation_labels", "true"),
        "seeds": recipe.seeds,
        "trials": [
            {**trial.settings, "mean": trial.mean, "std": trial.std, "folds": trial.folds} for trial in result.trials
        ],
        "best": result.best.settings,
        "test": {"mean": mean, "std": std, "n": len(result.rows)},
    }
    if result.rows:
        summary["objective"] = {key: result.rows[0][key] for key in OBJECTIVE if key in result.rows[0]}
    return summary
