"""Derivative manipulation towards targets that the network comes to correct itself.

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
    """Return (1 - epsilon) onehot(y) + epsilon p, the labels in part replaced by the network's own prediction p.

    epsilon = trust g l: g = 1 / (1 + exp(-sharpness (progress - 1/2))), for a network has to learn before it can be
    trusted; l = 1 - H(p) / log C, H the entropy of p, for it may be trusted where it is sure.

    Args:
        logits: (N, C); targets are constants, no derivative goes through them.
        labels: (N,) int64 in [0, C).
        progress: Share of training that is over, in [0, 1].
        sharpness: >= 0, of the change half way.
        trust: In [0, 1], the largest epsilon; 0 leaves the labels as they are.

    Returns:
        (N, C), rows that sum to 1.
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
        lam: Of DM.
        beta: Of DM.
        vanishing: Of DM.
        sharpness: >= 0, of the change from label to prediction half way through training.
        trust: In [0, 1], the prediction's largest share; 0 is DM.

    Raises:
        ValueError: A parameter is out of bounds.
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
        """Return the loss with the integral normalization, the mean over the examples."""
        targets = corrected_targets(step.logits, step.labels, step.progress, sharpness=self.sharpness, trust=self.trust)
        return emphasis_loss(step.logits, targets, self.weighting)
