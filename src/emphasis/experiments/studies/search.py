"""Search for settings on a validation set, as in section 4 of the paper, with Optuna.

The training part is cut 80/20. Each trial trains on the 80 %, noise included, and is judged by the 20 % with their
true labels, or with noise on them too; the test set is not looked at. The best settings are then trained on the
whole training part and tested. With several folds a trial is judged by one 20 % after another, and those that fall
behind on the first (Optuna's median pruner decides) are not given the others.

A search keeps nothing but its networks, which are cells of the store like any other. The sampler is seeded, so a
search that was stopped is played again from its beginning: what has been trained is found, not trained, and it goes
on as if it had not been stopped; and processes with the same seed play the same search at once, and share its networks.
The networks of one batch of trials train together where that is possible.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.datasets import Progress
from emphasis.datasets.download import silent
from emphasis.experiments.recipes.convert import OBJECTIVE, RecipeError, overridden
from emphasis.experiments.recipes.recipe import Method, Recipe
from emphasis.experiments.runs.jobs import Say
from emphasis.experiments.runs.runner import JobProgress, run
from emphasis.experiments.runs.store import SEARCH, Row, without_nan, writing
from emphasis.files import write_text
from emphasis.metrics import mean_and_std
from emphasis.texts import toml_value
from emphasis.training.settings import Execution

if TYPE_CHECKING:
    import optuna

_RETRAINED = "best, on all training data"
_PARTS = ("weighting", "training", "solver", "network")


@dataclass(frozen=True)
class Vary:
    """One setting to search.

    Attributes:
        name: PART.KEY of a method: weighting.KEY, training.KEY, solver.KEY, network.KEY, or normalization.
        choices: The values to choose from; or none, and a range:
        low: Its lower end.
        high: Its upper end.
        log: Whether the range is searched on a logarithmic scale.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def suggest(self, trial: optuna.Trial) -> Any:
        """Return a value for a trial; of a range one of three digits, as it is printed."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        return float(f"{trial.suggest_float(self.name, self.low, self.high, log=self.log):.3g}")


DEFAULT_SPACE = (  # of DM: the emphasis modes 0, 1/3, 1/2 and 2/3, and the betas of Table 9 and Figures 6 to 11
    Vary("weighting.lam", (0.0, 0.5, 1.0, 2.0)),
    Vary("weighting.beta", low=0.5, high=24.0),
)


def parse_vary(text: str) -> Vary:
    """Return the setting that a text describes: "weighting.beta=4,8,12" or "weighting.beta=0.5:24" or "...:log".

    Raises:
        RecipeError: It is of neither form.
    """
    name, _, values = text.partition("=")
    part, _, key = name.partition(".")
    if not values or not (name == "normalization" or (part in _PARTS and key)):
        raise RecipeError(
            f"--vary {text!r} is not understood; use PART.KEY=A,B,C or PART.KEY=LOW:HIGH[:log], with a part of "
            f"{', '.join(_PARTS)}, such as weighting.beta=0.5:24"
        )
    if ":" not in values:
        return Vary(name, tuple(toml_value(one) for one in values.split(",")))
    ends = values.split(":")
    log = ends[2:] == ["log"]
    try:
        low, high = float(ends[0]), float(ends[1])
    except ValueError:
        low, high = 1.0, 0.0
    if not (low < high < math.inf) or len(ends) > 2 + log or (log and low <= 0.0):
        raise RecipeError(f"--vary {text!r}: {values!r} is no range; use LOW:HIGH with LOW < HIGH, or LOW:HIGH:log > 0")
    return Vary(name, low=low, high=high, log=log)


@dataclass(frozen=True)
class Trial:
    """Settings, and the validation accuracy that they reach: mean and standard deviation over folds and seeds.

    `folds` is how many folds it was judged by: all, unless it fell behind. `accuracies` are those of its networks, fold
    after fold and seed after seed.
    """

    settings: dict[str, Any]
    mean: float
    std: float
    folds: int = 1
    accuracies: tuple[float, ...] = ()


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        trials: In the order they were tried.
        best: The one with the highest mean, of those judged by every fold.
        rows: The lines of the networks trained with its settings on the whole training part; none if not asked for.
    """

    trials: tuple[Trial, ...]
    best: Trial
    rows: tuple[Row, ...]


def search(
    recipe: Recipe,
    folder: Path,
    *,
    method: str,
    condition: str = "",
    space: Sequence[Vary] = DEFAULT_SPACE,
    trials: int = 32,
    batch: int = 8,
    validation: float = 0.2,
    noisy_validation: bool = False,
    folds: int = 1,
    retrain: bool = True,
    seed: int = 0,
    root: Path | None = None,
    download: bool = False,
    execution: Execution | None = None,
    workers: int = 1,
    threads: int | None = None,
    progress: JobProgress = lambda _job, _done, _total: None,
    loading: Progress = silent,
    say: Say = lambda _: None,
) -> Found:
    """Search the settings of one method in one condition, or go on with a search that was stopped.

    Args:
        recipe: Whose data, network and solver are used, with its number of seeds per trial.
        folder: Where networks are kept.
        method: The recipe's method to start from.
        condition: The recipe's condition; "" if it has only one.
        space: What to vary.
        trials: In all.
        batch: Trials suggested, and trained, together; it shapes the search.
        validation: Share of the training part to judge by.
        noisy_validation: Whether noise is put on its labels too, as where nobody knows the true ones.
        folds: Parts to judge by, one after another, each held out in its turn; 1/`validation` at most.
        retrain: Whether the best settings are trained on the whole training part in the end, and tested.
        seed: Of the sampler.
        root: Where the data is.
        download: Whether to fetch data that is not there.
        execution: Where and how it runs.
        workers: Processes.
        threads: For torch, in each.
        progress: As `runner.run`'s.
        loading: Likewise.
        say: Called with what the user should know.

    Raises:
        RecipeError: No such method, condition or setting.
        FolderError: `folder` holds something else.
        ModuleNotFoundError: Optuna, of the extra "search", is missing.
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
    labels = {"dataset.validation_labels": "noisy"} if noisy_validation else {}
    held_out = base.changed({"dataset.validation": validation, **labels})
    how: dict[str, Any] = {
        "root": root, "download": download, "execution": execution, "workers": workers, "threads": threads,
        "progress": progress, "loading": loading,
        "say": lambda message: None if " holds " in message else say(message),  # of every batch: no news
    }  # fmt: skip

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=batch)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)
    tried: list[Trial] = []
    while len(tried) < trials:
        asked = [study.ask() for _ in range(batch)]  # always whole batches, so that more trials extend a search
        settings = [{vary.name: vary.suggest(trial) for vary in space} for trial in asked]
        kept = list(zip(asked, settings, strict=True))[: trials - len(tried)]
        judged = _race(kept, base, held_out, folds, lambda part: run(part, folder, **how))
        for trial, one in kept:
            own = judged[trial.number]
            number = len(own) // base.seeds_of(base.condition_names[0])
            tried.append(Trial(one, *final_accuracy(own), folds=number, accuracies=final_accuracies(own)))
            whole = tried[-1].folds == folds
            study.tell(trial, tried[-1].mean if whole else None, None if whole else optuna.trial.TrialState.PRUNED)
        best = max((one for one in tried if one.folds == folds), key=lambda one: one.mean)
        say(f"{len(tried)} of {trials} trials; best so far {100 * best.mean:.2f} % with {describe(best.settings)}")

    final: list[Row] = []
    if retrain:
        chosen = _with(base, best.settings, _RETRAINED)
        final = run(replace(base, methods=(chosen,), baseline=_RETRAINED), folder, **how)
    result = Found(tuple(tried), best, tuple(final))
    summary = without_nan(_summary(result, recipe, method, condition, held_out))
    with writing(folder):
        write_text(folder / SEARCH, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return result


def _race(
    trials: Sequence[tuple[optuna.Trial, dict[str, Any]]], base: Recipe, held_out: Recipe, folds: int,
    run_part: Callable[[Recipe], list[Row]],
) -> dict[int, list[Row]]:  # fmt: skip
    """Return the lines of each trial's networks, by the trial's number: fold after fold, until the pruner stops it."""
    rows: dict[int, list[Row]] = {trial.number: [] for trial, _ in trials}
    racing = list(trials)
    for fold in range(folds):
        methods = tuple(_with(base, one, f"trial {trial.number}") for trial, one in racing)
        found = run_part(replace(held_out.changed({"dataset.fold": fold}), methods=methods, baseline=methods[0].name))
        for trial, _ in racing:
            rows[trial.number] += [row for row in found if row["method"] == f"trial {trial.number}"]
            trial.report(final_accuracy(rows[trial.number])[0], fold)
        racing = [(trial, one) for trial, one in racing if not trial.should_prune()]
        if not racing:
            break
    return rows


def describe(settings: dict[str, Any]) -> str:
    """Return settings as text, such as "weighting.lam=0.5, weighting.beta=7.12"."""
    return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in settings.items())


def final_accuracy(rows: Sequence[Row]) -> tuple[float, float]:
    """Return mean and standard deviation of the final accuracy; a network that diverged is right about nothing."""
    mean, std = mean_and_std(list(final_accuracies(rows)))
    return float(mean), float(std)


def final_accuracies(rows: Sequence[Row]) -> tuple[float, ...]:
    """Return the final accuracy of each network; one that diverged is right about nothing."""
    values = [row["final_test_accuracy"] for row in rows]
    return tuple(0.0 if value is None or math.isnan(value) else value for value in values)


def _with(recipe: Recipe, values: dict[str, Any], name: str) -> Method:
    """Return the recipe's one method, as it is in its one condition, with settings replaced."""
    method = recipe.methods[0]
    here = method.at.get(recipe.conditions[0].name, {})
    parts = method.objective_in(recipe.conditions[0].name)
    parts |= {part: overridden(getattr(method, part), here.get(part, {})) for part in ("network", "solver")}
    for full, value in values.items():
        part, _, key = full.partition(".")
        if key and parts[part] is None:
            raise RecipeError(f"{full} cannot be varied: {method.name} has no {part}")
        parts[part] = {**parts[part], key: value} if key else value
    return replace(method, name=name, at={}, only=(), **parts)


def _summary(found: Found, recipe: Recipe, method: str, condition: str, held_out: Recipe) -> dict[str, Any]:
    mean, std = final_accuracy(found.rows) if found.rows else (math.nan, math.nan)
    summary: dict[str, Any] = {
        "recipe": recipe.name,
        "condition": condition,
        "method": method,
        "validation": held_out.conditions[0].dataset["validation"],
        "validation_labels": held_out.conditions[0].dataset.get("validation_labels", "true"),
        "seeds": recipe.seeds,
        "trials": [
            {**trial.settings, "mean": trial.mean, "std": trial.std, "folds": trial.folds} for trial in found.trials
        ],
        "best": found.best.settings,
        "test": {"mean": mean, "std": std, "n": len(found.rows)},
    }
    if found.rows:
        summary["objective"] = {key: found.rows[0][key] for key in OBJECTIVE if key in found.rows[0]}
    return summary
