"""`VideoSplit`: frames of videos to train on, and a test part that asks for persons instead of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.split import Split
from emphasis.errors import EmphasisValueError


@dataclass(frozen=True, eq=False)
class Gallery:
    """T videos of persons that nobody trained on: the test part asks who is the same, not of which class.

    Attributes:
        person: Persons of the videos, (T,), as `emphasis.retrieval` takes them; none of them is in the training part.
        camera: Cameras of the videos, (T,).
        query: Indices of the videos that are queries, (Q,).
    """

    person: NDArray[np.int64]
    camera: NDArray[np.int64]
    query: NDArray[np.int64]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class VideoSplit(Split):
    """A split whose examples are frames of videos.

    Attributes:
        videos: Video of each training image, (N,) int64, ascending.
        gallery: The videos of the test part; `test_labels` then are the video of each test image, in order. None: the
            test part is classified.

    Raises:
        ValueError: See `Split`. Also if `videos` is not ascending or has another length.
    """

    videos: NDArray[np.int64]
    gallery: Gallery | None = None

    holdout_refusal: ClassVar[str] = "videos, whose frames would be on both sides"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.videos.shape != self.train_labels.shape:
            raise EmphasisValueError(
                f"{len(self.videos)} videos were given for {len(self.train_inputs)} training inputs; give as many"
            )
        _check_order("videos", self.videos)

    def _check_test_labels(self) -> None:
        if self.gallery is None:
            super()._check_test_labels()
            return
        _check_order("test_labels", self.test_labels)
        if not np.array_equal(np.unique(self.test_labels), np.arange(len(self.gallery.person))):
            raise EmphasisValueError(f"test_labels are not each of the gallery's {len(self.gallery.person)} videos")

    def training_part(self, rows: NDArray[Any]) -> dict[str, Any]:
        """Return the fields that change where only the `rows` (indices or mask) of the training part are kept."""
        return {**super().training_part(rows), "videos": self.videos[rows]}


def _check_order(name: str, video: NDArray[np.int64]) -> None:
    if np.any(np.diff(video) < 0):
        raise EmphasisValueError(f"{name} are not in order; all frames of a video must follow each other")
