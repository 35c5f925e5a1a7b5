"""The order of a review, learned from its answers: a calibrated probability that each label is wrong.

Until both answers have been given often enough, the order is the audit's: suspects first, by score. Then a classifier
learns from the decisions which labels are wrong, from the score, the network's probabilities, how often labels of this
class pair were wrong, and the neighbors' labels and decisions. Few decisions, all of them about the most suspicious
examples, are no reason to leave the audit's order, so the two are blended: after 100 decisions they count alike. A
logistic curve turns the blend into calibrated probabilities. Predictions are cross-fitted: that of a reviewed example
rests on the decisions about others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emphasis.review.examples import Examples
from emphasis.review.neighbors import Neighbors

_FEWEST = 20  # decisions to learn from, and a quarter as many of either answer
_FOLDS = 5
_HALF_WAY = 100  # decisions after which they count as much as the audit's order
_STATIC_SLOPE = 2.0  # of the log odds of a place in that order
_SCALE_SAMPLE = 500
_PRIOR = 4.0  # decisions that a class pair is thought to have had, with the mean answer


class LearnedOrder:
    """Probabilities that labels are wrong, from decisions about some of them.

    Args:
        examples: The examples of an audit.
        neighbors: Their neighbors.
    """

    def __init__(self, examples: Examples, neighbors: Neighbors | None = None) -> None:
        self._examples = examples
        self._neighbors = neighbors or Neighbors(examples)
        self._pair = examples.labels * len(examples.class_names) + examples.suggested
        self._fixed: NDArray[np.float64] | None = None
        n = len(examples)
        self._sample = examples.order[np.linspace(0, n - 1, min(n, _SCALE_SAMPLE)).round().astype(int)]

    def static(self) -> NDArray[np.float64]:
        """Return the audit's order as numbers in (0, 1), (n,), the higher, the sooner; no calibrated probabilities."""
        n = len(self._examples)
        ranks = np.empty(n)
        ranks[self._examples.order] = np.arange(n)
        return 1.0 - (ranks + 0.5) / n

    def can_learn(self, wrong: Mapping[int, bool]) -> bool:
        """Return whether there are enough answers of both kinds."""
        hits = sum(wrong.values())
        return len(wrong) >= _FEWEST and min(hits, len(wrong) - hits) >= _FEWEST // 4

    def probabilities(self, wrong: Mapping[int, bool]) -> NDArray[np.float64]:
        """Return the probability that each label is wrong, (n,), cross-fitted.

        Args:
            wrong: Whether the label is wrong, by example, as was decided; enough of both for `can_learn`.
        """
        reviewed = np.array(sorted(wrong), dtype=np.int64)
        answers = np.array([wrong[index] for index in reviewed.tolist()], dtype=bool)
        folds = _folds(answers)
        learned = np.empty(len(self._examples))
        rest = np.ones(len(self._examples), dtype=bool)
        rest[reviewed] = False
        learned[rest] = self._fit_predict(reviewed, answers, np.flatnonzero(rest))
        for fold in range(_FOLDS):
            held, kept = folds == fold, folds != fold
            if held.any():
                learned[reviewed[held]] = self._fit_predict(reviewed[kept], answers[kept], reviewed[held])
        share = len(answers) / (len(answers) + _HALF_WAY)
        blend = share * _log_odds(learned) + (1.0 - share) * _STATIC_SLOPE * _log_odds(self.static())
        return _calibrated(blend, reviewed, answers)

    def _fit_predict(
        self, reviewed: NDArray[np.int64], answers: NDArray[np.bool_], asked: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        from sklearn.linear_model import LogisticRegression

        if not len(asked):
            return np.empty(0)
        if answers.all() or not answers.any():
            return np.full(len(asked), (answers.sum() + 0.5) / (len(answers) + 1.0))
        # What a reviewed example knows of pairs and neighbors must not contain its own answer, as it does not for
        # examples that nobody has reviewed.
        own = self._columns(reviewed, answers, reviewed, leave_out=True)
        # By all examples: the reviewed ones are alike, and small differences between them would count for much.
        scale = np.maximum(self._columns(reviewed, answers, self._sample, leave_out=True).std(axis=0), 1e-6)
        model = LogisticRegression(C=0.5, max_iter=500).fit(own / scale, answers)
        values = model.predict_proba(self._columns(reviewed, answers, asked, leave_out=False) / scale)
        return np.asarray(values[:, 1], dtype=np.float64)

    def _columns(
        self, reviewed: NDArray[np.int64], answers: NDArray[np.bool_], asked: NDArray[np.int64], leave_out: bool
    ) -> NDArray[np.float64]:
        """Return what the classifier sees of the examples `asked`."""
        fixed = self._fixed_columns()[asked]
        mean = (answers.sum() + 1.0) / (len(answers) + 2.0)
        known = np.full(len(self._examples), np.nan)
        known[reviewed] = answers
        own = known[asked] if leave_out else np.full(len(asked), np.nan)
        learned = []
        for groups in (self._pair, self._examples.labels):
            wrong = np.bincount(groups[reviewed], answers, minlength=int(groups.max()) + 1)[groups[asked]]
            count = np.bincount(groups[reviewed], minlength=int(groups.max()) + 1)[groups[asked]].astype(float)
            wrong, count = wrong - np.nan_to_num(own), count - ~np.isnan(own)
            learned.append(_log_odds((wrong + _PRIOR * mean) / (count + _PRIOR)))
        table = self._neighbors.table
        if table is not None:
            near = known[table[0][asked]]
            seen = ~np.isnan(near)
            learned.append(_log_odds((np.nansum(near, axis=1) + 2.0 * mean) / (seen.sum(axis=1) + 2.0)))
        return np.column_stack([fixed, *learned])

    def _fixed_columns(self) -> NDArray[np.float64]:
        """Return what is known of each example before anybody decides."""
        if self._fixed is not None:
            return self._fixed
        examples = self._examples
        spread = max(float(np.std(examples.score)), 1e-9)
        columns = [
            (examples.score - np.median(examples.score)) / spread,
            _log_odds(self.static()),
            examples.suspect.astype(float),
        ]
        if examples.top_probabilities is not None:
            given, suggested = (
                _log_odds(examples.probability_of(classes)) for classes in (examples.labels, examples.suggested)
            )
            columns += [given, suggested]
        table = self._neighbors.table
        if table is not None:
            indices, similarity = table
            labels = examples.labels[indices]
            columns += [
                (labels == examples.labels[:, None]).mean(axis=1),
                (labels == examples.suggested[:, None]).mean(axis=1),
                np.nan_to_num(similarity.mean(axis=1).astype(float)),
            ]
        self._fixed = np.column_stack(columns)
        return self._fixed


def _calibrated(
    blend: NDArray[np.float64], reviewed: NDArray[np.int64], answers: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return probabilities in the same order, by the logistic curve that fits the answers best."""
    from sklearn.linear_model import LogisticRegression

    curve = LogisticRegression(C=10.0).fit(blend[reviewed, None], answers)
    slope = max(float(curve.coef_[0, 0]), 0.05)  # never the other way round
    return np.asarray(1.0 / (1.0 + np.exp(-(slope * blend + curve.intercept_[0]))), dtype=np.float64)


def _folds(answers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return a fold of each answer, both answers dealt out evenly; the same answers give the same folds."""
    folds = np.empty(len(answers), dtype=np.int64)
    rng = np.random.default_rng(0)
    for value in (True, False):
        of_value = np.flatnonzero(answers == value)
        folds[of_value] = rng.permutation(len(of_value)) % _FOLDS
    return folds


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(p, 1e-4, 1.0 - 1e-4)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float64)
