"""Bootstrapping.

Source: S. Reed et al., Training Deep Neural Networks on Noisy Labels with Bootstrapping, ICLR workshop 2015.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_flag, check_range, one_hot

_BETA = {False: 0.95, True: 0.8}


class Bootstrapping(Baseline):
    """Cross-entropy with targets that are mixtures of label and prediction.

    The soft version (Eq. 6) is -sum_j (beta t_j + (1 - beta) p_j) log p_j, in which p_j is differentiated as well: the
    second term is the entropy of the prediction. The hard version (Eq. 7) has onehot(argmax p) in place of p.

    Args:
        problem: The labels.
        hard: Whether the hard version is used.
        beta: Share of the label, in (0, 1]; 1 is cross-entropy. Defaults to 0.95 (soft) and 0.8 (hard), as in the
            release of SL (YisenWang/symmetric_cross_entropy_for_noisy_labels, loss.py).

    Raises:
        ValueError: beta is out of range.
    """

    def __init__(self, problem: Problem, *, hard: bool = False, beta: float | None = None) -> None:
        super().__init__(problem)
        check_flag("hard", hard)
        self.hard, self.beta = hard, _BETA[hard] if beta is None else beta
        check_range("beta", self.beta, 0.0, 1.0, ends="(]")

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the bootstrapped cross-entropy, (N,)."""
        log_p = F.log_softmax(logits, 1)
        prediction = one_hot(logits.argmax(1), logits) if self.hard else log_p.exp()
        targets = self.beta * one_hot(labels, logits) + (1.0 - self.beta) * prediction
        return -(targets * log_p).sum(1)
