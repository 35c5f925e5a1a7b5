"""How well videos of a person are found among others: CMC and mean average precision by the protocol of MARS.

Pure functions of numpy arrays. The protocol is that of L. Zheng et al., MARS: A Video Benchmark for Large-Scale Person
Re-Identification, ECCV 2016, as in their https://github.com/liangzheng06/MARS-evaluation (`evaluation_mars`, and
`compute_AP` of Market-1501). The gallery, queries included, is ranked for each query by falling similarity, ties in the
gallery's order, and is then seen as

- matches: the query's person in another camera; there may be several;
- junk, passed over as if it were not there: the query's person in the query's own camera, which includes the query
  itself, and false detections (person -1);
- all else, which never matches: other persons, and distractors (person 0).

CMC at rank k is the share of queries with a match among the first k. Average precision is the area under the polygon
through the points of precision and recall after every entry, from precision 1 at recall 0. With m_i the rank of match i
among G, junk not counted, and the precision before the first entry taken for 1,

    AP = 1/G sum_i ((i-1) / (m_i - 1) + i / m_i) / 2.

Evaluations that take the mean of i / m_i alone, as scikit-learn's, are never below it: the two must not be compared.
A query without any match has no AP: the official code then divides by zero and its mean is NaN. Here such queries are
left out of both measures and counted (`Retrieval.unmatched`). MARS has none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emphasis.deprecation import renamed
from emphasis.errors import EmphasisValueError

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]

JUNK = -1
"""The "person" of false detections, which are passed over."""
DISTRACTOR = 0
"""The "person" of background and of people nobody asks for, who match no query."""
RANKS = (1, 5, 10, 20)
"""Where CMC is usually given."""

_QUERIES_AT_ONCE = 64  # 12,180 similarities each: 6 MB of places in the ranking, one array


@dataclass(frozen=True, eq=False)
class Retrieval:
    """How Q queries were answered.

    Attributes:
        average_precision: (Q,) float64 in (0, 1]; NaN for a query without a match in the gallery.
        first_match: (Q,) int64, the rank of the first match, 1 being best; 0 for a query without one.
    """

    average_precision: NDArray[np.float64]
    first_match: NDArray[np.int64]

    @property
    def unmatched(self) -> int:
        """How many queries have no match in the gallery; they are left out of the means."""
        return int(np.count_nonzero(self.first_match == 0))

    @property
    def mean_average_precision(self) -> float:
        """MAP in (0, 1].

        Raises:
            ValueError: No query has a match.
        """
        return float(self.average_precision[self._matched()].mean())

    def cmc(self, rank: int) -> float:
        """Return the share of queries with a match among the first `rank` >= 1 entries.

        Raises:
            ValueError: No query has a match, or `rank` is not allowed.
        """
        if rank < 1:
            raise EmphasisValueError(f"rank={rank} is not allowed; the first entry has rank 1")
        return float(np.mean(self.first_match[self._matched()] <= rank))

    def _matched(self) -> NDArray[np.bool_]:
        matched: NDArray[np.bool_] = self.first_match > 0
        if not matched.any():
            raise EmphasisValueError(
                f"none of {len(matched)} queries has a match, its person in another camera, in the gallery"
            )
        return matched


def evaluate_ranking(
    similarity: Floats, query_person: ArrayLike, query_camera: ArrayLike, person: ArrayLike, camera: ArrayLike
) -> Retrieval:
    """Return how queries are answered by a gallery's ranking.

    Args:
        similarity: (Q, G), larger is nearer.
        query_person: (Q,) whole numbers above 0.
        query_camera: (Q,).
        person: (G,) of the gallery; `JUNK` and `DISTRACTOR` are no persons.
        camera: (G,).

    Raises:
        ValueError: Shapes do not fit, a similarity is NaN, or a query shows no person.
    """
    query_person, query_camera, person, camera = map(np.asarray, (query_person, query_camera, person, camera))
    if not (query_person.shape + person.shape == query_camera.shape + camera.shape == similarity.shape):
        shapes = ", ".join(str(array.shape) for array in (query_person, query_camera, person, camera))
        raise EmphasisValueError(
            f"similarity {similarity.shape} and persons and cameras {shapes} do not fit; give (Q, G), twice (Q,), "
            "twice (G,)"
        )
    if np.isnan(similarity).any():
        row, column = np.argwhere(np.isnan(similarity))[0]
        raise EmphasisValueError(f"the similarity of query {row} and gallery entry {column} is NaN; check the features")
    if (wrong := np.flatnonzero(query_person <= DISTRACTOR)).size:
        raise EmphasisValueError(
            f"query {wrong[0]} has person={query_person[wrong[0]]}; a query must show a person, 1 or more"
        )

    same = query_person[:, None] == person
    match = same & (query_camera[:, None] != camera)
    order = np.argsort(-similarity, axis=1, kind="stable")
    passed_over = np.take_along_axis((same & ~match) | (person == JUNK), order, axis=1)
    hit = np.take_along_axis(match, order, axis=1)
    query, place = np.nonzero(hit)  # in the order of the ranking
    rank = np.cumsum(~passed_over, axis=1)[query, place]
    number = np.cumsum(hit, axis=1)[query, place]
    before = np.where(rank == 1, 1.0, (number - 1) / np.maximum(rank - 1, 1))
    areas = np.bincount(query, (before + number / rank) / 2, len(similarity))
    matches = hit.sum(axis=1)
    first = np.zeros(len(similarity), np.int64)
    first[query[number == 1]] = rank[number == 1]
    return Retrieval(np.divide(areas, matches, out=np.full(len(areas), np.nan), where=matches > 0), first)


def evaluate_features(features: Floats, person: ArrayLike, camera: ArrayLike, query: ArrayLike) -> Retrieval:
    """Return how well cosine similarity finds the persons of the queries, each of which is in the gallery itself.

    Args:
        features: (T, D) of the gallery's videos, of any length: they are normalized here.
        person: (T,) whole numbers; `JUNK` and `DISTRACTOR` are no persons.
        camera: (T,).
        query: (Q,) rows of the gallery.

    Raises:
        ValueError: Shapes do not fit, features are not finite, or a query shows no person.
        IndexError: A query is no row of the gallery.
    """
    unit = normalized_rows(features)
    person, camera, query = map(np.asarray, (person, camera, query))
    if not len(query):
        raise EmphasisValueError("there are no queries; give the rows of one or more")
    starts = range(0, len(query), _QUERIES_AT_ONCE)
    return evaluate_rankings((unit[query[at : at + _QUERIES_AT_ONCE]] @ unit.T for at in starts), person, camera, query)


def evaluate_rankings(
    similarities: Iterable[Floats], person: ArrayLike, camera: ArrayLike, query: ArrayLike
) -> Retrieval:
    """Return how queries of the gallery itself are answered, from similarities that come in parts.

    Args:
        similarities: (q, T) for the next q of the queries, in order, and the whole gallery.
        person: (T,) whole numbers; `JUNK` and `DISTRACTOR` are no persons.
        camera: (T,).
        query: (Q,) rows of the gallery.

    Raises:
        ValueError: Shapes do not fit, a similarity is NaN, or a query shows no person.
        IndexError: A query is no row of the gallery.
    """
    person, camera, query = map(np.asarray, (person, camera, query))
    parts: list[Retrieval] = []
    done = 0
    for part in similarities:
        rows = query[done : done + len(part)]
        parts.append(evaluate_ranking(part, person[rows], camera[rows], person, camera))
        done += len(part)
    if not 0 < done == len(query):
        raise EmphasisValueError(
            f"similarities of {done} queries were given for {len(query)}; give as many, one or more"
        )
    return Retrieval(
        np.concatenate([part.average_precision for part in parts]), np.concatenate([part.first_match for part in parts])
    )


def normalized_rows(features: Floats) -> Floats:
    """Return the rows of `features` (T, D) divided by their L2 norms, in their precision; zeros stay zeros.

    Raises:
        ValueError: They are no such array, or a row is not finite.
    """
    if features.ndim != 2:
        raise EmphasisValueError(
            f"features of shape {features.shape} are not allowed; give (T, D), a row for each video"
        )
    norms = np.sqrt(np.einsum("td,td->t", features, features, dtype=np.float64))  # squares of float32 fit float64
    if (wrong := np.flatnonzero(~np.isfinite(norms))).size:
        raise EmphasisValueError(
            f"the features of {wrong.size} of {len(norms)} videos are not finite, those of video {wrong[0]} first; "
            "has their network diverged?"
        )
    return features / np.where(norms > 0, norms, 1.0)[:, None].astype(features.dtype)


def mean_by_tracklet(parts: Iterable[tuple[Floats, Ints]], num_tracklets: int) -> NDArray[np.float64]:
    """Return each video's mean over its frames, (T, D), from frames that come in parts and are never held together.

    Args:
        parts: Features (B, D) of frames and the tracklet (B,) of each, in any order and sizes.
        num_tracklets: T.

    Raises:
        ValueError: Shapes do not fit, or a tracklet is not in [0, T) or has no frame.
    """
    counts = np.zeros(num_tracklets, np.int64)
    sums = np.zeros((num_tracklets, 0))
    for features, tracklet in parts:
        if features.ndim != 2 or tracklet.shape != features.shape[:1]:
            raise EmphasisValueError(
                f"features {features.shape} and tracklets {tracklet.shape} do not fit; give (B, D), (B,)"
            )
        order = np.argsort(tracklet, kind="stable")
        rows, starts, own = np.unique(tracklet[order], return_index=True, return_counts=True)
        if not rows.size:
            continue
        if rows[0] < 0 or rows[-1] >= num_tracklets:
            wrong = rows[0] if rows[0] < 0 else rows[-1]
            raise EmphasisValueError(f"tracklet {wrong} is not allowed; there are {num_tracklets}, from 0")
        if not sums.shape[1]:
            sums = np.zeros((num_tracklets, features.shape[1]))
        sums[rows] += np.add.reduceat(features[order], starts, axis=0, dtype=np.float64)
        counts[rows] += own
    if (empty := np.flatnonzero(counts == 0)).size:
        raise EmphasisValueError(f"{empty.size} of {num_tracklets} tracklets have no frame, tracklet {empty[0]} first")
    return sums / counts[:, None]


__getattr__ = renamed(
    __name__,
    {
        "judge": "evaluate_ranking",
        "judge_all": "evaluate_rankings",
        "retrieve": "evaluate_features",
        "normalised": "normalized_rows",
    },
)
