"""DRSA for videos: diversity regularized spatiotemporal attention.

Source: S. Li et al., Diversity Regularized Spatiotemporal Attention for Video-Based Person Re-Identification, CVPR
2018.

Some details are those of the authors' release, ShuangLI59/Diversity-Regularized-Spatiotemporal-Attention: the
enhancement is one linear map for all attention models, divided by its norm, and `hidden`, `width` and `lam` have the
released values. Where the release differs from the formulas below, the formulas are used: its attention models share
their first layer and normalize over the batch before ReLU and softmax, and its regularizer is the root of Q summed over
the batch. It has neither the temporal attention nor settings of the matching loss; momentum and temperature are those
of the paper on that loss. The training scripts of open-reid, on which the release is based, have a temperature of 1 /
30, with which small networks with random initial parameters did not learn in most runs.

One detail is new: the enhanced features are standardized over the batch. Feature maps of a network are positive, so
that the vectors of all videos are nearly parallel at first; without standardization, networks that were not pretrained
on ImageNet did not learn.
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
    """K attention models for different parts of a person, each weighting the frames that show its part best.

    With f_nl the feature maps at position l of frame n, and k = 1 ... K,

        spatial attention    s_nk = softmax over l of u_k . max(0, W_k f_nl + b_k);
        enhanced features    x_nk = E (sum_l s_nkl f_nl), standardized over the batch, divided by its L2 norm;
        temporal attention   t_k = softmax over the frames n of v_k . x_nk;
        the video            x = the concatenation of the K features sum_n t_nk x_nk, divided by its norm;
        diversity            Q_n = |R R^T - I|^2 (Frobenius), R = the roots of s_n1 ... s_nK as rows (K, H W);
        matching             -log softmax(V x / temperature)_y with the class vectors V of `InstanceMatching`;
        loss                 means over videos of the matching loss and over frames of lam Q_n.

    Entries of R R^T outside of the diagonal are 1 minus the squared Hellinger distance of two attentions, so that Q is
    0 if they share no position, and K (K - 1) if they are all equal.

    The last linear layer of the network is not used for this. It is trained separately by the cross-entropy of each
    frame, the derivative of which does not reach the rest of the network, so that there are predictions.

    Args:
        problem: The labels, with `clip` frames of each video.
        attentions: Number K of attention models, >= 1. Published: 6.
        hidden: Number of rows of W_k, >= 1. Released: 64.
        width: Number of rows of E, >= 1. Released: 128.
        lam: Weight of the diversity, >= 0. Released: 1.
        momentum: Momentum of the class vectors, in [0, 1). Published with the loss: 0.5.
        temperature: Temperature of the matching loss, > 0. Published with the loss: 0.1.

    Raises:
        ValueError: A parameter is out of range, or the examples are not videos.
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
        """Create the attention models for the feature maps of a network, with as many channels as it has features."""
        last, k = last_linear(network), self.attentions
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            # Groups separate the K models. Before a softmax a bias would cancel.
            first = nn.Conv2d(last.in_features, k * self.hidden, 1)
            self.spatial = nn.Sequential(first, nn.ReLU(), nn.Conv2d(k * self.hidden, k, 1, groups=k, bias=False))
            self.enhance = nn.Linear(last.in_features, self.width, bias=False)
            self.standardize = nn.BatchNorm1d(self.width, affine=False)
            self.temporal = nn.Conv1d(k * self.width, k, 1, groups=k, bias=False)
        detach_input(last)

    def loss(self, step: Step) -> Tensor:
        """Return the sum of both losses and the cross-entropy of the last layer, and update the class vectors.

        Raises:
            ValueError: The batch does not consist of whole clips.
        """
        if len(step.labels) % self.clip:
            raise EmphasisValueError(
                f"a batch of {len(step.labels)} frames does not consist of clips of {self.clip} frames"
            )
        frames, log_attention = self.attend(step.maps)
        videos = self.videos(frames.reshape(-1, self.clip, self.attentions * self.width))
        labels = step.labels[:: self.clip]
        matched = F.cross_entropy(self.matching(videos, labels), labels)
        classified = F.cross_entropy(step.logits, step.labels)
        return matched + self.lam * overlap(log_attention).mean() + classified

    def attend(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (N, K, width) and the logarithm of s (N, K, H W), from maps (N, D, H, W)."""
        log_attention = F.log_softmax(self.spatial(maps).flatten(2), 2)
        gated = torch.einsum("nkl,ndl->nkd", log_attention.exp(), maps.flatten(2))
        enhanced = self.standardize(self.enhance(gated).flatten(0, 1)).view(*gated.shape[:2], self.width)
        return F.normalize(enhanced, dim=2), log_attention

    def describe(self, features: Tensor, maps: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return x of each frame, (N, K width)."""
        assert maps is not None
        return self.attend(maps)[0].flatten(1)

    def videos(self, frames: Tensor) -> Tensor:
        """Return x of each video, (V, K width), from those of its frames, (V, n, K width)."""
        attention = F.softmax(self.temporal(frames.transpose(1, 2)), 2)
        parts = frames.reshape(*frames.shape[:2], self.attentions, self.width)
        return F.normalize(torch.einsum("vkn,vnkd->vkd", attention, parts).flatten(1), dim=1)


def overlap(log_attention: Tensor) -> Tensor:
    """Return Q = |R R^T - I|^2 of each frame, (N,), from the logarithm of its attentions, (N, K, L)."""
    roots = (0.5 * log_attention).exp()  # the square root has no derivative at 0
    gram = roots @ roots.transpose(1, 2)
    return (gram - torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)).square().sum((1, 2))


__getattr__ = renamed(__name__, {"Drsa": "DRSA"})
