"""A network, or two, with the method that trains it: what a loop needs, whether this package's or one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from emphasis.baselines.protocol import Baseline, Epoch, Predictions, Step
from emphasis.errors import EmphasisValueError
from emphasis.models.layers import last_linear, last_pool
from emphasis.torch.distributed import all_gather_rows, rank_slice

Batches = Callable[[Tensor | None], Iterable[Tensor]]


class DivergedError(EmphasisValueError):
    """The network's logits are NaN or infinite: the training is lost."""


class Learner(nn.Module):
    """Trains a network by a method, in any loop: `begin_epoch` at an epoch's start, `loss` in every step.

    Called with inputs it returns the first network's logits (N, C).

    Over several ranks each network works on its rank's share of the examples, and the method sees what all of them
    made of the whole batch, on every rank: so any method, whatever of a batch it looks at, does what it does on one.

    Args:
        method: From `emphasis.baselines.make`.
        network: With C outputs, or C + method.extra_outputs.
        peer: A second network, started differently, if `method.networks` is 2.
        process_group: The ranks that work on each batch, all of which call alike, with the same inputs and states of
            torch's generators, and average their gradients, as DDP and FSDP do; None: this process alone.

    Attributes:
        examples_evaluated: How many examples the network was evaluated on without a derivative; a pass over the data is
            n of them.
        restarted_at: The share of all steps that had been taken when the network was last restarted; 0 if never.

    Raises:
        ValueError: The method needs a second network, or none; or features or maps that the network does not have.
    """

    examples_evaluated: Tensor
    restarted_at: Tensor

    def __init__(
        self, method: Baseline, network: nn.Module, peer: nn.Module | None = None, process_group: Any = None
    ) -> None:
        super().__init__()
        if (peer is not None) != (method.networks == 2):
            raise EmphasisValueError(
                f"{type(method).__name__} trains {method.networks} network(s); give peer=... only for two"
            )
        self.method, self.network, self.peer, self.process_group = method, network, peer, process_group
        self.register_buffer("examples_evaluated", torch.tensor(0))
        self.register_buffer("restarted_at", torch.tensor(0.0, dtype=torch.float64))
        self.register_load_state_dict_pre_hook(_rename_counters)  # type: ignore[no-untyped-call]
        for trained in filter(None, (network, peer)):
            method.prepare(trained)
        self.kept: nn.Module | None = None
        if "copy" in method.needs:
            self.kept = copy.deepcopy(network).requires_grad_(False)
        self._seen: dict[str, tuple[Tensor, int]] = {}
        self._number = 0  # of examples in the latest call, on all ranks
        self._calls = 0  # of networks in this step
        for what, layer_of in (("features", last_linear), ("feature_maps", last_pool)):
            if what in method.needs:
                # First of all: what the method itself does to the layer's input comes after.
                layer_of(network).register_forward_pre_hook(partial(self._note, what), prepend=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C) of the first network."""
        logits: Tensor = self.network(inputs)
        return logits[:, : self.method.num_classes]

    def loss(self, inputs: Tensor, indices: Tensor, progress: float) -> Tensor:
        """Return what the step is to minimize, a number.

        Args:
            inputs: (N, ...), on the method's device.
            indices: (N,) int64, places of the examples in the problem's labels.
            progress: Share of all steps that have been taken, in [0, 1).

        Raises:
            DivergedError: Logits are not finite (on the CPU; elsewhere the loss is not).
            ValueError: The network has fewer outputs than the method needs.
        """
        self._calls = 0
        network = self._counted(self.network)
        peer = None if self.peer is None else self._counted(self.peer)
        step = Step(inputs, self.method.labels[indices], indices, progress, network, peer, self.features, self.maps)
        return self.method.loss(step)

    def begin_epoch(self, number: int, progress: float, optimizer: Any, batches: Batches) -> None:
        """Let the method do what is due before an epoch.

        Args:
            number: 0, 1, ...
            progress: Share of all steps that have been taken.
            optimizer: Whose memory is emptied where the method starts the network anew.
            batches: Returns the inputs of the examples at given indices, or of all for None, in order and in batches.

        Raises:
            DivergedError: Logits of examples that the method looks at are not finite.
        """

        def survey(indices: Tensor | None = None) -> Predictions:
            return self._survey(batches(indices))

        def save_weights() -> None:
            self._kept().load_state_dict(self.network.state_dict())

        def restore_weights() -> None:
            self.network.load_state_dict(self._kept().state_dict())
            optimizer.state.clear()
            self.restarted_at.fill_(progress)

        self.method.begin_epoch(Epoch(number, progress, survey, save_weights, restore_weights))

    def features(self) -> Tensor:
        """Return what the last linear layer saw in the latest call of the network."""
        return self._noted("features")

    def maps(self) -> Tensor:
        """Return what the global average pool saw in the latest call of the network."""
        return self._noted("feature_maps")

    def _noted(self, what: str) -> Tensor:
        if what not in self._seen:
            raise EmphasisValueError(f'{type(self.method).__name__} must name "{what}" among its needs to use them')
        own, number = self._seen[what]
        return own if self.process_group is None else all_gather_rows(own, number, self.process_group)

    def _counted(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network's call, which takes note of examples that are looked at without a derivative."""

        def called(inputs: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                self.examples_evaluated += len(inputs)
            logits = self._checked(self._over_ranks(network, inputs))
            if logits.device.type == "cpu":
                _require_finite(logits)
            return logits

        return called

    def _over_ranks(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the network's logits of all inputs, of which each rank's network sees its part."""
        self._number = len(inputs)
        if self.process_group is None:
            own: Tensor = network(inputs)
            return own
        self._calls += 1
        with _own_draws(self.process_group, inputs.device, self._calls):
            own = network(inputs[rank_slice(self.process_group)])
        return all_gather_rows(own, len(inputs), self.process_group)

    def _checked(self, logits: Tensor) -> Tensor:
        """Return the logits, of which there must be as many columns as the method needs."""
        needed = self.method.num_classes + self.method.extra_outputs
        if logits.ndim != 2 or logits.shape[1] < needed:
            name, classes = type(self.method).__name__, self.method.num_classes
            raise EmphasisValueError(
                f"{name} needs a network of {needed} outputs ({classes} classes and "
                f"{needed - classes} more), got {tuple(logits.shape[1:])}"
            )
        return logits

    def _kept(self) -> nn.Module:
        if self.kept is None:
            raise EmphasisValueError(
                f'{type(self.method).__name__} must name "copy" among its needs to keep parameters'
            )
        return self.kept

    def _note(self, what: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen[what] = inputs[0], self._number

    @torch.no_grad()
    def _survey(self, batches: Iterable[Tensor]) -> Predictions:
        training = self.network.training
        self.network.eval()
        logits, features = [], []
        for inputs in batches:
            logits.append(self._checked(self._over_ranks(self.network, inputs)).float())
            _require_finite(logits[-1])
            if "features" in self.method.needs:
                features.append(self.features().float())
        self.network.train(training)
        self.examples_evaluated += sum(map(len, logits))
        return Predictions(torch.cat(logits), torch.cat(features) if features else None)


def _rename_counters(_learner: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Load checkpoints written when two counters had other names."""
    for old, new in (("surveyed", "examples_evaluated"), ("recalled", "restarted_at")):
        if f"{prefix}{old}" in state:
            state[f"{prefix}{new}"] = state.pop(f"{prefix}{old}")


@contextmanager
def _own_draws(group: Any, device: torch.device, call: int) -> Iterator[None]:
    """Let each rank draw for itself, dropout say, in each call anew; then all go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed = int(torch.randint(2**60, ()))
        torch.manual_seed(seed + call * torch.distributed.get_world_size(group) + torch.distributed.get_rank(group))
        yield


def _require_finite(logits: Tensor) -> None:
    if not bool(logits.detach().isfinite().all()):
        raise DivergedError("the network's logits are NaN or infinite; use a smaller learning rate")
