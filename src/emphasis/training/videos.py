"""Training on clips of videos, and evaluation by person retrieval from a gallery."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.baselines.learner import DivergedError, Learner
from emphasis.baselines.video import VideoMethod
from emphasis.datasets import DamagedFileError, Gallery
from emphasis.errors import EmphasisValueError
from emphasis.models.stacked import SingleNetwork
from emphasis.retrieval import RANKS
from emphasis.training.batches import Batches, clips
from emphasis.training.evaluation import decoded
from emphasis.training.features import Described, find, spread
from emphasis.training.ranks import deal_round_robin, gather_in_order
from emphasis.training.settings import ClipSolver, Solver
from emphasis.training.task import Task

RETRIEVAL_CURVES = ("mean_average_precision", *(f"cmc_{rank}" for rank in RANKS))
"""Curves of `RetrievalEvaluator`; the test accuracy is CMC at rank 1, the share of correct first answers."""


@dataclass(frozen=True, eq=False, kw_only=True)
class VideoTask(Task):
    """A task whose training examples are frames of videos.

    Attributes:
        videos: (n,) int64 on the CPU, video of each training example, in ascending order.
    """

    videos: Tensor

    def to(self, device: torch.device) -> VideoTask:
        """Return the task with its tensors on `device`; `videos` stays on the CPU."""
        moved = super().to(device)
        assert isinstance(moved, VideoTask)
        return dataclasses.replace(moved, videos=self.videos)

    def batches(self, seeds: Sequence[int], solver: Solver, device: torch.device) -> Batches:
        """Return the training examples of each step, which are clips of videos if the solver is a `ClipSolver`.

        Raises:
            ValueError: There are fewer examples than a batch, or clips are requested for several networks together.
        """
        if not isinstance(solver, ClipSolver) or solver.clip * solver.videos == 1:
            return super().batches(seeds, solver, device)
        if len(seeds) > 1 or self.index is not None:
            raise EmphasisValueError(
                "clips of videos need a network that trains alone, on all of them; use another network, "
                "and no noise that leaves examples out"
            )
        length, draw = clips(self.videos.numpy(), self.labels[0].cpu().numpy(), solver.clip, solver.videos)
        return Batches(seeds, length, solver.batch_size, device, draw)


@dataclass(frozen=True, eq=False)
class RetrievalEvaluator:
    """Evaluates one network by person retrieval from a gallery.

    Attributes:
        gallery: Videos of the test part; `test_labels` of the task has the video of each test image, in ascending
            order.
    """

    gallery: Gallery

    @property
    def num_answers(self) -> int:
        """The number of queries."""
        return len(self.gallery.query)

    def evaluate(
        self, module: nn.Module, task: Task, batch_size: int, broken: set[str], group: Any
    ) -> dict[str, NDArray[np.float64]]:
        """Return the test accuracy and `RETRIEVAL_CURVES`, (1,) each; NaN if the network has diverged.

        Raises:
            DamagedFileError: No image of a video can be decoded.
            ValueError: The module is a stack of several networks.
        """
        stack = next((part for part in module.modules() if isinstance(part, SingleNetwork)), None)
        if stack is None:
            raise EmphasisValueError(
                "retrieval needs a network that trains alone, such as small-cnn; use one in place of mlp"
            )
        # Wrappers of Fabric and the compiler are removed, since inputs of inner layers are needed, not the output.
        learner = stack.network if isinstance(stack.network, Learner) else None
        network, method = (stack.network, None) if learner is None else (learner.network, learner.method)
        video = task.test_labels.cpu().numpy()
        rows = np.arange(len(video))
        if isinstance(method, VideoMethod) and method.test_frames:
            first, length = (np.unique(video, return_index=True)[1], np.bincount(video))
            rows = np.unique(spread(first, length, method.test_frames))
        parts = torch.split(torch.from_numpy(rows), batch_size)
        own = deal_round_robin(parts, group)
        seen: list[NDArray[np.integer[Any]]] = []

        def frames() -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
            for part, batch in zip(own, task.fetch_test(own), strict=True):
                kept = decoded(batch)[0]
                broken.update(batch.names)
                yield task.prepared(batch.inputs)[0][kept], video[part[kept].numpy()]

        def of_all(described: Described) -> Described:
            for values, tracklet in gather_in_order(described, len(parts), group):
                seen.append(tracklet)
                yield values, tracklet

        try:
            retrieval = find(network, method, frames(), self.gallery, of_all)
        except DivergedError:
            return dict.fromkeys(("test_accuracy", *RETRIEVAL_CURVES), np.array([math.nan]))
        except EmphasisValueError as error:
            lacking = np.setdiff1d(video, np.concatenate(seen))
            if not lacking.size:
                raise
            raise DamagedFileError(
                f"none of the images of {lacking.size} of {len(self.gallery.person)} test videos can be decoded, those "
                f"of video {lacking[0]} first; leave them out of the lists, or get them again"
            ) from error
        cmc = {f"cmc_{rank}": np.array([retrieval.cmc(rank)]) for rank in RANKS}
        return {
            "test_accuracy": cmc["cmc_1"],
            "mean_average_precision": np.array([retrieval.mean_average_precision]),
            **cmc,
        }
