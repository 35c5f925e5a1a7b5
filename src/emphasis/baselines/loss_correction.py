"""Loss correction.

Source: G. Patrini et al., Making Deep Neural Networks Robust to Label Noise: a Loss Correction Approach, CVPR 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis.baselines._transition import as_transition_matrix, at_anchor_points
from emphasis.baselines._two_trainings import TwoTrainings
from emphasis.baselines.protocol import Epoch, Need, Problem, Step, check_flag, check_range
from emphasis.errors import EmphasisValueError


class LossCorrection(TwoTrainings):
    """Cross-entropy corrected by the transition matrix T[true, noisy], given or estimated.

    Forward correction (Theorem 2) is -log sum_i p_i T[i, y]: the network predicts the true label, and T adds the noise.
    Backward correction (Theorem 1) is (T^-1 l)_y with l_j = -log p_j: its mean over the noise is the loss with true
    labels, and it is not bounded from below. T is estimated (section 4.3) with a network that is first trained by
    cross-entropy: row i is its prediction for an example that it assigns to class i with high probability. Training
    then restarts, or continues.

    Args:
        problem: The labels.
        backward: Whether backward correction is used instead of forward correction.
        matrix: The matrix T, C rows that sum to 1; the identity is cross-entropy. Estimated by default.
        warm: Share of training for the network with which T is estimated, in (0, 1); not used with `matrix`.
        restart: Whether training restarts after the estimate of T; otherwise the network continues with the rest of the
            schedule of the learning rate. The paper only says that it is trained again.
        quantile: Quantile of the anchor of a class among the examples that are predicted as the class, in (0, 1]; 1 is
            the one with the largest probability. The release (giorgiop/loss-correction, models.py) takes the 97th
            percentile over all examples, which in ten balanced classes is 0.7 of each class, the default; for
            CIFAR-100 it takes the largest (main_experiment.py, filter_outlier), which is 1.

    Raises:
        ValueError: A parameter is out of range; or T is not a transition matrix, gives a label that occurs the
            probability 0, or is singular for backward correction.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"survey", "copy"})
    transition: Tensor
    correcting: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        backward: bool = False,
        matrix: Sequence[Sequence[float]] | Tensor | None = None,
        warm: float = 0.5,
        restart: bool = True,
        quantile: float = 0.7,
    ) -> None:
        check_range("warm", warm, 0.0, 1.0, ends="()")
        super().__init__(problem, warm)
        check_range("quantile", quantile, 0.0, 1.0, ends="(]")
        check_flag("backward", backward)
        check_flag("restart", restart)
        self.backward, self.restart, self.quantile = backward, restart, quantile
        given = torch.eye(self.num_classes) if matrix is None else as_transition_matrix(matrix, self.num_classes)
        if backward and torch.linalg.matrix_rank(given) < self.num_classes:
            raise EmphasisValueError(
                "matrix is singular, and backward correction needs its inverse; use backward=False"
            )
        never = problem.labels[given.to(problem.labels.device).amax(0)[problem.labels] == 0.0]
        if len(never) and not backward:
            raise EmphasisValueError(
                f"matrix never gives the label {int(never[0])}, which {len(never)} examples have; use a probability > 0"
            )
        self.register_buffer("transition", given)
        self.register_buffer("correcting", torch.tensor(matrix is not None))

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the corrected cross-entropy, (N,)."""
        log_p = F.log_softmax(logits, 1)
        transition = self.transition.to(log_p.dtype)
        if self.backward:
            inverse = torch.linalg.pinv(transition)  # an estimated T may be singular
            corrected: Tensor = -(inverse[labels] * log_p).sum(1)
            return corrected
        return -torch.logsumexp(log_p + transition.T[labels].log(), 1)

    def loss(self, step: Step) -> Tensor:
        """Return the mean corrected cross-entropy; plain cross-entropy until T is known."""
        if not self.correcting:
            return F.cross_entropy(step.logits, step.labels)
        return super().loss(step)

    def begin_epoch(self, epoch: Epoch) -> None:
        """Estimate T after the first training, and begin the second."""
        if not self.correcting and self.due(epoch):
            predictions = F.softmax(epoch.survey(None).logits, 1)
            self.transition.copy_(at_anchor_points(predictions, self.quantile))
            self.correcting.fill_(True)
            if self.restart:
                self.begin_second(epoch)

    def schedule(self, progress: float) -> float:
        """Return the position in the schedule, that of the first or the second training if there are two."""
        twice = self.restart and (self.second or not self.correcting)
        return super().schedule(progress) if twice else progress

    @classmethod
    def example(cls, num_classes: int) -> tuple[str, dict[str, Any]]:
        """Return T of 40 % symmetric noise."""
        eye = torch.eye(num_classes)
        return "T of 40 % symmetric noise", {"matrix": 0.6 * eye + 0.4 * (1.0 - eye) / (num_classes - 1)}

    @classmethod
    def has_view(cls) -> bool:
        """Return True, as the loss for a given T is a function of logits and label."""
        return True
