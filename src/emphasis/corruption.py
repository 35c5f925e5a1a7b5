"""Synthetic label noise and class imbalance.

Every function returns a `Corruption`: the labels, which of them changed, and the realized transition matrix. The module
needs only numpy. Common arguments:

- `labels`: integers in [0, C), (N,): a list, a numpy array or a CPU tensor, which is not modified.
- `noise_rate`: the requested rate r in [0, 1]; `Corruption.realized_rate` is the resulting one.
- `num_classes`: C >= 2; defaults to the largest label + 1.
- `sampling`: "exact" or "independent", see `from_transition_matrix`.
- `seed`: an integer >= 0; the same seed gives the same result.

All functions raise TypeError for arguments of the wrong type and ValueError for values out of range; "Raises" lists
further errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emphasis._label_sampling import (
    Floats,
    Ints,
    Rows,
    Sampling,
    by_class,
    checked_labels,
    checked_rows,
    dense,
    flip_probabilities,
    moves,
    sample,
    uniform,
)
from emphasis.deprecation import renamed, warn_renamed
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.validation import checked_integer, checked_number
from emphasis.weighting._numerics import Array

_ROW_SUM_TOLERANCE = 1e-8
_SOFTMAX_TOLERANCE = 1e-3  # float16 softmax rows sum to 1 no closer

#: {true: noisy} of `cifar10_asymmetric`: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
CIFAR10_ASYMMETRIC = {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}

#: Superclass (coarse label) of each of the 100 classes (fine labels) of CIFAR-100.
# fmt: off
CIFAR100_SUPERCLASS = (
    4, 1, 14, 8, 0, 6, 7, 7, 18, 3, 3, 14, 9, 18, 7, 11, 3, 9, 7, 11, 6, 11, 5, 10, 7,
    6, 13, 15, 3, 15, 0, 11, 1, 10, 12, 14, 16, 9, 11, 5, 5, 19, 8, 8, 15, 13, 14, 17, 18, 10,
    16, 4, 17, 4, 2, 0, 17, 4, 18, 17, 10, 3, 2, 12, 12, 16, 12, 1, 9, 19, 2, 10, 0, 1, 16,
    12, 9, 13, 15, 13, 16, 19, 2, 4, 6, 19, 5, 5, 8, 19, 18, 1, 2, 15, 6, 0, 17, 8, 14, 13,
)
# fmt: on


@dataclass(frozen=True, eq=False, repr=False)
class Corruption:
    """Corrupted labels of N' examples out of N.

    Attributes:
        labels: Labels to train on, (N',) int64.
        changed: Whether each label differs from the true one, (N',) bool.
        true_labels: True labels, (N',) int64.
        index: Indices of the N' examples in the input, (N',) int64, ascending; all of them for label noise.
        num_classes: Number of classes C.
        requested_rate: The requested noise_rate; None if there is none.
    """

    labels: Ints
    changed: NDArray[np.bool_]
    true_labels: Ints
    index: Ints
    num_classes: int
    requested_rate: float | None = None

    @property
    def realized_rate(self) -> float:
        """The share of labels that changed."""
        return float(self.changed.mean()) if self.changed.size else 0.0

    @property
    def realised_rate(self) -> float:
        """Deprecated name of `realized_rate`."""
        warn_renamed("Corruption.realised_rate", "Corruption.realized_rate")
        return self.realized_rate

    def transition_counts(self) -> tuple[Ints, Ints, Ints]:
        """Return the true classes, the noisy classes and the counts of all pairs that occur: three arrays (k,)."""
        pairs, counts = np.unique(self.true_labels * self.num_classes + self.labels, return_counts=True)
        return pairs // self.num_classes, pairs % self.num_classes, counts.astype(np.int64)

    @cached_property
    def transition_matrix(self) -> Floats:
        """The realized transition matrix, (C, C) float64, which is computed on first use.

        Entry [true, noisy] is the share of class `true` that is labeled `noisy`. Rows sum to 1; the row of a class
        without examples is that of the identity.
        """
        true, noisy, counts = self.transition_counts()
        totals = np.bincount(self.true_labels, minlength=self.num_classes)
        matrix = np.diag((totals == 0).astype(np.float64))
        matrix[true, noisy] = counts / totals[true]
        return matrix

    def __repr__(self) -> str:
        asked = "" if self.requested_rate is None else f", requested noise_rate {self.requested_rate:g}"
        size = f"{len(self.labels)} labels of {self.num_classes} classes"
        return f"<Corruption: {size}, {self.changed.sum()} changed ({self.realized_rate:.2%}){asked}>"


def symmetric(
    labels: Array,
    noise_rate: float,
    *,
    num_classes: int | None = None,
    inclusive: bool = False,
    sampling: Sampling = "exact",
    seed: int = 0,
) -> Corruption:
    """Change labels with probability r to another class, drawn uniformly: T[c, c] = 1-r, else r/(C-1).

    With `inclusive=True` the new label is drawn from all classes, including the true one: T = (1-r) I + r/C, and
    r (C-1)/C of the labels change. Both conventions are common; the paper (section 4.2) uses the first.

    Examples:
        >>> from emphasis.corruption import symmetric
        >>> noisy = symmetric([0, 1, 2, 3, 4] * 20, 0.4, seed=0)
        >>> noisy
        <Corruption: 100 labels of 5 classes, 40 changed (40.00%), requested noise_rate 0.4>
        >>> noisy.labels.shape, int(noisy.changed.sum())
        ((100,), 40)
        >>> noisy.transition_matrix[0]
        array([0.6, 0.1, 0.1, 0.1, 0.1])
    """
    given, classes = checked_labels(labels, num_classes)
    rate = checked_number("symmetric", "noise_rate", noise_rate, 0.0, 1.0)
    other = rate / (classes if inclusive else classes - 1)
    rows = uniform(classes, 1.0 - rate + (other if inclusive else 0.0), other)
    return _sampled(given, classes, rows, rate, sampling, _generator(seed))


def pair_flip(
    labels: Array,
    noise_rate: float,
    *,
    num_classes: int | None = None,
    sampling: Sampling = "exact",
    seed: int = 0,
) -> Corruption:
    """Change labels with probability r to the next class, c + 1 mod C (Han et al., Co-teaching, 2018).

    Examples:
        >>> from emphasis.corruption import pair_flip
        >>> pair_flip([0, 1, 2] * 10, 0.2).transition_matrix
        array([[0.8, 0.2, 0. ],
               [0. , 0.8, 0.2],
               [0.2, 0. , 0.8]])
    """
    given, classes = checked_labels(labels, num_classes)
    rate = checked_number("pair_flip", "noise_rate", noise_rate, 0.0, 1.0)
    targets = {c: (c + 1) % classes for c in range(classes)}
    return _sampled(given, classes, moves(targets, rate), rate, sampling, _generator(seed))


def cifar10_asymmetric(labels: Array, noise_rate: float, *, sampling: Sampling = "exact", seed: int = 0) -> Corruption:
    """Change CIFAR-10 labels with probability r to a similar class, `CIFAR10_ASYMMETRIC` (Patrini et al., 2017).

    Five of the ten classes never change, so on balanced data the realized rate is r/2.
    """
    given, classes = checked_labels(labels, 10)
    rate = checked_number("cifar10_asymmetric", "noise_rate", noise_rate, 0.0, 1.0)
    return _sampled(given, classes, moves(CIFAR10_ASYMMETRIC, rate), rate, sampling, _generator(seed))


def superclass_swap(
    labels: Array,
    noise_rate: float,
    *,
    superclass: Array = CIFAR100_SUPERCLASS,
    sampling: Sampling = "exact",
    seed: int = 0,
    structure_seed: int | None = None,
) -> Corruption:
    """Swap labels of two random classes of each superclass with probability r.

    This is the asymmetric noise of the paper for CIFAR-100 (section 4.2, after Wang et al., 2019). Two of five classes
    change, so that the realized rate is 0.4 r on balanced CIFAR-100. `superclass` has the superclass of each class,
    (C,). `structure_seed` determines the classes that are swapped; without it `seed` does. Parts of a data set have the
    same noise if it is the same.

    Raises:
        ValueError: A superclass has only one class.
    """
    groups = np.asarray(superclass)
    if groups.ndim != 1:
        raise EmphasisValueError(f"superclass has shape {groups.shape}: it must be (C,), one entry per class")
    given, classes = checked_labels(labels, groups.size)
    rate = checked_number("superclass_swap", "noise_rate", noise_rate, 0.0, 1.0)
    rng = _generator(seed)
    structure = rng if structure_seed is None else _generator(structure_seed, "structure_seed")
    targets: dict[int, int] = {}
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if members.size < 2:
            raise EmphasisValueError(f"superclass {group} has one class, {members[0]}; it needs two: merge it")
        first, second = (int(c) for c in structure.choice(members, 2, replace=False))
        targets |= {first: second, second: first}
    return _sampled(given, classes, moves(targets, rate), rate, sampling, rng)


def from_transition_matrix(
    labels: Array, transition_matrix: Array, *, sampling: Sampling = "exact", seed: int = 0
) -> Corruption:
    """Draw noisy labels with P(noisy | true) = transition_matrix[true, noisy].

    Each label has the probabilities of its row. With "exact" (systematic) sampling the number of labels of a class with
    n examples that change to a given class differs from n T[true, noisy] by less than 1, and so does the number of all
    changed labels from its expectation. With "independent" sampling each label is drawn independently, as in most
    published code, and the rate varies.

    Raises:
        ValueError: The matrix is not (C, C), an entry is negative, or a row sum differs from 1 by more than 1e-8.

    Examples:
        >>> from emphasis.corruption import from_transition_matrix
        >>> noisy = from_transition_matrix([0, 1] * 10, [[0.9, 0.1], [0.0, 1.0]])
        >>> int(noisy.changed.sum()), sorted(set(noisy.labels[noisy.changed].tolist()))
        (1, [1])
    """
    matrix = np.asarray(transition_matrix, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise EmphasisValueError(f"transition_matrix has shape {matrix.shape}: it must be square, [true, noisy]")
    matrix = checked_rows("transition_matrix", matrix, _ROW_SUM_TOLERANCE)
    given, classes = checked_labels(labels, len(matrix))
    return _sampled(given, classes, dense(matrix), None, sampling, _generator(seed))


def instance_dependent(
    labels: Array,
    noise_rate: float,
    *,
    probabilities: Array | None = None,
    difficulty: Array | None = None,
    num_classes: int | None = None,
    seed: int = 0,
) -> Corruption:
    """Change labels of difficult examples: P(flip) = min(1, s difficulty), with s such that the mean is r.

    Flips are drawn by systematic sampling in random order, so that their number is within 1 of N r. Like instance- and
    part-dependent noise (Xia et al., 2020) they depend on the content of examples, but the procedure is a different
    one. Pass one of:

    - `probabilities`: predictions of a model, (N, C), with rows that sum to 1 within 1e-3. The difficulty is 1 - p_y,
      and the new label is drawn from the probabilities of the other classes.
    - `difficulty`: finite numbers >= 0, (N,), on any scale. The new label is drawn uniformly from the other classes.

    Raises:
        TypeError: Neither or both of them are given.
        ValueError: r exceeds the share of examples with difficulty > 0.
    """
    if (probabilities is None) == (difficulty is None):
        raise EmphasisTypeError("instance_dependent needs either probabilities=(N, C) or difficulty=(N,)")
    modeled = probabilities is not None
    name, source = ("probabilities", probabilities) if modeled else ("difficulty", difficulty)
    values = np.array(source, dtype=np.float64)
    if num_classes is None and modeled and values.ndim == 2:
        num_classes = values.shape[1]
    given, classes = checked_labels(labels, num_classes)
    shape = (given.size, classes) if modeled else given.shape
    if values.shape != shape:
        raise EmphasisValueError(f"{name} has shape {values.shape}, but these labels need {shape}")
    rate = checked_number("instance_dependent", "noise_rate", noise_rate, 0.0, 1.0)
    rng = _generator(seed)

    if modeled:
        values = checked_rows(name, values, _SOFTMAX_TOLERANCE)
        values[np.arange(given.size), given] = 0.0
    elif (bad := ~((values >= 0.0) & (values < np.inf))).any():
        raise EmphasisValueError(f"difficulty holds {values[bad][0]:g}: it must be finite and >= 0, as 1 - p_y is")
    hardness = values.sum(axis=1) if modeled else values  # 1 - p_y without cancellation
    order = rng.permutation(given.size)
    edges = np.cumsum(flip_probabilities(hardness, rate)[order]) + rng.random()
    flipped = np.sort(order[np.diff(np.floor(edges), prepend=0.0) > 0.0])

    noisy = given.copy()
    if modeled:
        cumulative = np.cumsum(values[flipped], axis=1)
        points = rng.random(flipped.size) * cumulative[:, -1]
        noisy[flipped] = (cumulative <= points[:, None]).sum(axis=1)
    else:
        noisy[flipped] = (given[flipped] + rng.integers(1, classes, flipped.size)) % classes
    return _described(given, noisy, classes, rate)


def from_noisy_labels(labels: Array, noisy_labels: Array, *, num_classes: int | None = None) -> Corruption:
    """Return a `Corruption` for existing noisy labels, such as those of CIFAR-10N; `labels` are the true ones.

    Raises:
        ValueError: The numbers of labels differ.
    """
    given, classes = checked_labels(labels, num_classes)
    noisy, _ = checked_labels(noisy_labels, classes)
    if noisy.shape != given.shape:
        raise EmphasisValueError(f"noisy_labels are of shape {noisy.shape}, labels of {given.shape}; give one for each")
    return _described(given, noisy, classes, None)


def pn_ratio(labels: Array, ratio: float, *, positive: int = 1, seed: int = 0) -> Corruption:
    """Keep every positive and round(n_positive / ratio) negatives drawn at random: P : N = ratio : 1.

    This is the class imbalance of the paper (section 4.4.2), which has 12,500 positives and 12,500 negatives: 1,250
    negatives are kept at 10:1, and 250 at 50:1. The returned labels are binary: 1 for `positive`, 0 for other classes.

    Raises:
        ValueError: There are no positives or too few negatives, or no negative would be kept.
    """
    given, _ = checked_labels(labels, None, least=1)
    ratio = checked_number("pn_ratio", "ratio", ratio, 0.0)
    is_positive = given == positive
    positives, negatives = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    if not positives.size or not negatives.size:
        raise EmphasisValueError(f"labels must hold positive={positive!r} and others; they hold {np.unique(given)[:9]}")
    # Too many are an error anyway; the bound keeps n / ratio finite.
    wanted = round(min(positives.size / ratio, given.size)) if ratio else given.size
    if not 1 <= wanted <= negatives.size:
        lowest = positives.size / negatives.size
        raise EmphasisValueError(
            f"ratio={ratio:g}: {positives.size} positives and {negatives.size} negatives allow "
            f"{lowest:g} to {positives.size}"
        )
    rng = _generator(seed)
    index = np.sort(np.concatenate((positives, rng.choice(negatives, wanted, replace=False))))
    binary = is_positive[index].astype(np.int64)
    return _described(binary, binary.copy(), 2, None, index)


def long_tail(labels: Array, imbalance_factor: float, *, num_classes: int | None = None, seed: int = 0) -> Corruption:
    """Keep n_c = n_max factor^(-c/(C-1)) examples of class c, rounded, at least 1 (Cui et al., 2019).

    n_max is the largest number for which every class has enough examples, min_c count_c factor^(c/(C-1)); on balanced
    data it is the size of a class.

    Raises:
        ValueError: A class has no example, or `imbalance_factor` (first class : last class) is below 1.
    """
    given, classes = checked_labels(labels, num_classes)
    factor = checked_number("long_tail", "imbalance_factor", imbalance_factor, 1.0)
    counts = np.bincount(given, minlength=classes)
    if not counts.all():
        raise EmphasisValueError(f"class {counts.argmin()} of {classes} has no example: renumber without gaps")
    log_profile = -np.log(factor) * np.arange(classes) / (classes - 1)
    log_most = np.min(np.log(counts) - log_profile)
    sizes = np.clip(np.rint(np.exp(log_most + log_profile)), 1, counts).astype(np.int64)
    rng = _generator(seed)
    members = zip(by_class(given, classes), sizes, strict=True)
    index = np.sort(np.concatenate([rng.choice(rows, size, replace=False) for rows, size in members]))
    return _described(given[index], given[index], classes, None, index)


def _sampled(
    given: Ints, classes: int, rows: Rows, rate: float | None, sampling: str, rng: np.random.Generator
) -> Corruption:
    return _described(given, sample(given, classes, rows, sampling, rng), classes, rate)


def _described(given: Ints, noisy: Ints, classes: int, rate: float | None, index: Ints | None = None) -> Corruption:
    return Corruption(
        noisy, noisy != given, given, np.arange(given.size) if index is None else index, classes, requested_rate=rate
    )


def _generator(seed: int, name: str = "seed") -> np.random.Generator:
    return np.random.default_rng(checked_integer(name, seed, 0))


__getattr__ = renamed(__name__, {"given_labels": "from_noisy_labels"})
