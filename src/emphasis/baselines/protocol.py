"""The interface between methods for noisy labels and the loop that trains with them.

A method is a module. Its state, such as moving averages, corrected labels or a noise layer, is stored in buffers and
parameters, so that it is moved to devices, saved in checkpoints and optimized like the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.deprecation import renamed, warn_renamed
from emphasis.errors import EmphasisValueError
from emphasis.validation import check_flag, check_range, check_whole

__all__ = [
    "Baseline",
    "Epoch",
    "Need",
    "Predictions",
    "Problem",
    "Step",
    "check_flag",
    "check_range",
    "check_whole",
    "one_hot",
    "soft_cross_entropy",
]

Need = Literal["features", "feature_maps", "copy", "survey", "true labels"]
"""What a method needs.

features: the inputs of the last linear layer. feature_maps: the inputs of the global average pool before it. copy: a
second set of the network's parameters, to be restored. survey: outputs of the network for many training examples at the
start of an epoch. true labels: those of some examples, from an annotator."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The data that a method gets before training.

    Attributes:
        labels: Labels to train on, including wrong ones, (n,) int64 in [0, num_classes).
        num_classes: Number of classes C >= 2.
        seed: Seed of the random numbers that the method draws when it is created.
        annotate: Function (k,) -> (k,) that returns the true labels of examples, given by index; None if there is no
            annotator.
        clip: Number of consecutive frames of a video in a batch; 1 if examples are not frames.

    Raises:
        ValueError: The labels or `num_classes` are not allowed.
    """

    labels: Tensor
    num_classes: int
    seed: int = 0
    annotate: Callable[[Tensor], Tensor] | None = None
    clip: int = 1

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise EmphasisValueError(f"num_classes={self.num_classes} is not allowed; use a whole number >= 2")
        if self.labels.ndim != 1 or self.labels.dtype != torch.int64 or not len(self.labels):
            raise EmphasisValueError(
                f"labels of shape {tuple(self.labels.shape)} and {self.labels.dtype} are not allowed; use (n,) int64"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise EmphasisValueError(
                f"labels from {low} to {high} are not allowed; {self.num_classes} classes have labels from 0"
            )

    def generator(self) -> torch.Generator:
        """Return a new generator of random numbers on the CPU, always with the same seed."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(eq=False)
class Step:
    """One step of training, with N examples of C classes.

    Attributes:
        inputs: Inputs of the examples, (N, ...).
        labels: Labels of the examples, (N,) int64, including wrong ones.
        indices: Indices of the examples in `Problem.labels`, (N,) int64.
        progress: Share of the steps that have been taken, in [0, 1).
        network: Function of inputs that returns logits (N, C), or (N, C + extra_outputs), in training mode.
        peer: Function of the second network, if the method has two.
        read_features: Function that returns the inputs of the last linear layer in the latest call of `network`.
        read_maps: Function that returns the inputs of the global average pool in the latest call of `network`.
    """

    inputs: Tensor
    labels: Tensor
    indices: Tensor
    progress: float
    network: Callable[[Tensor], Tensor]
    peer: Callable[[Tensor], Tensor] | None = None
    read_features: Callable[[], Tensor] | None = None
    read_maps: Callable[[], Tensor] | None = None

    @cached_property
    def logits(self) -> Tensor:
        """The logits of the network for `inputs`, with their graph."""
        return self.network(self.inputs)

    @cached_property
    def peer_logits(self) -> Tensor:
        """The logits of the second network for `inputs`."""
        assert self.peer is not None
        return self.peer(self.inputs)

    @property
    def features(self) -> Tensor:
        """The inputs of the last linear layer for `inputs`, (N, D)."""
        assert self.read_features is not None
        _ = self.logits
        return self.read_features()

    @property
    def maps(self) -> Tensor:
        """The inputs of the global average pool for `inputs`, (N, D, H, W)."""
        assert self.read_maps is not None
        _ = self.logits
        return self.read_maps()


@dataclass(frozen=True, eq=False)
class Predictions:
    """Outputs of the network for k training examples, in evaluation mode and without gradients.

    Attributes:
        logits: Logits (k, C), or (k, C + extra_outputs).
        features: Inputs of the last linear layer (k, D), if the method needs them; None otherwise.
    """

    logits: Tensor
    features: Tensor | None


@dataclass(frozen=True, eq=False)
class Epoch:
    """The beginning of an epoch, with the functions that a method may call then.

    Attributes:
        number: Number of the epoch, from 0.
        progress: Share of the steps that have been taken, in [0, 1).
        survey: Function that returns the predictions for examples, given by index; for all examples if None.
        save_weights: Function that copies the parameters of the network.
        restore_weights: Function that restores the copied parameters (the initial ones if `save_weights` was not
            called) and clears the state of the optimizer.
        clear_state: Function that clears the state of the optimizer for parameters, such as their momentum.
    """

    number: int
    progress: float
    survey: Callable[[Tensor | None], Predictions]
    save_weights: Callable[[], None]
    restore_weights: Callable[[], None]
    clear_state: Callable[[Iterable[nn.Parameter]], None] = lambda _: None

    @property
    def keep(self) -> Callable[[], None]:
        """Deprecated name of `save_weights`."""
        warn_renamed("Epoch.keep", "Epoch.save_weights")
        return self.save_weights

    @property
    def recall(self) -> Callable[[], None]:
        """Deprecated name of `restore_weights`."""
        warn_renamed("Epoch.recall", "Epoch.restore_weights")
        return self.restore_weights


_VIDEO_MEMBERS = {"describe", "videos", "compare", "test_frames"}


class Baseline(nn.Module):
    """Base class of methods. Subclasses define `needs`, and `example_losses` or `loss`.

    Keyword-only arguments of a subclass are its hyperparameters. Random numbers in a step are drawn from the global
    generator of torch, which the loop seeds, and those of the constructor from `Problem.generator`.

    Args:
        problem: The labels.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    networks: ClassVar[int] = 1
    """The number of networks that are trained; the first one predicts."""
    extra_outputs: ClassVar[int] = 0
    """The number of logits that the network needs in training in addition to those of the C classes."""

    labels: Tensor

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.num_classes = problem.num_classes
        self._clip = problem.clip
        self.register_buffer("labels", problem.labels, persistent=False)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Support subclasses in the old style, in which "maps" was a need and any method could compare videos."""
        super().__init_subclass__(**keywords)
        needs: frozenset[str] = cls.needs
        if "maps" in needs:
            warn_renamed(f'"maps" among the needs of {cls.__name__}', '"feature_maps"')
            cls.needs = cls.needs - {"maps"} | {"feature_maps"}
        old_style = Baseline in cls.__bases__ and _VIDEO_MEMBERS & vars(cls).keys()
        if old_style and cls.__module__ != "emphasis.baselines.video":
            from emphasis.baselines.video import VideoMethod

            warn_renamed(f"{cls.__name__}({Baseline.__name__}) with {', '.join(sorted(old_style))}", "VideoMethod")
            cls.__bases__ = tuple(VideoMethod if base is Baseline else base for base in cls.__bases__)

    def __getattr__(self, name: str) -> Any:
        if name == "clip":
            warn_renamed("Baseline.clip", "VideoMethod.clip")
            return self._clip
        return super().__getattr__(name)

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,), from logits (N, C) and labels (N,)."""
        raise NotImplementedError(f"{type(self).__name__} defines neither example_losses nor loss")

    def loss(self, step: Step) -> Tensor:
        """Return the scalar that a step minimizes; by default the mean of `example_losses`."""
        return self.example_losses(step.logits, step.labels).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Prepare an epoch; by default nothing is done."""

    def prepare(self, network: nn.Module) -> None:
        """Change a network before its training; by default nothing is done."""

    def fixed_parameters(self, progress: float) -> Iterable[nn.Parameter]:  # noqa: ARG002
        """Return the parameters that a step leaves as they are, at a share of training; by default none."""
        return ()

    def schedule(self, progress: float) -> float:
        """Return the position of a step in the schedule of the learning rate, in [0, 1); by default `progress`."""
        return progress

    @classmethod
    def example(cls, num_classes: int) -> tuple[str, dict[str, Any]]:  # noqa: ARG003
        """Return a description of example options and these options, which the derivative view uses by default.

        They are for methods that have no effect without estimates from training; by default there are none.
        """
        return "", {}

    @classmethod
    def has_view(cls) -> bool:
        """Return whether the loss is a function of logits and label only, so that there is a derivative view."""
        return cls.example_losses is not Baseline.example_losses and cls.loss is Baseline.loss


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Return one-hot labels (N, C) of the dtype of `like` (N, C)."""
    return F.one_hot(labels, like.shape[1]).to(like.dtype)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -sum_j t_j log p_j of each example, (N,), from logits and targets (N, C)."""
    return F.cross_entropy(logits, targets, reduction="none")


__getattr__ = renamed(__name__, {"Survey": "Predictions"})
