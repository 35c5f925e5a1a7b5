"""Masking (B. Han et al., Masking: A New Perspective of Noisy Supervision, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, Step, check_range
from emphasis.errors import EmphasisValueError

STRUCTURES = ("full", "pair")
_NOISE = 8  # dimensions of the generator's input
_THRESHOLD = 0.05


class Masking(Baseline):
    """A noise layer whose transition matrix must have the structure that people expect of it.

    A generator draws a matrix s; the reconstructor explains the labels, -log sum_i p_i s[i, y]; the structure
    f(s) = sigmoid((s - 0.05) / 0.005), which transitions happen at all, must agree with the prior (Eq. 3 and Eq. 4).
    The matrix is left out in prediction.

    The authors' release, bhanML/Masking, measures the disagreement by the critic of a Wasserstein GAN, with a single
    structure as the prior. From a distribution to a single point the Wasserstein distance has a closed form, the mean
    of sum_ij |f(s)_ij - prior_ij|, which is the term here: what the best critic would say, without training one.
    Other deviations: the first matrix has the prior's structure, where the release starts from a classifier that was
    trained before and from the matrix estimated with it; the generator is linear.

    Args:
        problem: The labels.
        structure: "full": every class may be taken for every other, so that the prior rules nothing out and a noise
            layer remains, without the term; "pair": for the next one alone; or C rows of 0 and 1 (1: this happens),
            the diagonal 1.
        weight: Of the structure's term, >= 0; 0 leaves a noise layer without a prior. Near the threshold the term's
            derivative is steep, so that a large weight needs a small learning rate.
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
        """Return the reconstruction's cross-entropy and the weighted distance from the prior."""
        log_t = self.transition()
        reconstruction = -torch.logsumexp(F.log_softmax(step.logits, 1) + log_t.T[step.labels], 1).mean()
        if self.free:
            return reconstruction
        return reconstruction + self.weight * (structure_of(log_t.exp()) - self.prior).abs().sum()


def first_matrix(prior: Tensor, keep: float) -> Tensor:
    """Return a matrix of the prior's structure, (C, C): what is not to happen starts at a quarter of the threshold.

    Far above it f is flat, and the prior could not push it down.
    """
    outside = 1.0 - prior
    inside = prior - torch.eye(len(prior))
    weights = inside * (1.0 - keep) / inside.sum(1, keepdim=True).clamp_min(1.0) + outside * 0.25 * _THRESHOLD
    first = weights + torch.diag(torch.full((len(prior),), keep))
    return first / first.sum(1, keepdim=True)


def structure_of(transition: Tensor, threshold: float = _THRESHOLD, width: float = 0.005) -> Tensor:
    """Return which transitions happen, f(s) = sigmoid((s - threshold) / width), the paper's Eq. 4 and its values."""
    return torch.sigmoid((transition - threshold) / width)


def structure_matrix(structure: str | Sequence[Sequence[int]], num_classes: int) -> Tensor:
    """Return a prior structure as a tensor (C, C) of 0 and 1.

    Raises:
        ValueError: It is unknown, of another shape, or a class may not keep its label.
    """
    if isinstance(structure, str):
        if structure not in STRUCTURES:
            raise EmphasisValueError(
                f"structure={structure!r} is unknown; use {' or '.join(STRUCTURES)}, or C rows of 0 and 1"
            )
        eye = torch.eye(num_classes)
        return torch.ones_like(eye) if structure == "full" else eye + eye.roll(1, 1)
    found = torch.as_tensor(structure, dtype=torch.float32)
    good = found.shape == (num_classes, num_classes) and bool(((found == 0.0) | (found == 1.0)).all())
    if not good or not bool((found.diagonal() == 1.0).all()):
        raise EmphasisValueError(
            f"structure must be {num_classes} rows of {num_classes} numbers 0 or 1, the diagonal 1"
        )
    return found
