"""Diversity regularized spatiotemporal attention, "DRSA", for videos.

Source: S. Li et al., Diversity Regularized Spatiotemporal Attention for Video-Based Person Re-Identification, CVPR
2018.

From the authors' release, ShuangLI59/Diversity-Regularized-Spatiotemporal-Attention: the enhancement is one linear map
for all attention models, divided by its norm; `hidden`, `width` and `lam`. Where the release parts from the formulas
below, these are used: its attention models share their first layer and normalize over the batch before ReLU and
softmax, and its regulariser is the root of Q summed over the batch. It has neither the temporal attention nor the
settings of the matching loss; momentum and temperature are those of the loss's paper. The training scripts of
open-reid, on which the release builds, have temperature 1 / 30; with it, small networks that started from random
parameters remained near chance in most runs.

One thing is ours: the enhanced features are standardized over the batch. A network's maps are positive, so all its
videos are nearly parallel at first; those that start from ImageNet outgrow it, others were stuck at chance without.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines._instance_matching import InstanceMatching
from emphasis.baselines.protocol import Need, Problem, Step, check_range, check_whole
from emphasis.baselines.video import VideoMethod
from emphasis.deprecation import renamed
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import detach_input, last_linear


class DRSA(VideoMethod):
    """K attention models that look at different parts of a person, each in the frames where it sees its part best.

    With f_nl the network's maps at position l of frame n, and k = 1 ... K,

        spatial attention    s_nk = softmax over l of u_k . max(0, W_k f_nl + b_k);
        enhanced features    x_nk = E (sum_l s_nkl f_nl), standardized over the batch, divided by its L2 norm;
        temporal attention   t_k = softmax over the frames n of v_k . x_nk;
        the video            x = the K features sum_n t_nk x_nk one after the other, divided by the norm of them all;
        diversity            Q_n = |R R^T - I|^2 (Frobenius), R = the roots of s_n1 ... s_nK as rows (K, H W);
        matching             -log softmax(V x / temperature)_y, V the classes' features, as in `InstanceMatching`;
        loss                 means over videos of the matching loss and over frames of lam Q_n.

    Off R R^T's diagonal is 1 less the squared Hellinger distance of two attentions, so Q is 0 where they share no
    position, and K (K - 1) where they are all alike.

    The network's last linear layer is no part of this. It is trained beside, by the cross-entropy of each frame, whose
    derivative ends there, so that the network still predicts.

    Args:
        problem: The labels, with `clip` frames of each video.
        attentions: K >= 1. Published: 6.
        hidden: Rows of W_k, >= 1. Released: 64.
        width: Rows of E, >= 1. Released: 128.
        lam: Of the diversity, >= 0. Released: 1.
        momentum: Of the classes' features, in [0, 1). Published with the loss: 0.5.
        temperature: > 0. Published with the loss: 0.1.

    Raises:
        ValueError: A parameter is out of bounds, or the examples are no videos.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"feature_maps"})
    test_frames: ClassVar[int] = 6

    def __init__(
        self,
        problem: Problem,
        *,
        attentions: int = 6,
        hidden: int = 64,
        width: int = 128,
        lam: float = 1.0,
        momentum: float = 0.5,
        temperature: float = 0.1,
    ) -> None:
        super().__init__(problem)
        for name, value in (("attentions", attentions), ("hidden", hidden), ("width", width)):
            check_whole(name, value, 1)
        check_range("lam", lam, 0.0, float("inf"), ends="[)")
        features = attentions * width
        self.matching = InstanceMatching(problem.num_classes, features, momentum=momentum, temperature=temperature)
        self.check_clip("drsa", "(in a recipe, solver.clip; published: 6)")
        self.attentions, self.hidden, self.width = attentions, hidden, width
        self.lam, self.seed = lam, problem.seed

    def prepare(self, network: nn.Module) -> None:
        """Make the attention models for the network's maps, which have as many channels as it has features."""
        last, k = last_linear(network), self.attentions
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            # Groups keep the K models apart. No biases before a softmax: they would cancel.
            first = nn.Conv2d(last.in_features, k * self.hidden, 1)
            self.spatial = nn.Sequential(first, nn.ReLU(), nn.Conv2d(k * self.hidden, k, 1, groups=k, bias=False))
            self.enhance = nn.Linear(last.in_features, self.width, bias=False)
            self.standardize = nn.BatchNorm1d(self.width, affine=False)
            self.temporal = nn.Conv1d(k * self.width, k, 1, groups=k, bias=False)
        detach_input(last)

    def loss(self, step: Step) -> Tensor:
        """Return the matching loss, the diversity and the last layer's cross-entropy, and move the classes' features.

        Raises:
            ValueError: The batch does not consist of whole clips.
        """
        if len(step.labels) % self.clip:
            raise EmphasisValueError(
                f"a batch of {len(step.labels)} frames does not consist of clips of {self.clip} frames"
            )
        frames, log_attention = self.look(step.maps)
        videos = self.videos(frames.reshape(-1, self.clip, self.attentions * self.width))
        labels = step.labels[:: self.clip]
        matched = F.cross_entropy(self.matching(videos, labels), labels)
        beside = F.cross_entropy(step.logits, step.labels)
        return matched + self.lam * overlap(log_attention).mean() + beside

    def look(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (N, K, width) and the logarithm of s (N, K, H W), from maps (N, D, H, W)."""
        log_attention = F.log_softmax(self.spatial(maps).flatten(2), 2)
        gated = torch.einsum("nkl,ndl->nkd", log_attention.exp(), maps.flatten(2))
        enhanced = self.standardize(self.enhance(gated).flatten(0, 1)).view(*gated.shape[:2], self.width)
        return F.normalize(enhanced, dim=2), log_attention

    def describe(self, features: Tensor, maps: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return x of each frame, (N, K width)."""
        assert maps is not None
        return self.look(maps)[0].flatten(1)

    def videos(self, frames: Tensor) -> Tensor:
        """Return x of each video, (V, K width), from those of its frames, (V, n, K width)."""
        attention = F.softmax(self.temporal(frames.transpose(1, 2)), 2)
        parts = frames.reshape(*frames.shape[:2], self.attentions, self.width)
        return F.normalize(torch.einsum("vkn,vnkd->vkd", attention, parts).flatten(1), dim=1)


def overlap(log_attention: Tensor) -> Tensor:
    """Return Q = |R R^T - I|^2 of each frame, (N,), from the logarithm of its attentions, (N, K, L)."""
    roots = (0.5 * log_attention).exp()  # the root itself has no derivative at 0
    gram = roots @ roots.transpose(1, 2)
    return (gram - torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)).square().sum((1, 2))


__getattr__ = renamed(__name__, {"Drsa": "DRSA"})
