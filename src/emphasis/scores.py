"""Scores of a classifier on held-out rows, and their paired differences to a baseline with confidence intervals.

Intervals are paired over rows: every score is a smooth function of the weighted distribution of rows, so that a
difference between two methods has a derivative with respect to the weight of each row (its influence). The standard
error is the root of the sum of squared influences (the infinitesimal jackknife; for accuracy that of McNemar's test,
for AUC DeLong's). For predictions of a cross-validation this is the interval of Bayle, Bayle, Janson and Mackey,
"Cross-validation confidence intervals for test error" (NeurIPS 2020). Pure functions of numpy arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONFIDENCE = 0.95
CLEAR = 0.005  # a smaller difference is not called clear, however narrow its interval
BINS = 15  # of the reliability diagram and of the expected calibration error


@dataclass(frozen=True, eq=False)
class Held:
    """Held-out predictions of one method for N rows and C classes.

    Attributes:
        given: Class of each row, shape (N,).
        p: Probabilities, shape (N, C).
        weights: Weight of each row with sum 1, shape (N,).
        class_weights: Sum of the weights of each class, shape (C,).
        predicted: Most probable class of each row, shape (N,).
        correct: 1.0 where that is the given class, else 0.0, shape (N,).
    """

    given: Ints
    p: Floats
    weights: Floats
    class_weights: Floats
    predicted: Ints
    correct: Floats

    @classmethod
    def of(cls, given: Ints, p: Floats, weights: Floats) -> Held:
        """Return the predictions, with everything that several scores need; `weights` may have any sum > 0.

        Examples:
            >>> import numpy as np
            >>> from emphasis.scores import Held, accuracy, balanced_accuracy, recall
            >>> given = np.array([0, 0, 0, 1])
            >>> probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.3, 0.7]])
            >>> held = Held.of(given, probabilities, weights=np.ones(4))
            >>> accuracy(held)[0], round(balanced_accuracy(held)[0], 4)
            (0.75, 0.8333)
            >>> recall(held).round(4)
            array([0.6667, 1.    ])
        """
        shares = weights / weights.sum()
        predicted = p.argmax(1)
        totals = _sums(given, shares, p.shape[1])
        return cls(given, p, shares, totals, predicted, (predicted == given).astype(np.float64))

    @property
    def present(self) -> NDArray[np.bool_]:
        """Classes that have weight, shape (C,); scores that average over classes leave out the others."""
        present: NDArray[np.bool_] = self.class_weights > 0.0
        return present


Score = Callable[[Held], tuple[float, Floats]]  # returns the score and the influence of each row, shape (N,)


@dataclass(frozen=True)
class Metric:
    """A score of held-out predictions.

    Attributes:
        title: Its name in tables.
        sign: 1 if higher is better, -1 if lower is.
        is_share: Whether differences are told in points, hundredths.
        score: The function.
    """

    title: str
    sign: int
    is_share: bool
    score: Score

    @property
    def name(self) -> str:
        """Its name within a sentence."""
        return self.title if self.title.isupper() else self.title[0].lower() + self.title[1:]


def accuracy(held: Held) -> tuple[float, Floats]:
    """Return the share of rows that are predicted as given."""
    value = float(held.weights @ held.correct)
    return value, held.correct - value


def balanced_accuracy(held: Held) -> tuple[float, Floats]:
    """Return the mean recall of the classes."""
    recalls = recall(held)
    number = np.count_nonzero(held.present)
    influence = (held.correct - recalls[held.given]) / _nonzero(held.class_weights)[held.given] / number
    return float(recalls[held.present].mean()), influence


def macro_f1(held: Held) -> tuple[float, Floats]:
    """Return the mean F1 of the classes."""
    classes = len(held.class_weights)
    both = held.class_weights + np.bincount(held.predicted, held.weights, classes)
    f1 = 2.0 * np.bincount(held.given, held.weights * held.correct, classes) / _nonzero(both)
    counted = held.present / np.count_nonzero(held.present) / _nonzero(both)
    of_given, of_predicted = (counted * f1)[held.given], (counted * f1)[held.predicted]
    return float(f1[held.present].mean()), 2.0 * held.correct * counted[held.given] - of_given - of_predicted


def auc(held: Held) -> tuple[float, Floats]:
    """Return the mean area under the ROC curve of each class against the others; NaN with one class only."""
    influence = np.zeros(len(held.given))
    areas = []
    for label in np.flatnonzero(held.present & (held.class_weights < 1.0)):
        area, of_rows = _area(held.p[:, label], held.given == label, held.weights)
        areas.append(area)
        influence += of_rows
    return (float(np.mean(areas)), influence / len(areas)) if areas else (math.nan, influence)


def _area(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> tuple[float, Floats]:
    """Return the area under a ROC curve and DeLong's components as influences."""
    order = np.argsort(score)
    ordered, is_positive, shares = score[order], positive[order], weights[order]
    up, down = np.where(is_positive, shares, 0.0), np.where(is_positive, 0.0, shares)
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])  # of runs of equal scores
    run = np.repeat(np.arange(len(starts)), np.diff(np.r_[starts, len(order)]))
    below, above = (np.add.reduceat(part, starts) for part in (down, up))
    total_up, total_down = above.sum(), below.sum()
    lower = np.cumsum(below) - 0.5 * below  # a tie counts half
    higher = total_up - np.cumsum(above) + 0.5 * above
    of_runs_up, of_runs_down = lower / total_down, higher / total_up
    area = float(above @ of_runs_up / total_up)
    influence = np.empty(len(order))
    influence[order] = np.where(
        is_positive, (of_runs_up[run] - area) / total_up, (of_runs_down[run] - area) / total_down
    )
    return area, influence


def log_loss(held: Held) -> tuple[float, Floats]:
    """Return the mean of minus the logarithm of the given class's probability."""
    rows = np.arange(len(held.given))
    given = held.p[rows, held.given] / held.p.sum(1)
    losses = -np.log(np.maximum(given, np.finfo(np.float64).eps))
    value = float(held.weights @ losses)
    return value, losses - value


def calibration_error(held: Held) -> tuple[float, Floats]:
    """Return the expected calibration error (ECE): |accuracy - confidence| in bins of confidence, averaged."""
    excess = held.correct - held.p.max(1)
    bins = _bins(held)
    sums = np.bincount(bins, held.weights * excess, BINS)
    value = float(np.abs(sums).sum())
    return value, np.sign(sums)[bins] * excess - value


def _bins(held: Held) -> Ints:
    bins: Ints = np.minimum((BINS * held.p.max(1)).astype(np.int64), BINS - 1)
    return bins


METRICS = {
    "accuracy": Metric("Accuracy", 1, True, accuracy),
    "balanced_accuracy": Metric("Balanced accuracy", 1, True, balanced_accuracy),
    "macro_f1": Metric("Macro F1", 1, True, macro_f1),
    "auc": Metric("AUC", 1, True, auc),
    "log_loss": Metric("Log loss", -1, False, log_loss),
    "ece": Metric("ECE", -1, True, calibration_error),
}


def recall(held: Held) -> Floats:
    """Return the recall of each class, shape (C,); NaN for a class without weight."""
    found = np.bincount(held.given, held.weights * held.correct, len(held.class_weights))
    return np.where(held.present, found / _nonzero(held.class_weights), math.nan)


def reliability(held: Held) -> list[dict[str, float]]:
    """Return the reliability diagram: for each bin that has rows, their share, mean confidence and accuracy."""
    bins = _bins(held)
    share, confidence, right = (
        np.bincount(bins, held.weights * values, BINS) for values in (np.ones(len(bins)), held.p.max(1), held.correct)
    )
    return [
        {
            "share": float(share[k]),
            "confidence": float(confidence[k] / share[k]),
            "accuracy": float(right[k] / share[k]),
        }
        for k in np.flatnonzero(share > 0.0)
    ]


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
        >>> from emphasis.scores import evaluate
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
    parts = {name: _by_fold(one, share, fold) for name, one in held.items()}
    scored = {name: {key: metric.score(one) for key, metric in METRICS.items()} for name, one in held.items()}
    result: dict[str, Any] = {
        "rows": len(given),
        "methods": {
            name: {
                key: {"value": of_method[key][0], **_spread([METRICS[key].score(part)[0] for part in parts[name]])}
                for key in METRICS
            }
            for name, of_method in scored.items()
        },
        "recall": {name: dict(zip(classes, recall(one).tolist(), strict=True)) for name, one in held.items()},
        "reliability": {name: reliability(one) for name, one in held.items()},
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
    return _judged(metric.sign, value, value - half, value + half)


def _judged(sign: int, value: float, low: float, high: float) -> dict[str, Any]:
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
    totals = _nonzero(ours.class_weights)
    squares = _sums(ours.given, ours.weights**2, number)
    rows = np.where(ours.present, totals**2 / _nonzero(squares), 0.0)  # effective number of rows
    gained, lost = (
        np.bincount(ours.given, ours.weights * part, number) / totals
        for part in (ours.correct * (1.0 - theirs.correct), theirs.correct * (1.0 - ours.correct))
    )
    up, down = ((rows * part + 0.5) / (rows + 2.0) for part in (gained, lost))
    half = z * np.sqrt((up + down - (up - down) ** 2) / (rows + 2.0))
    counts = np.bincount(ours.given, minlength=number)
    return {
        name: {
            **_judged(1, *(float(x[k]) for x in (gained - lost, up - down - half, up - down + half))),
            "rows": int(counts[k]),
        }
        for k, name in enumerate(classes)
    }


def _sums(groups: Ints, values: Floats, number: int) -> Floats:
    sums: Floats = np.bincount(groups, values, number).astype(np.float64)
    return sums


def _nonzero(values: Floats) -> Floats:
    return np.where(values > 0.0, values, 1.0)


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
        f"{METRICS[key].name} is clearly worse than with cross-entropy: {told(difference[key], METRICS[key])}"
        for key in worse
    ]
    share = METRICS["accuracy"]
    warnings += [
        f"recall of {name!r} is clearly worse than with cross-entropy: {told(recalls[name], share)}, "
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


def shown(value: float, metric: Metric) -> str:
    """Return a difference as text: in points for shares."""
    return f"{100 * value:+.1f} points" if metric.is_share else f"{value:+.3f}"


def told(difference: Mapping[str, Any], metric: Metric) -> str:
    """Return a difference with its interval as text, such as "-5.2 points (-7.0 to -3.4)"."""
    low, high = difference["low"], difference["high"]
    ends = f"{100 * low:+.1f} to {100 * high:+.1f}" if metric.is_share else f"{low:+.3f} to {high:+.3f}"
    return f"{shown(difference['value'], metric)} ({ends})"
