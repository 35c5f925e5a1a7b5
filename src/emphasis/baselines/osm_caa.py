"""OSM+CAA: online soft mining and class-aware attention.

Source: X. Wang et al., Deep Metric Learning by Online Soft Mining and Class-Aware Attention, AAAI 2019.

Where the authors' release, XinshaoAmosWang/OSM_CAA_WeightedContrastiveLoss, differs from the formulas below, the
formulas are used. In the release the mining of positive pairs is exp(-d^2 / (2 sigma^2)), with sigma = 1 on MARS; the
attention is exp(-(1 - p)^2 / (2 * 0.68^2)) in place of p; the cross-entropy of each example has the weight exp(-(p -
0.5)^2 / (2 * 0.18^2)), divided by the sum of these; both losses are also computed for features of whole tracklets; and
the derivative of the contrastive loss is divided by the number of pairs as well. In both, p is the prediction of the
classifier, the attention of a pair is the smaller one, and weights are constants.
ppriyank/-Online-Soft-Mining-and-Class-Aware-Attention-Pytorch has the formulas, but computes p from cosines of features
and classes, and differentiates the weights.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Need, Problem, Step, check_range
from emphasis.baselines.video import VideoMethod
from emphasis.deprecation import renamed


class OSMCAA(VideoMethod):
    """Cross-entropy and a contrastive loss of features in which all pairs of a batch have weights.

    With f the features divided by their L2 norms, d_ij = |f_i - f_j| and p_i the probability of the label of i, which
    measures the compatibility of its features with its class, as the rows of the last layer are the context vectors,

        mining       s_ij = exp(-d_ij^2 / sigma^2) for pairs of the same label, max(0, alpha - d_ij) for others;
        attention    a_ij = min(p_i, p_j), which is small for a pair with an abnormal example;
        weights      w_ij = s_ij a_ij;
        positive     L+ = sum w_ij d_ij^2 / (2 sum w_ij), over pairs of the same label;
        negative     L- = sum w_ij max(0, alpha - d_ij)^2 / (2 sum w_ij), over the others;
        loss         cross-entropy + (1 - lam) L+ + lam L-.

    The weights are constants for differentiation, as otherwise the loss would decrease by reducing weights. A sum over
    no pairs is 0: a batch should contain several examples of a class, such as clips of videos.

    Args:
        problem: The labels.
        sigma: Width of the positive mining, > 0. Published: 0.8.
        alpha: Margin between classes, in (0, 2]; 2 is the largest distance. Published: 1.2.
        lam: Share of the negative pairs, in [0, 1]. Published: 0.5.

    Raises:
        ValueError: A parameter is out of range.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"features"})

    def __init__(self, problem: Problem, *, sigma: float = 0.8, alpha: float = 1.2, lam: float = 0.5) -> None:
        super().__init__(problem)
        check_range("sigma", sigma, 0.0, float("inf"), ends="()")
        check_range("alpha", alpha, 0.0, 2.0, ends="(]")
        check_range("lam", lam, 0.0, 1.0)
        self.sigma, self.alpha, self.lam = sigma, alpha, lam

    def loss(self, step: Step) -> Tensor:
        """Return the sum of cross-entropy and the weighted contrastive loss."""
        p = F.softmax(step.logits, 1).gather(1, step.labels.unsqueeze(1)).squeeze(1)
        return F.cross_entropy(step.logits, step.labels) + self.contrastive(step.features, step.labels, p)

    def contrastive(self, features: Tensor, labels: Tensor, p: Tensor) -> Tensor:
        """Return (1 - lam) L+ + lam L-, a scalar.

        Args:
            features: Features of the examples, (N, D).
            labels: Labels of the examples, (N,).
            p: Probabilities of the labels, (N,).
        """
        precise = features.to(torch.promote_types(features.dtype, torch.float32))  # pdist has no half precision
        distances = F.pdist(F.normalize(precise, dim=1))
        first, second = torch.triu_indices(len(labels), len(labels), 1, device=labels.device)  # in pdist's order
        alike = labels[first] == labels[second]
        attention = torch.minimum(p[first], p[second])
        squares, near = distances.square(), (self.alpha - distances).clamp_min(0.0)
        positive = _weighted_mean(squares, torch.where(alike, (-squares / self.sigma**2).exp(), 0.0) * attention)
        negative = _weighted_mean(near.square(), torch.where(alike, 0.0, near) * attention)
        return 0.5 * ((1.0 - self.lam) * positive + self.lam * negative)


def _weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return sum w v / sum w with constant weights; 0 if they sum to 0."""
    weights = weights.detach()
    total = weights.sum()
    return (weights * values).sum() / torch.where(total > 0.0, total, 1.0)


__getattr__ = renamed(__name__, {"OsmCaa": "OSMCAA"})
