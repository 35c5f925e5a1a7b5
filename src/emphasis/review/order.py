"""The order of a review, learned from the decisions: calibrated probabilities that labels are wrong.

Until there are enough decisions of both kinds, the order is that of the audit: suspects first, by score. Then a
classifier is trained on the decisions. It predicts whether a label is wrong from the score, the network's
probabilities, the share of wrong labels with the same pair of classes, and the labels and decisions of neighbors. Since
the first decisions are few and concern the most suspicious examples only, the classifier is blended with the audit's
order; after 100 decisions both have the same weight. A logistic curve maps the blend to calibrated probabilities.
Predictions are cross-fitted: the probability of a reviewed example is based on decisions about other examples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emphasis.review.examples import Examples
from emphasis.review.neighbors import Neighbors

_FEWEST = 20  # decisions required for learning, with at least a quarter as many of each answer
_FOLDS = 5
_HALF_WAY = 100  # decisions after which classifier and audit have the same weight
_STATIC_SLOPE = 2.0  # slope of the log odds by rank in the audit's order
_SCALE_SAMPLE = 500
_PRIOR = 4.0  # prior decisions of each class pair, with the mean answer


class LearnedOrder:
    """Probabilities that labels are wrong, from decisions about some of them.

    Args:
        examples: Examples of an audit.
        neighbors: Neighbors of the examples.
    """

    def __init__(self, examples: Examples, neighbors: Neighbors | None = None) -> None:
        self._examples = examples
        self._neighbors = neighbors or Neighbors(examples)
        self._pair = examples.labels * len(examples.class_names) + examples.suggested
        self._fixed: NDArray[np.float64] | None = None
        n = len(examples)
        self._sample = examples.order[np.linspace(0, n - 1, min(n, _SCALE_SAMPLE)).round().astype(int)]

    def static(self) -> NDArray[np.float64]:
        """Return numbers (n,) in (0, 1), not calibrated, that rank the examples in the audit's order."""
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
            wrong: Whether the label is wrong, by decided example; there must be enough for `can_learn`.
        """
        reviewed = np.array(sorted(wrong), dtype=np.int64)
        answers = np.array([wrong[index] for index in reviewed.tolist()], dtype=bool)
        folds = _folds(answers)
        learned = np.empty(len(self._examples))
        unreviewed = np.ones(len(self._examples), dtype=bool)
        unreviewed[reviewed] = False
        learned[unreviewed] = self._fit_predict(reviewed, answers, np.flatnonzero(unreviewed))
        for fold in range(_FOLDS):
            held_out, used = folds == fold, folds != fold
            if held_out.any():
                learned[reviewed[held_out]] = self._fit_predict(reviewed[used], answers[used], reviewed[held_out])
        share = len(answers) / (len(answers) + _HALF_WAY)
        blend = share * _log_odds(learned) + (1.0 - share) * _STATIC_SLOPE * _log_odds(self.static())
        return _calibrated(blend, reviewed, answers)

    def _fit_predict(
        self, reviewed: NDArray[np.int64], answers: NDArray[np.bool_], queried: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        from sklearn.linear_model import LogisticRegression

        if not len(queried):
            return np.empty(0)
        if answers.all() or not answers.any():
            return np.full(len(queried), (answers.sum() + 0.5) / (len(answers) + 1.0))
        # Columns of pairs and neighbors must not contain the answer about the example itself.
        inputs_of_reviewed = self._columns(reviewed, answers, reviewed, leave_out=True)
        # Scaled over all examples, since reviewed examples are similar and their small differences would be enlarged.
        scale = np.maximum(self._columns(reviewed, answers, self._sample, leave_out=True).std(axis=0), 1e-6)
        model = LogisticRegression(C=0.5, max_iter=500).fit(inputs_of_reviewed / scale, answers)
        values = model.predict_proba(self._columns(reviewed, answers, queried, leave_out=False) / scale)
        return np.asarray(values[:, 1], dtype=np.float64)

    def _columns(
        self, reviewed: NDArray[np.int64], answers: NDArray[np.bool_], queried: NDArray[np.int64], leave_out: bool
    ) -> NDArray[np.float64]:
        """Return the inputs of the classifier for the examples `queried`."""
        fixed = self._fixed_columns()[queried]
        mean = (answers.sum() + 1.0) / (len(answers) + 2.0)
        known = np.full(len(self._examples), np.nan)
        known[reviewed] = answers
        excluded = known[queried] if leave_out else np.full(len(queried), np.nan)
        learned = []
        for groups in (self._pair, self._examples.labels):
            wrong = np.bincount(groups[reviewed], answers, minlength=int(groups.max()) + 1)[groups[queried]]
            count = np.bincount(groups[reviewed], minlength=int(groups.max()) + 1)[groups[queried]].astype(float)
            wrong, count = wrong - np.nan_to_num(excluded), count - ~np.isnan(excluded)
            learned.append(_log_odds((wrong + _PRIOR * mean) / (count + _PRIOR)))
        table = self._neighbors.table
        if table is not None:
            near = known[table[0][queried]]
            is_known = ~np.isnan(near)
            learned.append(_log_odds((np.nansum(near, axis=1) + 2.0 * mean) / (is_known.sum(axis=1) + 2.0)))
        return np.column_stack([fixed, *learned])

    def _fixed_columns(self) -> NDArray[np.float64]:
        """Return the inputs of the classifier that do not depend on decisions."""
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
            label_p, suggested = (
                _log_odds(examples.probability_of(classes)) for classes in (examples.labels, examples.suggested)
            )
            columns += [label_p, suggested]
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
    """Return calibrated probabilities in the same order, from a logistic curve fitted to the answers."""
    from sklearn.linear_model import LogisticRegression

    curve = LogisticRegression(C=10.0).fit(blend[reviewed, None], answers)
    slope = max(float(curve.coef_[0, 0]), 0.05)  # positive, so that the order is kept
    return np.asarray(1.0 / (1.0 + np.exp(-(slope * blend + curve.intercept_[0]))), dtype=np.float64)


def _folds(answers: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the fold of each answer, with both kinds distributed evenly; the same answers give the same folds."""
    folds = np.empty(len(answers), dtype=np.int64)
    rng = np.random.default_rng(0)
    for value in (True, False):
        of_value = np.flatnonzero(answers == value)
        folds[of_value] = rng.permutation(len(of_value)) % _FOLDS
    return folds


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    clipped = np.clip(p, 1e-4, 1.0 - 1e-4)
    return np.asarray(np.log(clipped / (1.0 - clipped)), dtype=np.float64)
