"""Masking (B. Han et al., Masking: A New Perspective of Noisy Supervision, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range
from emphasis.errors import EmphasisValueError

STRUCTURES = ("full", "pair")
_NOISE = 8  # dimension of the generator's input
_THRESHOLD = 0.05


class Masking(Baseline):
    """A noise layer, the transition matrix of which has the structure that people expect.

    A generator draws a matrix s; the reconstructor explains the labels, -log sum_i p_i s[i, y]; the structure f(s) =
    sigmoid((s - 0.05) / 0.005), the transitions that occur, must agree with the prior (Eqs. 3 and 4). The matrix is not
    used in prediction.

    The authors' release, bhanML/Masking, measures the disagreement by the critic of a Wasserstein GAN, with a single
    structure as the prior. From a distribution to a single point the Wasserstein distance has a closed form, the mean
    of sum_ij |f(s)_ij - prior_ij|, which is the term here: the value of the best critic, without training one. Other
    differences: the first matrix has the prior's structure, whereas the release starts from a classifier that was
    trained before and the matrix estimated with it; the generator is linear.

    Args:
        problem: The labels.
        structure: Transitions that occur: "full" for all, so that there is a noise layer without the term; "pair" for
            those to the next class; or C rows of 0 and 1, with 1 for transitions that occur and on the diagonal.
        weight: Weight of the structure's term, >= 0; 0 is a noise layer without a prior. The derivative of the term is
            large near the threshold, so that a large weight needs a small learning rate.
        keep: The diagonal of the first matrix, in (1 / C, 1).

    Raises:
        ValueError: A parameter is not allowed.
    """

    prior: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        structure: str | Sequence[Sequence[int]] = "full",
        weight: float = 0.1,
        keep: float = 0.8,
    ) -> None:
        super().__init__(problem)
        classes = problem.num_classes
        check_range("weight", weight, 0.0, float("inf"), ends="[)")
        check_range("keep", keep, 1.0 / classes, 1.0, ends="()")
        self.weight = weight
        self.register_buffer("prior", structure_matrix(structure, classes))
        self.free = bool((self.prior == 1.0).all())
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(problem.seed)
            self.generator = nn.Linear(_NOISE, classes * classes)
        with torch.no_grad():
            self.generator.weight.mul_(0.1)
            self.generator.bias.copy_(first_matrix(self.prior, keep).log().flatten())

    def transition(self) -> Tensor:
        """Return log T[true, noisy], (C, C), a draw of the generator's."""
        noise = torch.randn(1, _NOISE, device=self.prior.device)
        return F.log_softmax(self.generator(noise).view_as(self.prior), 1)

    def loss(self, step: Step) -> Tensor:
        """Return the cross-entropy of the reconstruction plus the weighted distance from the prior."""
        log_t = self.transition()
        reconstruction = -torch.logsumexp(F.log_softmax(step.logits, 1) + log_t.T[step.labels], 1).mean()
        if self.free:
            return reconstruction
        return reconstruction + self.weight * (structure_of(log_t.exp()) - self.prior).abs().sum()


def first_matrix(prior: Tensor, keep: float) -> Tensor:
    """Return the initial matrix with the structure of the prior, (C, C).

    Transitions that should not occur start at a quarter of the threshold; far above it f is flat, and has no
    derivative.
    """
    outside = 1.0 - prior
    inside = prior - torch.eye(len(prior))
    weights = inside * (1.0 - keep) / inside.sum(1, keepdim=True).clamp_min(1.0) + outside * 0.25 * _THRESHOLD
    first = weights + torch.diag(torch.full((len(prior),), keep))
    return first / first.sum(1, keepdim=True)


def structure_of(transition: Tensor, threshold: float = _THRESHOLD, width: float = 0.005) -> Tensor:
    """Return which transitions occur, f(s) = sigmoid((s - threshold) / width), Eq. 4 with the values of the paper."""
    return torch.sigmoid((transition - threshold) / width)


def structure_matrix(structure: str | Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Return a prior structure as a tensor (C, C) of 0 and 1.

    Raises:
        ValueError: It is unknown, or has another shape, other values or a 0 on the diagonal.
    """
    if isinstance(structure, str):
        if structure not in STRUCTURES:
            raise EmphasisValueError(
                f"structure={structure!r} is unknown; use {' or '.join(STRUCTURES)}, or C rows of 0 and 1"
            )
        eye = torch.eye(num_classes)
        return torch.ones_like(eye) if structure == "full" else eye + eye.roll(1, 1)
    prior = torch.as_tensor(structure, dtype=torch.float32)
    good = prior.shape == (num_classes, num_classes) and bool(((prior == 0.0) | (prior == 1.0)).all())
    if not good or not bool((prior.diagonal() == 1.0).all()):
        raise EmphasisValueError(
            f"structure must be {num_classes} rows of {num_classes} numbers 0 or 1, the diagonal 1"
        )
    return prior
