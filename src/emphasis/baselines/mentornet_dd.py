"""MentorNet DD: the data-driven curriculum.

Source: L. Jiang et al., MentorNet: Learning Data-Driven Curriculum for Very Deep Neural Networks on Corrupted Labels,
ICML 2018.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.mentornet_pd import kept_at_random
from emphasis.baselines.protocol import Baseline, Epoch, Need, Problem, Step, check_range, check_whole
from emphasis.baselines.self_paced import moved
from emphasis.deprecation import renamed
from emphasis.errors import EmphasisValueError

_TIMES = 100  # number of parts that training is divided into


class MentorNetwork(nn.Module):
    """The network of the paper (Figure 2), which maps loss, excess, label and time of an example to a weight in (0, 1).

    The inputs of a bidirectional LSTM of one unit are the loss and its excess over a moving percentile; embeddings of
    the label (2 numbers) and the time (5) are appended; a layer of 20 tanh units and a sigmoid follow (Figure 2 and the
    authors' code).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 1, bidirectional=True, batch_first=True)
        self.label, self.time = nn.Embedding(num_classes, 2), nn.Embedding(_TIMES, 5)
        self.hidden, self.out = nn.Linear(2 + 2 + 5, 20), nn.Linear(20, 1)

    def forward(self, losses: Tensor, excess: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Return the logits of the weights, (N,), at a progress in [0, 1)."""
        _, (state, _) = self.lstm(torch.stack([losses, excess], 1).unsqueeze(2))
        time = self.time(torch.full_like(labels, min(int(progress * _TIMES), _TIMES - 1)))
        joined = torch.cat([state[0], state[1], self.label(labels), time], 1)
        logits: Tensor = self.out(torch.tanh(self.hidden(joined))).squeeze(1)
        return logits


class MentorNetDD(Baseline):
    """Weights losses by a small network that is trained on a few examples to recognize clean labels.

    An annotator gives the true labels of a share of the examples, so that it is known which of their labels are clean:
    v* = 1 or 0. Twice in training, the mentor is fitted to them by cross-entropy, from the losses of the student at
    that time; its outputs are then the weights of all examples. In the burn-in before, a random half of each batch is
    used.

    Args:
        problem: The labels, with an annotator.
        share: Share of the examples that the annotator labels, in (0, 1]. About 10 % in the release
            (google/mentornet, TRAINING.md): 5,000 of 50,000.
        percentile: Percentile of the losses of a batch that the excess is relative to, in (0, 1]. In the release
            (google/mentornet, train_studentnet_inception.sh) 0.8, 0.6 and 0.5 at noise rates of 0.2, 0.4 and 0.8; the
            default was chosen for this package.
        updates: Shares of training at which the mentor is fitted, increasing, in (0, 1). In the paper (2018) 0.21 and
            0.75. The release has a mentor that was trained before, with the time fixed at epoch 18 of 100
            (burn_in_epoch=18).
        decay: Decay of the moving average, in [0, 1). 0.95 in the paper and 0.9 in the release (utils.py).
        steps: Number of steps of the mentor's optimizer (Adam, learning rate 0.01) at each update, >= 1. The default
            was chosen for this package.

    Raises:
        ValueError: A parameter is out of range, or there is no annotator.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"survey", "true labels"})
    threshold: Tensor
    asked: Tensor
    right: Tensor
    updated: Tensor

    def __init__(
        self,
        problem: Problem,
        *,
        share: float = 0.1,
        percentile: float = 0.75,
        updates: tuple[float, ...] | list[float] = (0.21, 0.75),
        decay: float = 0.95,
        steps: int = 300,
    ) -> None:
        super().__init__(problem)
        check_range("share", share, 0.0, 1.0, ends="(]")
        check_range("percentile", percentile, 0.0, 1.0, ends="(]")
        check_range("decay", decay, 0.0, 1.0, ends="[)")
        check_whole("steps", steps, 1)
        for update in updates:
            check_range("updates", update, 0.0, 1.0, ends="()")
        if not updates or list(updates) != sorted(set(updates)):
            raise EmphasisValueError(
                f"updates={updates!r} is not allowed; use increasing shares of training, such as (0.21, 0.75)"
            )
        if problem.annotate is None:
            raise EmphasisValueError("mentornet-dd needs the true labels of some examples; use Problem(annotate=...)")
        self.percentile, self.updates, self.decay, self.steps = percentile, tuple(updates), decay, steps
        n = len(problem.labels)
        order = torch.randperm(n, generator=problem.generator()).to(problem.labels.device)
        asked = order[: max(1, round(share * n))]
        self.register_buffer("asked", asked, persistent=False)
        self.register_buffer("right", problem.annotate(asked) == problem.labels[asked], persistent=False)
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("updated", torch.tensor(0))
        self._updates_done: int | None = None  # `updated`, after it has been read from the device
        self.register_load_state_dict_post_hook(_forget_updates_done)  # type: ignore[no-untyped-call]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(problem.seed)
            self.mentor = MentorNetwork(problem.num_classes).requires_grad_(False)

    def loss(self, step: Step) -> Tensor:
        """Return the mean of v_i loss_i."""
        losses = F.cross_entropy(step.logits, step.labels, reduction="none")
        self.threshold.copy_(moved(self.threshold, losses, self.percentile, self.decay))
        done = self._number_of_updates()
        if not done:
            return (losses * kept_at_random(losses, 0.5)).mean()
        known = losses.detach().float()
        time = self.updates[done - 1]  # that of the last update, the only one the mentor was trained with
        v = torch.sigmoid(self.mentor(known, known - self.threshold, step.labels, time))
        return (losses * v * kept_at_random(v, 0.05)).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Fit the mentor if an update is due."""
        due = sum(epoch.progress >= update for update in self.updates)
        if due == self._number_of_updates():
            return
        labels = self.labels[self.asked]
        losses = F.cross_entropy(epoch.survey(self.asked).logits, labels, reduction="none")
        self._fit(losses, labels, self.updates[due - 1])
        self.updated.fill_(due)
        self._updates_done = due

    def _number_of_updates(self) -> int:
        """Return `updated` as an int; reading it from the device in every step would make the host wait."""
        if self._updates_done is None:
            self._updates_done = int(self.updated)
        return self._updates_done

    def _fit(self, losses: Tensor, labels: Tensor, time: float) -> None:
        excess, truth = losses - self.threshold, self.right.float()
        self.mentor.requires_grad_(True)
        optimizer = torch.optim.Adam(self.mentor.parameters(), 0.01)
        with torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                loss = F.binary_cross_entropy_with_logits(self.mentor(losses, excess, labels, time), truth)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        optimizer.zero_grad()  # so that the optimizer of the loop does not use these gradients
        self.mentor.requires_grad_(False)


def _forget_updates_done(method: nn.Module, _keys: object) -> None:
    assert isinstance(method, MentorNetDD)
    method._updates_done = None


__getattr__ = renamed(__name__, {"MentornetDd": "MentorNetDD"})
