"""The search space of tuning for tables: ranges of settings, weightings, and the conversion of trials for Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from emphasis.weighting import Weighting, from_dict

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGES: dict[str, dict[str, tuple[float, float]]] = {  # searched on a logarithmic scale
    "xgboost": {"learning_rate": (0.02, 0.3), "n_estimators": (50, 400), "max_depth": (2, 6)},
    "lightgbm": {"learning_rate": (0.02, 0.3), "n_estimators": (50, 400), "num_leaves": (4, 32)},
    "catboost": {"learning_rate": (0.02, 0.3), "iterations": (50, 400), "depth": (2, 6)},
    "net": {"learning_rate": (3e-4, 3e-2), "max_epochs": (30, 150)},
    "linear": {"learning_rate": (3e-4, 3e-2), "max_epochs": (30, 150)},
}
_FAMILIES = ("CCE", "Relative", "GCE", "DM")
_PARAMETERS = {"Relative": {"q": (0.3, 1.0)}, "GCE": {"q": (0.1, 0.8)}, "DM": {"lam": (0.25, 1.0), "beta": (0.5, 8.0)}}


@dataclass(frozen=True)
class TableTrial:
    """A trial of settings and a weighting.

    Attributes:
        settings: Settings of the model that were searched.
        weighting: The weighting.
        scores: Score of each fold; fewer than there are folds if the trial was stopped early.
        params: The same choices, by their names in the search.
    """

    settings: Mapping[str, Any]
    weighting: Weighting
    scores: tuple[float, ...]
    params: Mapping[str, Any]

    @property
    def mean(self) -> float:
        """Mean score of the folds."""
        return float(np.mean(self.scores))


def distributions(searched: Mapping[str, tuple[float, float]], with_weighting: bool) -> dict[str, BaseDistribution]:
    """Return the distribution of every choice; parameters of a weighting are named "FAMILY.PARAMETER"."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, BaseDistribution] = {}
    for name, (low, high) in searched.items():
        is_integer = isinstance(low, int)
        space[name] = (
            IntDistribution(int(low), int(high), log=True) if is_integer else FloatDistribution(low, high, log=True)
        )
    if with_weighting:
        space["weighting"] = CategoricalDistribution(_FAMILIES)
        for family, parameters in _PARAMETERS.items():
            for name, (low, high) in parameters.items():
                space[f"{family}.{name}"] = FloatDistribution(low, high, log=name == "beta")
    return space


def suggested(trial: Any, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the choices of a trial; floats are rounded to three digits, as printed."""
    from optuna.distributions import FloatDistribution, IntDistribution

    choices: dict[str, Any] = {}
    known: Mapping[str, Any] = space
    for name, distribution in known.items():
        family = name.partition(".")[0] if "." in name else None
        if family is not None and family != choices["weighting"]:
            continue
        suggest = {IntDistribution: trial.suggest_int, FloatDistribution: trial.suggest_float}.get(type(distribution))
        if suggest is None:
            value = trial.suggest_categorical(name, distribution.choices)
        else:
            value = suggest(name, distribution.low, distribution.high, log=distribution.log)
        choices[name] = float(f"{value:.3g}") if isinstance(value, float) else value
    return choices


def as_trial(choices: Mapping[str, Any], searched: Mapping[str, Any], fixed: Weighting | None) -> TableTrial:
    """Return the trial for choices, without scores; `fixed` is a weighting that is not searched."""
    family = choices.get("weighting")
    parameters = {name.partition(".")[2]: value for name, value in choices.items() if "." in name}
    weighting = fixed or from_dict({"family": family, **parameters, **({"vanishing": True} if family == "DM" else {})})
    return TableTrial({name: choices[name] for name in searched}, weighting, (), choices)


def as_optuna(trial: TableTrial, space: Mapping[str, BaseDistribution], folds: int) -> Any:
    """Return a finished trial in the form of Optuna."""
    import optuna

    complete = len(trial.scores) == folds
    states = optuna.trial.TrialState
    return optuna.trial.create_trial(
        state=states.COMPLETE if complete else states.PRUNED,
        value=trial.mean if complete else None,
        params=dict(trial.params),
        distributions={name: space[name] for name in trial.params},
        intermediate_values={k: float(np.mean(trial.scores[: k + 1])) for k in range(len(trial.scores))},
    )


def as_dict(trial: TableTrial) -> dict[str, Any]:
    """Return a trial as a dictionary for JSON."""
    return {
        "settings": dict(trial.settings),
        "weighting": trial.weighting.to_dict(),
        "scores": list(trial.scores),
        "params": dict(trial.params),
    }
