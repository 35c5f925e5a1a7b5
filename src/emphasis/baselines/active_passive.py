"""Active-passive losses, NCE+RCE, and NCE with an asymmetric loss.

Sources: X. Ma et al., Normalized Loss Functions for Deep Learning with Noisy Labels, ICML 2020; X. Zhou et al.,
Asymmetric Loss Functions for Learning with Noisy Labels, ICML 2021.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range
from emphasis.baselines.symmetric_cross_entropy import LogOfZero, log_of_zero
from emphasis.errors import EmphasisValueError
from emphasis.torch import emphasis_loss
from emphasis.weighting import AEL, AGCE, AUL

ACTIVE, PASSIVE = ("NCE", "NFL"), ("RCE", "NRCE", "MAE", "NMAE", "AGCE", "AUL", "AEL")
# Parameters beside NCE in the release of the second paper, hitcszx/ALFs, lnl/losses.py.
_ASYMMETRIC: dict[str, Any] = {"AGCE": AGCE(a=3.0, q=1.5), "AUL": AUL(a=6.0, q=1.5), "AEL": AEL(a=2.5)}


class ActivePassive(Baseline):
    """Sum of an active and a passive loss, alpha * active + beta * passive.

    Active losses are the share of the label's loss in the sum over all labels: NCE = -log p_y / sum_k -log p_k (Eq. 3),
    and NFL, the same for the focal loss. Passive losses are RCE = |A| (1 - p); MAE = 2 (1 - p); and their normalized
    forms, both (1 - p) / (K - 1) with K classes, since sum_k (1 - p_k) = K - 1: that is NRCE = RCE / (|A| (K - 1)).

    Args:
        problem: The labels.
        active: Active loss, "NCE" or "NFL".
        passive: Passive loss: "RCE", "NRCE", "MAE" or "NMAE"; or an asymmetric loss, "AGCE", "AUL" or "AEL", as the
            weightings of these names.
        alpha: Weight of the active loss, >= 0. In the paper (2020) 1 for CIFAR-10 and MNIST, 10 for CIFAR-100.
        beta: Weight of the passive loss, >= 0. In the paper (2020) 1 for CIFAR-10, 100 for MNIST, 0.1 for CIFAR-100.
        a: Parameter of an asymmetric passive loss; None: 3, 6 and 2.5 of AGCE, AUL and AEL (hitcszx/ALFs,
            lnl/losses.py).
        q: Exponent of AGCE or AUL; None: 1.5 (the same).
        gamma: Exponent of NFL, >= 0; at 0 it is NCE. In the paper (2020) 0.5.
        A: Value of log 0 in RCE, <= 0; "paper" for -4, "release" for log(1e-4) = -9.21, at which the release
            of its authors (HanxunH/Active-Passive-Losses, loss.py) clamps.

    Raises:
        ValueError: A parameter is not allowed.
    """

    def __init__(
        self,
        problem: Problem,
        *,
        active: str = "NCE",
        passive: str = "RCE",
        alpha: float = 1.0,
        beta: float = 1.0,
        gamma: float = 0.5,
        A: LogOfZero = -4.0,
        a: float | None = None,
        q: float | None = None,
    ) -> None:
        super().__init__(problem)
        for name, value, known in (("active", active, ACTIVE), ("passive", passive, PASSIVE)):
            if value not in known:
                raise EmphasisValueError(f"{name}={value!r} is not allowed; use one of {', '.join(known)}")
        for name, number in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
            check_range(name, number, 0.0, float("inf"), ends="[)")
        self.active, self.passive = active, passive
        self.alpha, self.beta, self.gamma, self.A = alpha, beta, gamma, log_of_zero(A)
        changed = {name: value for name, value in (("a", a), ("q", q)) if value is not None}
        if changed and not set(changed) <= set(_ASYMMETRIC[passive].parameters() if passive in _ASYMMETRIC else ()):
            raise EmphasisValueError(f"{', '.join(changed)}: passive={passive!r} has no such parameter; omit it")
        self.asymmetric = replace(_ASYMMETRIC[passive], **changed) if passive in _ASYMMETRIC else None

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each example, (N,)."""
        log_p = F.log_softmax(logits, 1)
        losses = -log_p
        if self.active == "NFL":
            losses = losses * torch.exp(self.gamma * log_one_minus_p(logits))
        column = labels.unsqueeze(1)
        active = losses.gather(1, column).squeeze(1) / losses.sum(1)
        label_logit = logits.gather(1, column).squeeze(1)
        wrong = torch.sigmoid(logits.scatter(1, column, -torch.inf).logsumexp(1) - label_logit)
        if self.asymmetric is not None:
            passive = emphasis_loss(logits, labels, self.asymmetric, normalization=None, reduction="none")
            return self.alpha * active + self.beta * passive
        factor = {"RCE": -self.A, "MAE": 2.0}.get(self.passive, 1.0 / (self.num_classes - 1.0))
        return self.alpha * active + self.beta * factor * wrong


def log_one_minus_p(logits: Tensor) -> Tensor:
    """Return log(1 - p_j) of every class, (N, C), precise where p_j is near 1.

    It needs memory for N * C * C numbers.
    """
    classes = logits.shape[1]
    others = logits.unsqueeze(1).expand(-1, classes, -1)
    masked = others.masked_fill(torch.eye(classes, dtype=torch.bool, device=logits.device), -torch.inf)
    return F.logsigmoid(masked.logsumexp(2) - logits)
