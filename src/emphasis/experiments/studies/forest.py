"""Class probabilities from a forest, by trees that were not trained on the example.

Networks and forests make different mistakes on tables, so an audit of a table uses both. A forest needs no learning
rate, and its out-of-bag predictions (L. Breiman, "Random Forests", Machine Learning 2001) no cross-validation. Its
trees are extremely randomized (P. Geurts, D. Ernst and L. Wehenkel, Machine Learning 2006): the time of a split hardly
depends on the number of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.diagnostics.suspects import Suspects
from emphasis.process import idle_cores

_MOST_TREES, _FEWEST_TREES = 200, 32
_VALUES_OF_ALL_TREES = 100_000_000  # examples times columns; about ten seconds
_CLASSES_OF_MOST_TREES = 20
_LEAST_P = 1e-6
_LEAF = 10  # rows; in small leaves wrong labels are not outvoted


def out_of_bag_probabilities(
    inputs: NDArray[np.float32],
    labels: NDArray[np.int64],
    num_classes: int,
    groups: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
) -> NDArray[np.float32]:
    """Return the probability of each class for each example, by trees that have not seen the example.

    A tree is trained on examples drawn with replacement, and predicts the others. The examples of a group are drawn
    together, so that the label of one is not predicted from that of an equal one. The mean over trees includes the
    class frequencies once, so that an example that all trees have seen gets these. Sums are in the order of the trees:
    the bits do not depend on the number of threads.

    Args:
        inputs: Inputs of shape (n, D), finite.
        labels: Labels of shape (n,), in [0, num_classes).
        num_classes: Number of classes C.
        groups: Number of the group of each example, (n,); None if each is a group of its own.
        seed: Seed of the trees.

    Returns:
        Probabilities of shape (n, C), in (0, 1) for classes that have examples.
    """
    from sklearn.utils.parallel import Parallel, delayed

    n = len(labels)
    groups = np.arange(n) if groups is None else groups
    most = _MOST_TREES * _CLASSES_OF_MOST_TREES // max(num_classes, _CLASSES_OF_MOST_TREES)
    trees = max(_FEWEST_TREES, min(most, _VALUES_OF_ALL_TREES // inputs.size))
    run = Parallel(n_jobs=idle_cores(), prefer="threads", return_as="generator")
    total = np.zeros((n, num_classes))
    total += np.bincount(labels, minlength=num_classes) / n
    count = np.ones(n)
    for unseen, present, probabilities in run(
        delayed(_tree)(inputs, labels, groups, seed + number) for number in range(trees)
    ):
        total[np.ix_(unseen, present)] += probabilities
        count[unseen] += 1.0
    return np.asarray(total / count[:, None], dtype=np.float32)


def _tree(
    inputs: NDArray[np.float32], labels: NDArray[np.int64], groups: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return the examples that a tree has not seen, the classes it knows, and their probabilities."""
    from sklearn.tree import ExtraTreeClassifier

    rng = np.random.default_rng(seed)
    number_of_groups = int(groups.max()) + 1
    draws = np.bincount(rng.integers(0, number_of_groups, number_of_groups), minlength=number_of_groups)[groups]
    tree = ExtraTreeClassifier(max_features=None, min_samples_leaf=_LEAF, random_state=seed)
    tree.fit(inputs, labels, sample_weight=draws)
    unseen = np.flatnonzero(draws == 0)
    predicted = tree.predict_proba(inputs[unseen]) if len(unseen) else np.empty((0, len(tree.classes_)))
    return unseen, tree.classes_, predicted


def mean_over_training(
    margins: Sequence[NDArray[Any]], predicted: Sequence[NDArray[Any]], labels: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64]:
    """Return the mean over training of a network's class probabilities, (n, C), as far as a trace tells.

    A trace holds p, the probability of the label, and the predicted class. The remaining 1 - p is divided among the
    other classes by how often each was predicted, and evenly if none was.

    Args:
        margins: (E, n) margins log(p / (1 - p)) of the labels at E evaluations.
        predicted: (E, n) predicted classes.
        labels: (n,) labels in [0, num_classes).
        num_classes: Number of classes C.
    """
    n = len(labels)
    examples = np.arange(n)
    p, shares = np.zeros(n), np.zeros((n, num_classes))
    for margin, choice in zip(margins, predicted, strict=True):
        p += 1.0 / (1.0 + np.exp(-np.asarray(margin, dtype=np.float64)))
        shares[examples, np.asarray(choice, dtype=np.int64)] += 1.0
    p /= len(margins)
    shares[shares.sum(axis=1) == shares[examples, labels]] = 1.0
    shares[examples, labels] = 0.0
    shares *= ((1.0 - p) / shares.sum(axis=1))[:, None]
    shares[examples, labels] = p
    return shares


def with_forest(
    of_network: Suspects,
    network: NDArray[np.floating[Any]],
    forest: NDArray[np.floating[Any]],
    labels: NDArray[np.int64],
) -> tuple[Suspects, NDArray[np.float64]]:
    """Rank labels by the mean of a network's and a forest's probabilities.

    Those of the forest are squared and normalized first, since a mean over trees is less certain than a network.
    The score is log(p / (1 - p)) of the mean probability p of the label. A label is suspect if both contradict it: the
    network has predicted one other class more often, and the forest finds another class more probable.

    Args:
        of_network: The network's ranking.
        network: Its class probabilities, (n, C).
        forest: The forest's, (n, C).
        labels: Labels of shape (n,), in [0, C).

    Returns:
        The ranking, and the mean probabilities (n, C).
    """
    examples = np.arange(len(labels))
    sharpened = np.asarray(forest, dtype=np.float64) ** 2
    sharpened /= sharpened.sum(axis=1, keepdims=True)
    mean = 0.5 * (network + sharpened)
    p = np.clip(mean[examples, labels], _LEAST_P, 1.0 - _LEAST_P)
    score = np.log(p) - np.log1p(-p)
    others = mean.copy()
    others[examples, labels] = -1.0
    suspects = Suspects(
        score=score,
        suggested=others.argmax(axis=1).astype(np.int64),
        suspect=of_network.suspect & (forest.argmax(axis=1) != labels),
        sample_weight=p,
        order=np.argsort(score, kind="stable").astype(np.int64),
    )
    return suspects, mean
