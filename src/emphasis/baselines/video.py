"""`VideoMethod`: base class of methods that train on clips of videos and may define how videos are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor

from emphasis.baselines.protocol import Baseline, Problem
from emphasis.validation import check


class VideoMethod(Baseline):
    """A method for videos: `describe` returns a vector for each frame, and `videos` or `compare` compares videos.

    Args:
        problem: The labels, with `clip` frames of each video in a batch.
    """

    test_frames: ClassVar[int] = 0
    """The number of frames of a video that evaluation uses, the first of each of as many equal parts; 0 for all."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.clip = problem.clip

    def check_clip(self, name: str, advice: str) -> None:
        """Check that the examples are clips of at least two frames.

        Args:
            name: Name of the method, for the message.
            advice: End of the message.

        Raises:
            ValueError: `clip` is less than 2.
        """
        check(self.clip >= 2, f"{name} attends to the frames of videos: clip", self.clip, f"use 2 or more {advice}")

    def describe(self, features: Tensor, maps: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return a vector for each frame by which videos are compared, (N, E); by default the features.

        Args:
            features: Inputs of the last linear layer in evaluation mode, (N, D).
            maps: Inputs of the global average pool, (N, D, H, W), if the method needs them; None otherwise.
        """
        return features

    def videos(self, frames: Tensor) -> Tensor:
        """Return a vector for each video, the cosine similarity of which is used; by default the mean of its frames.

        Args:
            frames: Results of `describe` for the frames of V videos, (V, test_frames, E).

        Returns:
            The vectors, (V, E').
        """
        return frames.mean(1)

    def compare(self, frames: Tensor, first: Tensor, last: Tensor, query: Tensor) -> Iterator[Tensor]:
        """Yield the similarities of queries to all videos, (q, T) in each part; override it instead of `videos`.

        Args:
            frames: Results of `describe` for the frames of all videos, (F, E).
            first: Index of the first frame of each video in `frames`, (T,).
            last: Index of the last frame of each video in `frames`, (T,).
            query: Indices of the videos that are queries, (Q,).
        """
        raise NotImplementedError(f"{type(self).__name__} compares by cosine similarity")
