"""Fits of tables and images, and trials of a table's search, in the form in which trackers record networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from emphasis.experiments.runs.store import Row


def rows_of_fit(request: Mapping[str, Any], scores: Mapping[str, Any]) -> list[Row]:
    """Return a line for each method of a fit, with its scores on all folds as curves.

    Args:
        request: Settings of the fit, as in `fit.json`.
        scores: Scores of the methods, as in `metrics.json`.
    """
    return [
        _row(
            name,
            request,
            {key: score["folds"] for key, score in of_method.items() if score.get("folds")},
            {key: score["value"] for key, score in of_method.items()},
        )
        for name, of_method in scores["methods"].items()
    ]


def rows_of_trials(request: Mapping[str, Any], metric: str, trials: Sequence[Any]) -> list[Row]:
    """Return a line for each trial of a search.

    Args:
        request: Settings that all trials share.
        metric: Name of the score.
        trials: Trials with the attributes `weighting`, `settings`, `scores` of the folds, and `mean`.
    """
    return [
        _row(
            repr(trial.weighting),
            {**request, "settings": {**request.get("settings", {}), **trial.settings}, "trial": number},
            {metric: trial.scores},
            {metric: trial.mean},
        )
        for number, trial in enumerate(trials)
    ]


def _row(
    method: str, settings: Mapping[str, Any], folds: Mapping[str, Sequence[float]], values: Mapping[str, float]
) -> Row:
    about = {**settings, "method": method}
    number = max((len(scores) for scores in folds.values()), default=0)
    whole = {name: list(scores) for name, scores in folds.items() if len(scores) == number}
    return {
        **about,
        "key": hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16],
        "condition": "",
        "seed": settings.get("seed", 0),
        "curves": {"iteration": list(range(number)) or [0], **whole},
        **{f"final_{name}": value for name, value in values.items()},
    }
