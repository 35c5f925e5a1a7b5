"""Metrics of person re-identification: CMC and mean average precision by the protocol of MARS.

The functions take numpy arrays. The protocol is that of L. Zheng et al., MARS: A Video Benchmark for Large-Scale Person
Re-Identification, ECCV 2016, as in their https://github.com/liangzheng06/MARS-evaluation (`evaluation_mars`, and
`compute_AP` of Market-1501). The gallery, which includes the queries, is ranked for each query by decreasing
similarity; ties keep the order of the gallery. Its entries are

- matches: the query's person in another camera, possibly several;
- junk, which is ignored: the query's person in the query's camera, including the query itself, and false detections
  (person -1);
- others, which do not match: other persons, and distractors (person 0).

CMC at rank k is the share of queries with a match among the first k. Average precision is the area under the polygon
through the points of precision and recall after every entry, from precision 1 at recall 0. With m_i the rank of match i
among G, without junk, and a precision of 1 before the first entry,

    AP = 1/G sum_i ((i-1) / (m_i - 1) + i / m_i) / 2.

The mean of i / m_i, which scikit-learn computes, is never below it, so the two must not be compared. A query without a
match has no AP; the mean of the official code is then NaN. Here such queries are ignored by both metrics and counted
(`Retrieval.unmatched`). MARS has none.
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
"""Person of false detections, which are ignored."""
DISTRACTOR = 0
"""Person of background and of people who match no query."""
RANKS = (1, 5, 10, 20)
"""Ranks at which CMC is usually reported."""

_QUERIES_AT_ONCE = 64  # with 12,180 similarities each an array of ranks takes 6 MB


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Results of Q queries.

    Attributes:
        average_precision: Average precision of each query, (Q,) float64 in (0, 1]; NaN for a query without a match.
        first_match: Rank of the first match of each query, (Q,) int64, counted from 1; 0 for a query without a match.
    """

    average_precision: NDArray[np.float64]
    first_match: NDArray[np.int64]

    @property
    def unmatched(self) -> int:
        """The number of queries without a match in the gallery, which the means ignore."""
        return int(np.count_nonzero(self.first_match == 0))

    @property
    def mean_average_precision(self) -> float:
        """The mean average precision, mAP, in (0, 1].

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
            raise EmphasisValueError(f"rank={rank} is not allowed; ranks are counted from 1")
        return float(np.mean(self.first_match[self._matched()] <= rank))

    def _matched(self) -> NDArray[np.bool_]:
        matched: NDArray[np.bool_] = self.first_match > 0
        if not matched.any():
            raise EmphasisValueError(
                f"none of {len(matched)} queries has a match in the gallery: its person in another camera"
            )
        return matched


def evaluate_ranking(
    similarity: Floats, query_person: ArrayLike, query_camera: ArrayLike, person: ArrayLike, camera: ArrayLike
) -> Retrieval:
    """Return the results of queries in a gallery, given all similarities.

    Args:
        similarity: Similarities of queries to entries of the gallery, (Q, G).
        query_person: Persons of the queries, (Q,) integers > 0.
        query_camera: Cameras of the queries, (Q,).
        person: Persons of the gallery, (G,) integers, `JUNK` and `DISTRACTOR` included.
        camera: Cameras of the gallery, (G,).

    Raises:
        ValueError: Shapes do not match, a similarity is NaN, or a query does not show a person.
    """
    query_person, query_camera, person, camera = map(np.asarray, (query_person, query_camera, person, camera))
    if not (query_person.shape + person.shape == query_camera.shape + camera.shape == similarity.shape):
        shapes = ", ".join(str(array.shape) for array in (query_person, query_camera, person, camera))
        raise EmphasisValueError(
            f"similarity {similarity.shape} and persons and cameras {shapes} do not match; pass (Q, G), twice (Q,) "
            "and twice (G,)"
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
    ignored = np.take_along_axis((same & ~match) | (person == JUNK), order, axis=1)
    hit = np.take_along_axis(match, order, axis=1)
    query, position = np.nonzero(hit)  # in the order of the ranking
    rank = np.cumsum(~ignored, axis=1)[query, position]
    number = np.cumsum(hit, axis=1)[query, position]
    before = np.where(rank == 1, 1.0, (number - 1) / np.maximum(rank - 1, 1))
    areas = np.bincount(query, (before + number / rank) / 2, len(similarity))
    matches = hit.sum(axis=1)
    first = np.zeros(len(similarity), np.int64)
    first[query[number == 1]] = rank[number == 1]
    return Retrieval(np.divide(areas, matches, out=np.full(len(areas), np.nan), where=matches > 0), first)


def evaluate_features(features: Floats, person: ArrayLike, camera: ArrayLike, query: ArrayLike) -> Retrieval:
    """Return the results of ranking a gallery, which contains the queries, by cosine similarity.

    Args:
        features: Features of the videos in the gallery, (T, D), which need not be normalized.
        person: Persons of the gallery, (T,) integers, `JUNK` and `DISTRACTOR` included.
        camera: Cameras of the gallery, (T,).
        query: Indices of the queries in the gallery, (Q,).

    Raises:
        ValueError: Shapes do not match, features are not finite, or a query does not show a person.
        IndexError: A query is not a row of the gallery.
    """
    unit = normalized_rows(features)
    person, camera, query = map(np.asarray, (person, camera, query))
    if not len(query):
        raise EmphasisValueError("there are no queries; pass the index of at least one")
    starts = range(0, len(query), _QUERIES_AT_ONCE)
    return evaluate_rankings((unit[query[at : at + _QUERIES_AT_ONCE]] @ unit.T for at in starts), person, camera, query)


def evaluate_rankings(
    similarities: Iterable[Floats], person: ArrayLike, camera: ArrayLike, query: ArrayLike
) -> Retrieval:
    """Return the results of queries that are part of the gallery, given their similarities in parts.

    Args:
        similarities: Similarities of consecutive queries to the gallery, (q, T) in each part.
        person: Persons of the gallery, (T,) integers, `JUNK` and `DISTRACTOR` included.
        camera: Cameras of the gallery, (T,).
        query: Indices of the queries in the gallery, (Q,).

    Raises:
        ValueError: Shapes do not match, a similarity is NaN, or a query does not show a person.
        IndexError: A query is not a row of the gallery.
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
            f"there are similarities of {done} queries, but {len(query)} queries; pass as many, at least one"
        )
    return Retrieval(
        np.concatenate([part.average_precision for part in parts]), np.concatenate([part.first_match for part in parts])
    )


def normalized_rows(features: Floats) -> Floats:
    """Return the rows of `features` (T, D) divided by their L2 norms, in the same dtype; rows of zeros do not change.

    Raises:
        ValueError: `features` is not two-dimensional, or a row is not finite.
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
    """Return the mean features of each video, (T, D) float64, from features of frames that are passed in parts.

    Args:
        parts: Features of frames, (B, D), and their tracklets, (B,) integers in [0, T), in any order.
        num_tracklets: Number of videos T.

    Raises:
        ValueError: Shapes do not match, or a tracklet is not in [0, T) or has no frame.
    """
    counts = np.zeros(num_tracklets, np.int64)
    sums = np.zeros((num_tracklets, 0))
    for features, tracklet in parts:
        if features.ndim != 2 or tracklet.shape != features.shape[:1]:
            raise EmphasisValueError(
                f"features {features.shape} and tracklets {tracklet.shape} do not match; pass (B, D) and (B,)"
            )
        order = np.argsort(tracklet, kind="stable")
        rows, starts, frames = np.unique(tracklet[order], return_index=True, return_counts=True)
        if not rows.size:
            continue
        if rows[0] < 0 or rows[-1] >= num_tracklets:
            wrong = rows[0] if rows[0] < 0 else rows[-1]
            raise EmphasisValueError(f"tracklet {wrong} is not allowed; there are {num_tracklets}, from 0")
        if not sums.shape[1]:
            sums = np.zeros((num_tracklets, features.shape[1]))
        sums[rows] += np.add.reduceat(features[order], starts, axis=0, dtype=np.float64)
        counts[rows] += frames
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
