"""Gradient and curvature of a weighting for Newton boosting: what every booster's adapter calls.

Writing dz for the derivative of Eq. 7 and c = w(p) / (2 (1-p)) for what it multiplies cross-entropy's by,

    gradient_j = dz_j = c (p_j - [j = y]),        hessian_j = max(c, 1) p_j (1 - p_j),

p_j being class j's probability and p that of the label y. The derivative is what a weighting designs; the curvature is
that of cross-entropy, or of cross-entropy times c where that is more: positive always. The step of a leaf is the
ratio of two sums: if both contained c, an example of small weight that is alone in its leaf would take as large a step
as without the weighting.

It is an upper bound of c p_j (1 - p_j), the diagonal of weighted cross-entropy's Hessian, c held fixed; and that is a
bound of the loss's own second derivative where c does not fall as p rises (CCE, MAE, GCE, SCE), since the loss is then
a concave function of cross-entropy. For the others (DM, MSE, Focal) it is an approximation. The second derivative
itself will not do: it is negative for the examples that a robust weighting holds back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.boosting.labels import FloatArray, checked_weight, class_numbers
from emphasis.errors import EmphasisOverflowError, EmphasisValueError
from emphasis.weighting import CCE, DEFAULT_WEIGHTING, MaxMargin, Weighting, WeightingLike, as_weighting
from emphasis.weighting._numerics import doubt_of, exponent_of, log_trust_of
from emphasis.weighting.options import Normalization, check_options

Total = Callable[[FloatArray], FloatArray]
_LEAST_HESSIAN = 1e-16  # XGBoost's own: leaves divide by sums of hessians
_LARGEST_LOG = 1e300
_BLOCK = 2**17  # numbers of an array that are worked on at a time: some such arrays fit into a core's own cache
_TOO_LARGE = '{!r} exceeds {}; use normalization="integral" or "batch", or a smaller beta'
_NOT_FINITE = "raw_prediction holds NaN or infinity; lower the learning rate or regularize more"


@dataclass(frozen=True)
class Objective:
    """A weighting as a booster's objective.

    Attributes:
        weighting: As `emphasis.torch.emphasis_loss` takes it; None for `DEFAULT_WEIGHTING`.
        normalization: "integral": w divided by its integral over [0, 1] (Eq. 8), so that CCE is cross-entropy itself
            and any other has the same total over p: regularization keeps its usual size. "batch": w divided by its
            mean over the training examples, anew in each round. None: w as it is.
        max_margin: No derivative beyond this margin, see `emphasis_loss`.

    Examples:
        >>> import numpy as np
        >>> from emphasis.boosting import Objective
        >>> gradient, hessian = Objective("CCE").gradient_hessian([0, 1], np.zeros((2, 4)))
        >>> gradient
        array([[-0.75,  0.25,  0.25,  0.25],
               [ 0.25, -0.75,  0.25,  0.25]])
        >>> hessian[0]
        array([0.1875, 0.1875, 0.1875, 0.1875])
    """

    weighting: WeightingLike | None = None
    normalization: Normalization = "integral"
    max_margin: MaxMargin = "auto"

    def __post_init__(self) -> None:
        check_options(self.normalization)
        resolved = DEFAULT_WEIGHTING if self.weighting is None else as_weighting(self.weighting)
        object.__setattr__(self, "weighting", resolved)
        _ = self._log_normalizer, self._largest_margin  # raise here, not in the first round

    @property
    def is_cross_entropy(self) -> bool:
        """Whether this is the library's own objective, which then trains by itself: faster, and with all it can do."""
        return self._resolved == CCE() and self.normalization == "integral" and self.max_margin == "auto"

    @cached_property
    def _log_normalizer(self) -> float:
        return self._resolved.log_normalizer if self.normalization == "integral" else 0.0

    @cached_property
    def _largest_margin(self) -> float:
        return self._resolved.max_margin(self.max_margin)

    @property
    def _resolved(self) -> Weighting:
        assert isinstance(self.weighting, Weighting)
        return self.weighting

    def gradient_hessian(
        self,
        y_true: Any,
        raw_prediction: Any,
        sample_weight: Any = None,
        *,
        total: Total | None = None,
        out: tuple[FloatArray, FloatArray] | None = None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return the derivative with respect to the raw predictions, and its positive diagonal curvature.

        Args:
            y_true: (N,) class numbers 0 to C - 1, integers or whole floats.
            raw_prediction: (N, C) raw scores, C >= 2, or (N,) for two classes: class 1's score over class 0's.
            sample_weight: (N,) >= 0, multiplies both; None for 1.
            total: Given sums over these examples, returns the sums over all examples of the round, of which these are a
                part. None if these are all. Not under "batch".
            out: What an earlier call returned, which is overwritten and returned again if its shape and dtype are the
                same: new memory costs more than half of the time where several classes have millions of rows.

        Returns:
            gradient and hessian of raw_prediction's shape, not averaged; float32 where raw_prediction is float32 and
            has several classes, otherwise float64. The hessian is at least 1e-16.

        Raises:
            ValueError: Shapes, labels, weights or scores do not fit, or are NaN or infinite.
            OverflowError: w exceeds float64, or float32 where that is returned.
        """
        raw_prediction = np.asarray(raw_prediction)
        labels = class_numbers(y_true, raw_prediction)
        over_all = _whole if total is None else total
        if not math.isfinite(raw_prediction.sum(dtype=np.float64)) and not np.isfinite(raw_prediction).all():
            raise EmphasisValueError(_NOT_FINITE)
        if raw_prediction.ndim == 2:
            return self._of_several_classes(labels, raw_prediction, sample_weight, over_all, out)
        raw_prediction = raw_prediction.astype(np.float64, copy=False)
        share = _shares(sample_weight, len(labels))
        sign = np.where(labels == 1, 1.0, -1.0)
        margin = sign * raw_prediction
        means = None
        if self._resolved.trust[0]:
            log_p, log_q = _log_probabilities(margin)
            of_one = share @ np.exp(np.where(labels == 1, log_p, log_q))
            whole, above, of_one = over_all(np.array([share.sum(), share @ doubt_of(log_p, margin, np), of_one]))
            means = _means(whole, above, np.where(raw_prediction > 0.0, of_one, whole - of_one))
        half, curvature, p, _ = self._pushes(margin, margin, share, means)
        return -sign * half, np.maximum(curvature * p, _LEAST_HESSIAN)

    def _of_several_classes(
        self,
        labels: NDArray[np.intp],
        raw_prediction: Any,
        sample_weight: Any,
        over_all: Total,
        out: tuple[FloatArray, FloatArray] | None,
    ) -> tuple[FloatArray, FloatArray]:
        """Return `gradient_hessian` of raw predictions (N, C), in blocks of examples that fit the processor's cache."""
        number, num_classes = raw_prediction.shape
        precision: Any = np.float32 if raw_prediction.dtype == np.float32 else np.float64
        # Classes first: sums over classes run along whole rows.
        if out is not None and out[0].shape == raw_prediction.shape and out[0].dtype == precision:
            gradient, hessian = (array.T for array in out)
        else:
            gradient, hessian = (np.empty((num_classes, number), precision) for _ in range(2))
        share = _shares(sample_weight, number)
        margin, lead = np.empty(number), np.empty(number)
        sums = np.zeros(2 + num_classes)  # of the shares, of p_max - p, and of each class's probabilities
        looks_around = bool(self._resolved.trust[0])
        size = max(1, _BLOCK // num_classes)
        blocks = [slice(start, start + size) for start in range(0, number, size)]
        for block in blocks:
            q = gradient[:, block]
            q[...] = raw_prediction[block].T
            places = labels[block], np.arange(q.shape[1])
            own = q[places]
            log_rest, highest = _to_direction(q, places)
            margin[block], lead[block] = own - log_rest, own - highest
            if looks_around:
                log_p, log_q = _log_probabilities(margin[block])
                sums[:2] += share[block].sum(), share[block] @ doubt_of(log_p, lead[block], np)
                sums[2:] += np.bincount(labels[block], share[block] * np.exp(log_p), num_classes)
                of_others = share[block] * np.exp(log_q)
                # Class by class: the whole block in float64 would be new memory from the system for each block.
                sums[2:] += [of_class.astype(np.float64) @ of_others for of_class in q]
        if looks_around:
            sums = over_all(sums)
        # Under "batch" the divisor is the mean of all weights, which are then computed at once.
        pushes = self._pushes(margin, lead, share, None) if self.normalization == "batch" else None
        for block in blocks:
            q, h = gradient[:, block], hessian[:, block]
            if pushes is not None:
                of_block = tuple(values[block] for values in pushes)
            else:
                means = _means(sums[0], sums[1], _at_largest(q, sums[2:])) if looks_around else None
                of_block = self._pushes(margin[block], lead[block], share[block], means)
            with np.errstate(over="ignore"):
                half, curvature, p, rest = (np.asarray(values, precision) for values in of_block)
            if not math.isfinite(half.sum(dtype=np.float64)):
                raise EmphasisOverflowError(_TOO_LARGE.format(self.weighting, "float32"))
            places = labels[block], np.arange(q.shape[1])
            np.multiply(q, rest, out=h)
            np.subtract(1.0, h, out=h)
            h *= q
            h *= curvature
            h[places] = curvature * p
            np.maximum(h, _LEAST_HESSIAN, out=h)
            q *= half
            q[places] = -half
        return gradient.T, hessian.T

    def of_example(self, label: int, raw_prediction: FloatArray, weight: float = 1.0) -> tuple[FloatArray, FloatArray]:
        """Return one example's gradient (C,), and its whole matrix of curvature max(c, 1) (diag(p) - p p^T), (C, C).

        What CatBoost asks for. For `Relative`, the example being a batch of its own, it is that of cross-entropy. Under
        "batch" an example would need to know the others: see `check_single_examples`.
        """
        if not math.isfinite(raw_prediction.sum()):
            raise EmphasisValueError(_NOT_FINITE)
        q = raw_prediction.copy()
        log_rest, highest = _to_direction(q, label)
        own = raw_prediction[label]
        half, curvature, p, rest = (float(x) for x in self._pushes(own - log_rest, own - highest, np.ones(()), None))
        matrix = np.outer(q, q) * (-weight * curvature * rest)
        matrix[label] = matrix[:, label] = q * (-weight * curvature * p)
        matrix.flat[:: len(q) + 1] += q * (weight * curvature)
        matrix[label, label] = weight * curvature * p
        gradient = q * (weight * half)
        gradient[label] = -weight * half
        return gradient, matrix

    def check_single_examples(self) -> None:
        """Raise ValueError under "batch", which `of_example` cannot do."""
        if self.normalization == "batch":
            raise EmphasisValueError(
                'normalization="batch" needs all examples at once, which CatBoost does not give where there are more '
                'than two classes; use "integral" or None'
            )

    def check_parts(self, *, sums_are_shared: bool) -> None:
        """Raise EmphasisValueError if the weighting cannot be evaluated where each worker has a part of the examples.

        Args:
            sums_are_shared: Whether `gradient_hessian` is given `total`.
        """
        if self.normalization == "batch":
            raise EmphasisValueError(
                'normalization="batch" divides by the mean weight of all examples of a round, and the divisor would be '
                'each worker\'s own; use "integral" or None'
            )
        if self._resolved.trust[0] and not sums_are_shared:
            raise EmphasisValueError(
                f"{self.weighting!r} compares each example with all examples of a round, and LightGBM gives each "
                "worker its own examples only; use another weighting, such as GCE(0.7), or XGBoost"
            )

    def _pushes(
        self, margin: FloatArray, lead: FloatArray, share: FloatArray, means: tuple[float, FloatArray] | None
    ) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
        """Return w/2, max(w/2, 1-p), p and 1-p of margins, the first two normalized and times the sample weights.

        lead: Each label's score less the largest other one.
        share: Sample weights.
        means: As `_means` returns them; None for a weighting that needs none, and for one example.
        """
        log_p, log_q = _log_probabilities(margin)
        p, rest = np.exp(log_p), np.exp(log_q)
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # judged below, by value
            log_w = self._resolved.where_agreed.log_weight(log_p, log_q, np) - self._log_normalizer
            if means is not None:
                doubt, prior_rest = means
                certainty_rest = rest - doubt_of(log_p, lead, np)
                exponent = exponent_of(self._resolved.trust, doubt, certainty_rest, prior_rest, np)
                log_w = log_w + log_trust_of(exponent, lead, np)
            log_w = np.where(margin > self._largest_margin, -np.inf, log_w)
            if self.normalization == "batch":
                log_w -= max(log_w.max(), -_LARGEST_LOG)
            half = 0.5 * np.exp(log_w)
        if np.isnan(half).any():
            raise EmphasisValueError(f"{self.weighting!r} is negative or NaN somewhere; weights are >= 0")
        if not math.isfinite(half.sum()):
            raise EmphasisOverflowError(_TOO_LARGE.format(self.weighting, "float64"))
        half *= share
        if self.normalization == "batch" and (total := half.sum()) > 0.0:
            half *= 0.5 * share.sum() / total
        return half, np.maximum(half, share * rest), p, rest


class Rounds(threading.local):
    """What the rounds of a fit share: the arrays of the last one, in each thread its own, none after pickling."""

    last: tuple[FloatArray, FloatArray] | None = None

    def __reduce__(self) -> tuple[type[Rounds], tuple[()]]:
        return Rounds, ()


def in_rounds(
    own: Objective, factor: Callable[[int], float], total: Total | None = None
) -> Callable[..., tuple[FloatArray, FloatArray]]:
    """Return the objective in the form that the estimators of XGBoost and LightGBM take.

    A call overwrites what the call before it returned: the libraries have used it by then.

    Args:
        own: Objective.
        factor: What the library multiplies the curvature by, given the number of classes, if there are several scores.
        total: As for `Objective.gradient_hessian`.
    """
    rounds = Rounds()

    def derivatives(y_true: Any, y_pred: Any, sample_weight: Any = None) -> tuple[FloatArray, FloatArray]:
        rounds.last = own.gradient_hessian(y_true, y_pred, sample_weight, total=total, out=rounds.last)
        gradient, hessian = rounds.last
        if hessian.ndim == 2:
            hessian *= factor(hessian.shape[1])
        return gradient, hessian

    return derivatives


def _whole(sums: FloatArray) -> FloatArray:
    return sums


def _shares(sample_weight: Any, number: int) -> FloatArray:
    return np.broadcast_to(1.0, number) if sample_weight is None else checked_weight(sample_weight, number)


def _log_probabilities(margin: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return log p and log(1-p)."""
    shifted = np.log1p(np.exp(-np.abs(margin)))
    return np.minimum(margin, 0.0) - shifted, np.minimum(-margin, 0.0) - shifted


def _means(whole: float, above: float, of_likeliest: FloatArray) -> tuple[float, FloatArray]:
    """Return what `Relative` compares examples with: the mean of p_max - p, and 1 - pi of each example.

    Args:
        whole: Sum of the shares of all examples of the round.
        above: Sum of share times p_max - p.
        of_likeliest: Sum of share times the probability of each example's likeliest class.
    """
    whole = max(whole, np.finfo(float).tiny)
    return above / whole, 1.0 - of_likeliest / whole


def _to_direction(scores: FloatArray, own: Any) -> tuple[Any, Any]:
    """Turn raw scores, classes first, into the softmax over the others in place; return their logsumexp and largest."""
    scores[own] = -math.inf
    peak = scores.max(axis=0)
    np.exp(np.subtract(scores, peak, out=scores), out=scores)
    total = scores.sum(axis=0, dtype=np.float64)
    scores *= (1.0 / total).astype(scores.dtype)
    return peak + np.log(total), peak


def _at_largest(scores: FloatArray, values: FloatArray) -> FloatArray:
    """Return the value of the first class with the largest score of each example, from (C, N) and (C,)."""
    largest, chosen = scores.max(axis=0), np.empty(scores.shape[1])
    for of_class, value in zip(scores[::-1], values[::-1], strict=True):
        np.putmask(chosen, of_class == largest, value)  # several times as fast as an index of booleans
    return chosen


def check_refused(parameters: Mapping[str, Any], cures: Mapping[str, str], neutral: Mapping[str, Any]) -> None:
    """Raise EmphasisValueError for a parameter that belongs to the library's own objectives.

    Args:
        parameters: Parameters of an estimator.
        cures: What to do instead of each parameter that is refused.
        neutral: Values that change nothing, besides None.
    """
    for name, cure in cures.items():
        value = parameters.get(name)
        if value is not None and value != neutral.get(name):
            raise EmphasisValueError(f"{name}={value!r} is not allowed; {cure}")
