"""What a method of learning from noisy labels is, and what it may ask of the loop that trains with it.

A method is a module: what it remembers from step to step (moving averages, corrected labels, a noise layer) lives in
its buffers and parameters, so that it moves to a device, is checkpointed and is optimized like the network itself.
"""

from __future__ import annotations

from collections.abc import Callable
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
"""features: the inputs of the last linear layer. feature_maps: the inputs of the global average pool before it. copy: a
second set of the network's parameters, to go back to. survey: the network's outputs for many training examples at the
start of an epoch. true labels: those of a few examples, from an annotator."""


@dataclass(frozen=True, eq=False)
class Problem:
    """What a method is told before training.

    Attributes:
        labels: (n,) int64 in [0, num_classes), the labels as given, wrong ones included.
        num_classes: C >= 2.
        seed: Of what the method draws when it is made.
        annotate: Returns the true labels of the examples at given indices, (k,) -> (k,); None: nobody can be asked.
        clip: How many frames of one video follow each other in a batch; 1: examples are no frames.
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
                f"labels of shape {tuple(self.labels.shape)} and {self.labels.dtype} are not allowed; give (n,) int64"
            )
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= self.num_classes:
            raise EmphasisValueError(
                f"labels from {low} to {high} are not allowed; {self.num_classes} classes are 0 and up"
            )

    def generator(self) -> torch.Generator:
        """Return a generator of random numbers on the CPU, the same whenever asked."""
        return torch.Generator().manual_seed(self.seed)


@dataclass(eq=False)
class Step:
    """What a method sees in one step of training, N examples of C classes.

    Attributes:
        inputs: (N, ...).
        labels: (N,) int64, as given.
        indices: (N,) int64, places of the examples in `Problem.labels`.
        progress: Share of all steps that have been taken, in [0, 1).
        network: Inputs to logits (N, C), or (N, C + extra_outputs), in training mode.
        peer: The second network, if the method has two.
        read_features: Returns what the last linear layer saw in the latest call of `network`.
        read_maps: Returns what the global average pool saw, likewise.
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
        """The network's logits of the step's own inputs, with their graph."""
        return self.network(self.inputs)

    @cached_property
    def peer_logits(self) -> Tensor:
        """The second network's logits."""
        assert self.peer is not None
        return self.peer(self.inputs)

    @property
    def features(self) -> Tensor:
        """What the last linear layer saw of the step's inputs, (N, D)."""
        assert self.read_features is not None
        _ = self.logits
        return self.read_features()

    @property
    def maps(self) -> Tensor:
        """What the global average pool saw of the step's inputs, (N, D, H, W)."""
        assert self.read_maps is not None
        _ = self.logits
        return self.read_maps()


@dataclass(frozen=True, eq=False)
class Predictions:
    """The network's outputs for training examples, in evaluation mode and without gradients.

    Attributes:
        logits: (k, C), or (k, C + extra_outputs).
        features: (k, D), if the method needs them.
    """

    logits: Tensor
    features: Tensor | None


@dataclass(frozen=True, eq=False)
class Epoch:
    """What a method may do before an epoch.

    Attributes:
        number: 0, 1, ...
        progress: Share of all steps that have been taken, in [0, 1).
        survey: Returns the network's view of the examples at the given indices, of all for None.
        save_weights: Copies the network's parameters aside.
        restore_weights: Restores the copied parameters (the initial ones if `save_weights` was never called) and clears
            the optimizer's state.
    """

    number: int
    progress: float
    survey: Callable[[Tensor | None], Predictions]
    save_weights: Callable[[], None]
    restore_weights: Callable[[], None]

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
    """A method: a subclass says what it needs, and defines `example_losses` or `loss`.

    Its other arguments are keywords with defaults: its hyperparameters, the published ones. Random numbers in a step
    come from torch's global generator, which the loop seeds; those of the constructor from `Problem.generator`.

    Args:
        problem: The labels.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()
    networks: ClassVar[int] = 1
    """How many are trained; predictions are those of the first."""
    extra_outputs: ClassVar[int] = 0
    """Logits beyond the C classes' that the network needs in training; predictions pass them over."""

    labels: Tensor

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.num_classes = problem.num_classes
        self._clip = problem.clip
        self.register_buffer("labels", problem.labels, persistent=False)

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let subclasses in the old style go on working: "maps" was a need, and any method could compare videos."""
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
        """Return what one step minimizes, a number: here the mean of `example_losses`."""
        return self.example_losses(step.logits, step.labels).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Do what is due before an epoch; here nothing."""

    def prepare(self, network: nn.Module) -> None:
        """Change a network before its training; here nothing."""

    def schedule(self, progress: float) -> float:
        """Return where in the learning rate's schedule a step stands, in [0, 1); methods that start anew differ."""
        return progress

    @classmethod
    def example(cls, num_classes: int) -> tuple[str, dict[str, Any]]:  # noqa: ARG003
        """Return options that its derivative view is drawn with unless they are given, and words for them.

        For methods that do nothing without what they estimate in training; here none.
        """
        return "", {}

    @classmethod
    def has_view(cls) -> bool:
        """Return whether its loss is a function of logits and label alone, so that a derivative view can be drawn."""
        return cls.example_losses is not Baseline.example_losses and cls.loss is Baseline.loss


def one_hot(labels: Tensor, like: Tensor) -> Tensor:
    """Return labels (N,) as rows of the dtype and shape (N, C) of `like`."""
    return F.one_hot(labels, like.shape[1]).to(like.dtype)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Return -sum_j t_j log p_j of each example, (N,), from logits and targets (N, C)."""
    return F.cross_entropy(logits, targets, reduction="none")


__getattr__ = renamed(__name__, {"Survey": "Predictions"})
