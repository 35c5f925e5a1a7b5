"""Derivative manipulation with targets that the network corrects.

"How to manipulate the derivative direction" by target modification is future work of "Derivative Manipulation for
General Example Weighting". Source of the targets: X. Wang et al., ProSelfLC: Progressive Self Label Correction for
Training Robust Deep Neural Networks, CVPR 2021.
"""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_flag, check_range, one_hot
from emphasis.torch.functional import emphasis_loss
from emphasis.weighting import DM


def corrected_targets(
    logits: Tensor, labels: Tensor, progress: float, *, sharpness: float = 16.0, trust: float = 1.0
) -> Tensor:
    """Return targets (1 - epsilon) onehot(y) + epsilon p, mixtures of the labels and the predictions p.

    epsilon = trust g l with g = 1 / (1 + exp(-sharpness (progress - 1/2))), as a network has to learn before it is
    trusted, and l = 1 - H(p) / log C with the entropy H, as it is trusted where it is certain.

    Args:
        logits: Logits (N, C); the targets are constants for differentiation.
        labels: Labels (N,), int64 in [0, C).
        progress: Share of training that has passed, in [0, 1].
        sharpness: Sharpness of the change at one half of training, >= 0.
        trust: Upper bound of epsilon, in [0, 1]; with 0 the labels do not change.

    Returns:
        The targets, (N, C), with rows that sum to 1.
    """
    log_p = F.log_softmax(logits.detach(), 1)
    p = log_p.exp()
    sure = (1.0 + (p * log_p).sum(1, keepdim=True) / math.log(logits.shape[1])).clamp(0.0, 1.0)
    epsilon = trust * sure / (1.0 + math.exp(-sharpness * (progress - 0.5)))
    return (1.0 - epsilon) * one_hot(labels, p) + epsilon * p


class SelfLabelCorrection(Baseline):
    """DM towards `corrected_targets`: the derivative is sum_k t_k d_k, d_k that of DM for label k.

    With one-hot targets it is DM's. (With cross-entropy in place of DM it would be (1 - epsilon) times
    cross-entropy's: correction by one's own prediction changes a loss's magnitude, and its direction only where the
    magnitudes w(p_k) of the labels differ.)

    Args:
        problem: The labels.
        lam: See `emphasis.DM`.
        beta: See `emphasis.DM`.
        vanishing: See `emphasis.DM`.
        sharpness: Sharpness of the change from label to prediction at one half of training, >= 0.
        trust: Upper bound of the share of the prediction, in [0, 1]; 0 is DM.

    Raises:
        ValueError: A parameter is out of range.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        lam: float = 0.5,
        beta: float = 4.0,
        vanishing: bool = True,
        sharpness: float = 16.0,
        trust: float = 1.0,
    ) -> None:
        super().__init__(problem)
        check_flag("vanishing", vanishing)
        check_range("sharpness", sharpness, 0.0, math.inf, ends="[)")
        check_range("trust", trust, 0.0, 1.0)
        self.weighting = DM(lam=lam, beta=beta, vanishing=vanishing)
        self.sharpness, self.trust = sharpness, trust

    def loss(self, step: Step) -> Tensor:
        """Return the mean loss, with the normalization "integral"."""
        targets = corrected_targets(step.logits, step.labels, step.progress, sharpness=self.sharpness, trust=self.trust)
        return emphasis_loss(step.logits, targets, self.weighting)
