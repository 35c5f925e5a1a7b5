"""Nearest examples by the network's features, as evidence for a reviewer and for the learned order."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from emphasis.review.examples import Examples

_EVIDENCE = 10  # neighbors of each example used by the learned order
_MAX_REFERENCES = 20_000  # examples among which neighbors are searched
_BLOCK = 1024  # examples whose similarities are in memory at once


class Neighbors:
    """Neighbors of the examples of an audit, by cosine similarity of their features.

    Args:
        examples: Examples of an audit; without features there are no neighbors.
    """

    def __init__(self, examples: Examples) -> None:
        self._labels, self._suspect = examples.labels, examples.suspect
        self._features: NDArray[np.float32] | None = None
        if examples.features is not None:
            values = np.nan_to_num(np.asarray(examples.features, dtype=np.float32))
            length = np.linalg.norm(values, axis=1, keepdims=True)
            self._features = values / np.maximum(length, 1e-12)

    def nearest(self, index: int, label: int, count: int = 5) -> list[int]:
        """Return the examples labeled `label` that are nearest to an example (without itself), nearest first.

        Suspects are skipped if there are enough other examples.
        """
        if self._features is None:
            return []
        of_class = np.flatnonzero((self._labels == label) & ~self._suspect)
        if len(of_class) <= count:
            of_class = np.flatnonzero(self._labels == label)
        of_class = of_class[of_class != index]
        similarity = self._features[of_class] @ self._features[index]
        return [int(position) for position in of_class[_largest(similarity[None], min(count, len(of_class)))[0]]]

    @cached_property
    def table(self) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The 10 nearest examples of each example, (n, 10), and their similarities; None without features.

        If there are more than 20,000 examples, neighbors are searched among 20,000 random examples.
        """
        if self._features is None or len(self._labels) <= _EVIDENCE:
            return None
        n = len(self._labels)
        references = np.arange(n)
        if n > _MAX_REFERENCES:
            references = np.sort(np.random.default_rng(0).choice(n, _MAX_REFERENCES, replace=False))
        position = np.full(n, -1)
        position[references] = np.arange(len(references))
        transposed = self._features[references].T.copy()
        indices = np.empty((n, _EVIDENCE), dtype=np.int64)
        similarities = np.empty((n, _EVIDENCE), dtype=np.float32)
        for start in range(0, n, _BLOCK):
            block = self._features[start : start + _BLOCK] @ transposed
            rows = position[start : start + _BLOCK]
            block[np.flatnonzero(rows >= 0), rows[rows >= 0]] = -np.inf
            nearest = _largest(block, _EVIDENCE)
            indices[start : start + _BLOCK] = references[nearest]
            similarities[start : start + _BLOCK] = np.take_along_axis(block, nearest, axis=1)
        return indices, similarities


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the positions of the `count` largest values of each row, largest first."""
    if not count:
        return np.empty((len(values), 0), dtype=np.intp)
    top = np.argpartition(-values, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
    return np.take_along_axis(top, order, axis=1)
