"""What is tried for the model of a table: ranges of its settings, weightings, and trials as Optuna knows them."""

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
    """Settings that were tried.

    Attributes:
        settings: Settings of the model that were searched.
        weighting: The weighting.
        scores: Score of each fold; fewer than there are folds if the trial was stopped early.
        params: The same choices by the names of the search.
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
    """Return the distribution of every choice, those of one weighting only as "FAMILY.PARAMETER"."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space: dict[str, BaseDistribution] = {}
    for name, (low, high) in searched.items():
        whole = isinstance(low, int)
        space[name] = (
            IntDistribution(int(low), int(high), log=True) if whole else FloatDistribution(low, high, log=True)
        )
    if with_weighting:
        space["weighting"] = CategoricalDistribution(_FAMILIES)
        for family, parameters in _PARAMETERS.items():
            for name, (low, high) in parameters.items():
                space[f"{family}.{name}"] = FloatDistribution(low, high, log=name == "beta")
    return space


def suggested(trial: Any, space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the choices of a trial; floats have three digits, as they are printed."""
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


def as_trial(choices: Mapping[str, Any], searched: Mapping[str, Any], kept: Weighting | None) -> TableTrial:
    """Return the trial of some choices, without scores; `kept` is a weighting that is not searched."""
    family = choices.get("weighting")
    parameters = {name.partition(".")[2]: value for name, value in choices.items() if "." in name}
    weighting = kept or from_dict({"family": family, **parameters, **({"vanishing": True} if family == "DM" else {})})
    return TableTrial({name: choices[name] for name in searched}, weighting, (), choices)


def as_optuna(trial: TableTrial, space: Mapping[str, BaseDistribution], folds: int) -> Any:
    """Return a finished trial as Optuna has it."""
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
    """Return a trial for JSON."""
    return {
        "settings": dict(trial.settings),
        "weighting": trial.weighting.to_dict(),
        "scores": list(trial.scores),
        "params": dict(trial.params),
    }
