"""Paired differences between the scores of two classifiers, with confidence intervals, and what follows from them.

Intervals are paired over rows: every score of `emphasis.scores` is a smooth function of the weighted distribution of
rows, so that a difference between two methods has a derivative with respect to the weight of each row (its influence).
The standard error is the root of the sum of squared influences (the infinitesimal jackknife; for accuracy that of
McNemar's test, for AUC DeLong's). For predictions of a cross-validation this is the interval of Bayle, Bayle, Janson
and Mackey, "Cross-validation confidence intervals for test error" (NeurIPS 2020). Pure functions of numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from emphasis.scores import METRICS, Floats, Held, Ints, Metric, nonzero, recall, reliability, sums_by_group

CONFIDENCE = 0.95
CLEAR = 0.005  # a smaller difference is not called clear, however narrow its interval


def evaluate(
    given: Ints,
    probabilities: Mapping[str, Floats],
    classes: Sequence[str],
    *,
    baseline: str,
    weights: Floats | None = None,
    fold: Ints | None = None,
) -> dict[str, Any]:
    """Return the scores of each method, and if one of them is the baseline, the first method's differences to it.

    Args:
        given: Class of each row, shape (N,).
        probabilities: Held-out probabilities of each method, shape (N, C). The first is compared with the baseline.
        classes: Names of the C classes.
        baseline: Name of the baseline.
        weights: Weight of each row, shape (N,); None for equal weights.
        fold: Fold in which each row was held out, shape (N,); None if there are no folds.

    Returns:
        What `metrics.json` holds: "methods" (value of each metric over all rows, values of the folds, their mean and
        standard deviation), "recall" of each class, "reliability", and with a baseline "difference" and
        "recall_difference" (value, low, high, and whether that is "better", "worse" or "unclear") and "verdict".

    Examples:
        >>> import numpy as np
        >>> from emphasis.comparison import evaluate
        >>> given = np.array([0, 1] * 50)
        >>> right = np.where(given[:, None] == [0, 1], 0.95, 0.05)
        >>> always_no = np.tile([0.6, 0.4], (100, 1))
        >>> result = evaluate(given, {"mine": right, "CCE": always_no}, ["no", "yes"], baseline="CCE")
        >>> round(result["methods"]["mine"]["accuracy"]["value"], 4), result["difference"]["accuracy"]["result"]
        (1.0, 'better')
        >>> result["verdict"]["result"]
        'better'
    """
    share = np.ones(len(given)) if weights is None else weights
    held = {name: Held.of(given, p, share) for name, p in probabilities.items()}
    parts = {name: _by_fold(predictions, share, fold) for name, predictions in held.items()}
    scored = {
        name: {key: metric.score(predictions) for key, metric in METRICS.items()} for name, predictions in held.items()
    }
    result: dict[str, Any] = {
        "rows": len(given),
        "methods": {
            name: {
                key: {"value": of_method[key][0], **_spread([METRICS[key].score(part)[0] for part in parts[name]])}
                for key in METRICS
            }
            for name, of_method in scored.items()
        },
        "recall": {
            name: dict(zip(classes, recall(predictions).tolist(), strict=True)) for name, predictions in held.items()
        },
        "reliability": {name: reliability(predictions) for name, predictions in held.items()},
    }
    ours = next(iter(held))
    if baseline in held and baseline != ours:
        result["difference"] = {
            key: {
                **_interval(metric, scored[ours][key], scored[baseline][key], held[ours].weights),
                **_spread(
                    _minus(
                        result["methods"][ours][key].get("folds", ()), result["methods"][baseline][key].get("folds", ())
                    )
                ),
            }
            for key, metric in METRICS.items()
        }
        result["recall_difference"] = _recall_differences(held[ours], held[baseline], classes)
        result["verdict"] = verdict(result)
    return result


def _by_fold(held: Held, weights: Floats, fold: Ints | None) -> list[Held]:
    if fold is None:
        return []
    rows = [fold == number for number in range(fold.max() + 1)]
    return [Held.of(held.given[part], held.p[part], weights[part]) for part in rows if weights[part].any()]


def _spread(values: Sequence[float]) -> dict[str, Any]:
    if not values:
        return {}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return {"folds": [float(value) for value in values], "mean": float(np.mean(values)), "std": std}


def _minus(left: Sequence[float], right: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(left, right, strict=True)]


def difference(name: str, ours: Held, theirs: Held) -> dict[str, Any]:
    """Return the difference of a score between two methods on the same rows, as `evaluate` returns it."""
    metric = METRICS[name]
    return _interval(metric, metric.score(ours), metric.score(theirs), ours.weights)


def _interval(
    metric: Metric, ours: tuple[float, Floats], theirs: tuple[float, Floats], weights: Floats
) -> dict[str, Any]:
    """Return the difference of a score with its interval, paired over rows."""
    value = ours[0] - theirs[0]
    error = math.sqrt(float(np.sum((weights * (ours[1] - theirs[1])) ** 2)))
    half = NormalDist().inv_cdf(0.5 + 0.5 * CONFIDENCE) * error
    return _with_result(metric.sign, value, value - half, value + half)


def _with_result(sign: int, value: float, low: float, high: float) -> dict[str, Any]:
    clear = (low > 0.0 or high < 0.0) and abs(value) >= CLEAR
    result = ("better" if sign * value > 0.0 else "worse") if clear else "unclear"
    return {"value": value, "low": low, "high": high, "result": result}


def _recall_differences(ours: Held, theirs: Held, classes: Sequence[str]) -> dict[str, Any]:
    """Return the difference in recall of each class, with intervals that hold for all classes together (Bonferroni).

    Rare classes have few rows, for which the normal interval is too narrow: half a row is added to each of the four
    cells of the paired table (Agresti and Min, "Simple improved confidence intervals for comparing matched
    proportions", 2005).
    """
    number = len(classes)
    z = NormalDist().inv_cdf(1.0 - 0.5 * (1.0 - CONFIDENCE) / number)
    totals = nonzero(ours.class_weights)
    squares = sums_by_group(ours.given, ours.weights**2, number)
    rows = np.where(ours.present, totals**2 / nonzero(squares), 0.0)  # effective number of rows
    gained, lost = (
        np.bincount(ours.given, ours.weights * part, number) / totals
        for part in (ours.correct * (1.0 - theirs.correct), theirs.correct * (1.0 - ours.correct))
    )
    up, down = ((rows * part + 0.5) / (rows + 2.0) for part in (gained, lost))
    half = z * np.sqrt((up + down - (up - down) ** 2) / (rows + 2.0))
    counts = np.bincount(ours.given, minlength=number)
    return {
        name: {
            **_with_result(1, *(float(x[k]) for x in (gained - lost, up - down - half, up - down + half))),
            "rows": int(counts[k]),
        }
        for k, name in enumerate(classes)
    }


def verdict(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Return a headline that follows from all differences, and a warning for each metric that gets clearly worse.

    Args:
        scores: The result of `evaluate`, with "difference" and "recall_difference".

    Returns:
        "result" ("better", "worse", "mixed" or "unclear"), "headline" and "warnings".
    """
    difference, recalls = scores["difference"], scores["recall_difference"]
    better, worse = ([key for key in METRICS if difference[key]["result"] == result] for result in ("better", "worse"))
    lost = sorted((name for name in recalls if recalls[name]["result"] == "worse"), key=lambda n: recalls[n]["value"])
    warnings = [
        f"{METRICS[key].name} is clearly worse than with cross-entropy: {_as_text(difference[key], METRICS[key])}"
        for key in worse
    ]
    share = METRICS["accuracy"]
    warnings += [
        f"recall of {name!r} is clearly worse than with cross-entropy: {_as_text(recalls[name], share)}, "
        f"n = {recalls[name]['rows']:,}"
        for name in lost[:3]
    ]
    if len(lost) > 3:
        warnings.append(f"recall of {len(lost) - 3} more classes is clearly worse than with cross-entropy")
    gained = sum(recalls[name]["result"] == "better" for name in recalls)
    gains, losses = _listed(better, gained), _listed(worse, len(lost))
    if gains and losses:
        result = "mixed"
        headline = (
            f"Mixed: clearly better than cross-entropy in {gains}, but clearly worse in {losses}. If the latter "
            "matters, use cross-entropy (--weighting CCE)."
        )
    elif losses:
        result = "worse"
        headline = f"Clearly worse than cross-entropy in {losses}, and better in nothing: use --weighting CCE."
    elif gains:
        result = "better"
        headline = f"Clearly better than cross-entropy in {gains}, and clearly worse in nothing."
    else:
        result = "unclear"
        headline = "No clear difference from cross-entropy in any score: either will do for these labels."
    return {"result": result, "headline": headline, "warnings": warnings}


def _listed(keys: Sequence[str], classes: int) -> str:
    """Return the names of metrics, and the number of classes whose recall changed, as an enumeration."""
    parts = [METRICS[key].name for key in keys]
    if classes:
        parts.append(f"the recall of {classes} class{'es' if classes > 1 else ''}")
    return " and ".join(filter(None, [", ".join(parts[:-1]), *parts[-1:]]))


def _as_text(difference: Mapping[str, Any], metric: Metric) -> str:
    """Return a difference with its interval as text, such as "-5.2 points (-7.0 to -3.4)"."""
    value, low, high = (difference[key] for key in ("value", "low", "high"))
    if metric.is_share:
        return f"{100 * value:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
