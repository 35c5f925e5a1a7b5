"""Co-teaching.

Source: B. Han et al., Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels, NeurIPS 2018.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range


class CoTeaching(Baseline):
    """Two networks, each trained on the examples of the batch with the smallest losses of the other.

    The share R(T) = 1 - min(T / T_k * tau, tau) of each batch is used (Algorithm 1). The method needs twice the
    computation of others; the first network predicts.

    Args:
        problem: The labels.
        forget_rate: Share tau of examples that are not used, in [0, 1); 0 is cross-entropy for both networks. In the
            paper (2018) it is the noise rate, which must be known.
        gradual: T_k as a share of training, in (0, 1]. 10 of 200 epochs in the paper (2018).

    Raises:
        ValueError: A parameter is out of range.
    """

    networks: ClassVar[int] = 2

    def __init__(self, problem: Problem, *, forget_rate: float, gradual: float = 0.05) -> None:
        super().__init__(problem)
        check_range("forget_rate", forget_rate, 0.0, 1.0, ends="[)")
        check_range("gradual", gradual, 0.0, 1.0, ends="(]")
        self.forget_rate, self.gradual = forget_rate, gradual

    def kept_share(self, progress: float) -> float:
        """Return R(T), the share of examples that are used, at a progress in [0, 1)."""
        return 1.0 - self.forget_rate * min(progress / self.gradual, 1.0)

    def loss(self, step: Step) -> Tensor:
        """Return the sum of the mean losses of both networks over the examples that the other one selects."""
        first = F.cross_entropy(step.logits, step.labels, reduction="none")
        second = F.cross_entropy(step.peer_logits, step.labels, reduction="none")
        count = max(1, int(self.kept_share(step.progress) * len(first)))
        easy_for_first, easy_for_second = (losses.detach().argsort()[:count] for losses in (first, second))
        return first[easy_for_second].mean() + second[easy_for_first].mean()
