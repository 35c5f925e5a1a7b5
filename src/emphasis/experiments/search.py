"""Search for settings on a validation set, as in section 4 of the paper, with Optuna.

The training part is cut 80/20. Each trial trains on the 80 %, noise included, and is judged by the 20 % with their
true labels; the test set is not looked at. The best settings are then trained on the whole training part and tested.

Every trained network is a cell of the store like any other, so a search that was killed goes on where it was, and
the networks of one batch of trials train as one computation where that is possible.
"""

from __future__ import annotations

import json
import math
import tomllib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.experiments.build import RecipeError
from emphasis.experiments.jobs import Say
from emphasis.experiments.recipe import Method, Recipe, merged
from emphasis.experiments.runner import JobProgress, run
from emphasis.experiments.store import Row, claim
from emphasis.files import write_text
from emphasis.metrics import mean_and_std
from emphasis.training.settings import Execution

if TYPE_CHECKING:
    import optuna

STUDY, SEARCH = "study.log", "search.json"
_RETRAINED = "best, on all training data"


@dataclass(frozen=True)
class Vary:
    """One setting to search.

    Attributes:
        name: PART.KEY of a method: weighting.KEY, solver.KEY, network.KEY, or normalization.
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
        """Return a value for a trial."""
        if self.choices:
            return trial.suggest_categorical(self.name, self.choices)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


DEFAULT_SPACE = (  # of DM: the emphasis modes 0, 1/3, 1/2 and 2/3, and the betas of Table 9 and Figures 6 to 11
    Vary("weighting.lam", (0.0, 0.5, 1.0, 2.0)),
    Vary("weighting.beta", low=0.5, high=24.0),
)


def parse_vary(text: str) -> Vary:
    """Return the setting that a text describes: "weighting.beta=4,8,12" or "weighting.beta=0.5:24" or "...:log".

    Raises:
        RecipeError: It is of neither form.
    """
    name, equals, values = text.partition("=")
    part, _, key = name.partition(".")
    if (
        not equals
        or not values
        or ((part not in ("weighting", "solver", "network") or not key)
        and name != "normalization")
    ):
        raise RecipeError(
            f"--vary {text!r} is not understood; use PART.KEY=A,B,C or PART.KEY=LOW:HIGH[:log], with a part of "
            "weighting, solver, network, such as weighting.beta=0.5:24"
        )
    if ":" not in values:
        return Vary(name, tuple(_value(one) for one in values.split(",")))
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
class Found:
    """What a search found.

    Attributes:
        trials: For each trial, its settings, mean and standard deviation of its validation accuracy over the seeds.
        best: Settings of the best trial.
        method: The method that they make.
        rows: The lines of the networks trained with them on the whole training part; none if not asked for.
    """

    trials: tuple[tuple[dict[str, Any], float, float], ...]
    best: dict[str, Any]
    method: Method
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
    retrain: bool = True,
    seed: int = 0,
    root: Path | None = None,
    execution: Execution | None = None,
    workers: int = 1,
    threads: int | None = None,
    progress: JobProgress = lambda _job, _done, _total: None,
    say: Say = lambda _: None,
) -> Found:
    """Search the settings of one method in one condition, or go on with a search that was stopped.

    Args:
        recipe: Whose data, network and solver are used, with its number of seeds per trial.
        folder: Where trials and networks are kept.
        method: The recipe's method to start from.
        condition: The recipe's condition; "" if it has only one.
        space: What to vary.
        trials: In all, those of an earlier run in `folder` included.
        batch: Trials suggested, and trained, together. It shapes the search, so a resumed one must have the same.
        validation: Share of the training part to judge by.
        retrain: Whether the best settings are trained on the whole training part in the end, and tested.
        seed: Of the sampler. The same search, however often it is stopped, tries the same settings.
        root: Where the data is.
        execution: Where and how it runs.
        workers: Processes.
        threads: For torch, in each.
        progress: As `runner.run`'s.
        say: Called with what the user should know.

    Raises:
        RecipeError: No such method, condition or setting.
        FolderError: `folder` holds something else.
        ModuleNotFoundError: Optuna, of the extra "search", is missing.
    """
    import optuna
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    for name, value in (("trials", trials), ("batch", batch)):
        if value < 1:
            raise RecipeError(f"{name}={value} is not allowed; use a whole number >= 1")
    base = recipe.limited([condition] if condition else [], [method])
    if len(base.conditions) > 1:
        raise RecipeError(
            f"{recipe.name} has several conditions; name one of {', '.join(map(repr, recipe.condition_names))}"
        )
    base = replace(base, name=f"{recipe.name}-search", paper={}, paper_spread={}, reported=(), scaled=None)
    held_out = base.changed({"dataset.validation": validation})
    how: dict[str, Any] = {
        "root": root, "execution": execution, "workers": workers, "threads": threads, "progress": progress,
    }  # fmt: skip

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    claim(folder, held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(folder / STUDY)))
        study = optuna.create_study(study_name=base.name, storage=storage, direction="maximize", load_if_exists=True)
    for stale in study.get_trials(states=(TrialState.RUNNING,)):  # of a run that was killed; its networks are kept
        study.tell(stale.number, state=TrialState.FAIL)
        study.enqueue_trial(stale.params)
    while (done := len(study.get_trials(states=(TrialState.COMPLETE,)))) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=seed + done, multivariate=False, constant_liar=True)
        asked = [study.ask() for _ in range(min(batch, trials - done))]
        settings = [{vary.name: vary.suggest(trial) for vary in space} for trial in asked]
        named = [f"trial {trial.number}" for trial in asked]
        methods = tuple(_with(base, values, name) for values, name in zip(settings, named, strict=True))
        rows = run(replace(held_out, methods=methods, baseline=named[0]), folder, say=_quiet(say), **how)
        for trial, name, values in zip(asked, named, settings, strict=True):
            accuracies = [_number(row["final_test_accuracy"]) for row in rows if row["method"] == name]
            mean, std = (float(part) for part in mean_and_std(accuracies))
            trial.set_user_attr("std", std)
            trial.set_user_attr("settings", json.dumps(values))
            study.tell(trial, 0.0 if math.isnan(mean) else mean)  # a diverged network is right about nothing
        say(f"{done + len(asked)} of {trials} trials; best so far {100 * study.best_value:.2f} % ({study.best_params})")

    complete = study.get_trials(states=(TrialState.COMPLETE,))
    best = json.loads(study.best_trial.user_attrs["settings"])
    chosen = _with(base, best, _RETRAINED)
    final = (
        run(replace(base, methods=(chosen,), baseline=_RETRAINED), folder, say=_quiet(say), **how) if retrain else []
    )
    found = Found(
        tuple((json.loads(t.user_attrs["settings"]), float(t.value or 0.0), t.user_attrs["std"]) for t in complete),
        best, chosen, tuple(final),
    )  # fmt: skip
    write_text(folder / SEARCH, json.dumps(_summary(found, recipe, validation), indent=1) + "\n")
    return found


def _with(recipe: Recipe, values: dict[str, Any], name: str) -> Method:
    """Return the recipe's one method, as it is in its one condition, with settings replaced."""
    method = recipe.methods[0]
    here = method.at.get(recipe.conditions[0].name, {})
    parts: dict[str, Any] = {
        key: here.get(key, getattr(method, key)) for key in ("weighting", "normalization", "max_margin")
    }
    parts |= {part: merged(getattr(method, part), here.get(part, {})) for part in ("network", "solver")}
    for full, value in values.items():
        part, _, key = full.partition(".")
        parts[part] = {**parts[part], key: value} if key else value
    return replace(method, name=name, at={}, only=(), **parts)


def _summary(found: Found, recipe: Recipe, validation: float) -> dict[str, Any]:
    tested = [_number(row["final_test_accuracy"]) for row in found.rows]
    mean, std = (float(part) for part in mean_and_std(tested)) if tested else (math.nan, math.nan)
    plain = {
        "recipe": recipe.name,
        "validation": validation,
        "seeds": recipe.seeds,
        "trials": [{**settings, "mean": mean, "std": std} for settings, mean, std in found.trials],
        "best": found.best,
        "test": {"mean": mean, "std": std, "n": len(tested)},
    }
    if found.rows:
        plain["objective"] = {key: found.rows[0][key] for key in ("weighting", "normalization", "max_margin")}
    return json.loads(json.dumps(plain).replace("NaN", "null"))  # type: ignore[no-any-return]


def _quiet(say: Say) -> Say:
    """Pass on what concerns a network, not what each batch says of the folder."""
    return lambda message: None if " holds " in message else say(message)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
