"""Methods that learn from clips of videos, and compare videos in their own way when persons are to be found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.validation import check


class VideoMethod(Baseline):
    """A method for videos: `describe` makes what is kept of each frame, `videos` or `compare` compares videos.

    Args:
        problem: The labels, with `clip` frames of each video in a batch.
    """

    test_frames: ClassVar[int] = 0
    """How many frames of a video are used when it is to be found: the first of each of as many equal parts; 0: all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.clip = problem.clip

    def check_clip(self, name: str, advice: str) -> None:
        """Check that the examples are clips of two frames or more.

        Raises:
            ValueError: They are not.
        """
        check(self.clip >= 2, f"{name} attends to the frames of videos: clip", self.clip, f"use 2 or more {advice}")

    def describe(self, features: Tensor, maps: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return what is kept of each frame when videos are to be found, (N, E): by default the features.

        Args:
            features: (N, D), the inputs of the last linear layer, in evaluation mode.
            maps: (N, D, H, W), the inputs of the global average pool, if the method needs them.
        """
        return features

    def videos(self, frames: Tensor) -> Tensor:
        """Return what videos are compared by, with cosine similarity: the mean of their frames by default.

        Args:
            frames: (V, test_frames, E).

        Returns:
            (V, E').
        """
        return frames.mean(1)

    def compare(self, frames: Tensor, first: Tensor, last: Tensor, query: Tensor) -> Iterator[Tensor]:
        """Yield the similarities of each query to all videos, (q, T) at a time; override it in place of `videos`.

        Args:
            frames: (F, E) of all videos, from `describe`.
            first: (T,) the index of each video's first frame in `frames`.
            last: (T,) the index of its last frame.
            query: (Q,) which videos are queries.
        """
        raise NotImplementedError(f"{type(self).__name__} compares by cosine similarity")
