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

_TIMES = 100  # training is told apart in this many parts


class MentorNetwork(nn.Module):
    """The paper's network (Figure 2): from an example's loss, its excess, its label and the time to a weight in (0, 1).

    A bidirectional LSTM of one unit reads loss and excess (the loss less a moving percentile); embeddings of label
    (2 numbers) and time (5) join it; a layer of 20 tanh units and a sigmoid follow (Figure 2 and the authors' code).
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(1, 1, bidirectional=True, batch_first=True)
        self.label, self.time = nn.Embedding(num_classes, 2), nn.Embedding(_TIMES, 5)
        self.hidden, self.out = nn.Linear(2 + 2 + 5, 20), nn.Linear(20, 1)

    def forward(self, losses: Tensor, excess: Tensor, labels: Tensor, progress: float) -> Tensor:
        """Return the logits of the weights, (N,)."""
        _, (state, _) = self.lstm(torch.stack([losses, excess], 1).unsqueeze(2))
        time = self.time(torch.full_like(labels, min(int(progress * _TIMES), _TIMES - 1)))
        joined = torch.cat([state[0], state[1], self.label(labels), time], 1)
        logits: Tensor = self.out(torch.tanh(self.hidden(joined))).squeeze(1)
        return logits


class MentorNetDD(Baseline):
    """Each example's loss is weighted by a small network that has learned, on few examples, which labels are right.

    The true labels of a share of the examples are asked for, so that it is known which of their labels are right:
    v* = 1 or 0. Twice in training, the mentor is fitted to them by cross-entropy, from what the student makes of them
    at that time; its weights are then those of all examples. Before, the burn-in: all count, a random half at a time.

    Args:
        problem: The labels, with an annotator.
        share: Share of the examples whose true labels are asked for, in (0, 1]. About 10 % in the release
            (google/mentornet, TRAINING.md): 5,000 of 50,000.
        percentile: Percentile of the batch's losses that the excess is measured from, in (0, 1]. In the release
            (google/mentornet, train_studentnet_inception.sh) 0.8, 0.6 and 0.5 at noise rates of 0.2, 0.4 and 0.8; 0.75
            is our choice.
        updates: Where in training the mentor is fitted, rising, in (0, 1). In the paper (2018) 0.21 and 0.75. The
            release has a mentor that was trained before, and keeps its time at epoch 18 of 100 (burn_in_epoch=18).
        decay: Decay of the moving average, in [0, 1). 0.95 is the paper's, 0.9 the release's (utils.py).
        steps: Steps of the mentor's optimizer (Adam, learning rate 0.01) at each update, >= 1. Our choice.

    Raises:
        ValueError: A parameter is out of bounds, or nobody can be asked.
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
        for one in updates:
            check_range("updates", one, 0.0, 1.0, ends="()")
        if not updates or list(updates) != sorted(set(updates)):
            raise EmphasisValueError(
                f"updates={updates!r} is not allowed; give rising shares of training, such as (0.21, 0.75)"
            )
        if problem.annotate is None:
            raise EmphasisValueError(
                "mentornet-dd learns from examples whose true labels are known; give Problem(annotate=...)"
            )
        self.percentile, self.updates, self.decay, self.steps = percentile, tuple(updates), decay, steps
        n = len(problem.labels)
        order = torch.randperm(n, generator=problem.generator()).to(problem.labels.device)
        asked = order[: max(1, round(share * n))]
        self.register_buffer("asked", asked, persistent=False)
        self.register_buffer("right", problem.annotate(asked) == problem.labels[asked], persistent=False)
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("updated", torch.tensor(0))
        self._updates_done: int | None = None  # `updated`, once it has been read from the device
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
        time = self.updates[done - 1]  # that of its last update, the one it has seen
        v = torch.sigmoid(self.mentor(known, known - self.threshold, step.labels, time))
        return (losses * v * kept_at_random(v, 0.05)).mean()

    def begin_epoch(self, epoch: Epoch) -> None:
        """Fit the mentor where an update is due."""
        due = sum(epoch.progress >= one for one in self.updates)
        if due == self._number_of_updates():
            return
        labels = self.labels[self.asked]
        losses = F.cross_entropy(epoch.survey(self.asked).logits, labels, reduction="none")
        self._fit(losses, labels, self.updates[due - 1])
        self.updated.fill_(due)
        self._updates_done = due

    def _number_of_updates(self) -> int:
        """Return `updated` as a Python number: reading it in every step would make the host wait for the device."""
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
        optimizer.zero_grad()  # lest the loop's optimizer take them for the student's
        self.mentor.requires_grad_(False)


def _forget_updates_done(method: nn.Module, _keys: object) -> None:
    assert isinstance(method, MentorNetDD)
    method._updates_done = None


__getattr__ = renamed(__name__, {"MentornetDd": "MentorNetDD"})
