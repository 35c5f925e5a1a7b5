"""`Learner`: a network, or two, with the method that trains it, for any training loop."""

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
    """The logits of the network are NaN or infinite: training has diverged."""


class Learner(nn.Module):
    """Trains a network with a method.

    A loop calls `begin_epoch` at the start of each epoch, `loss` in each step, and `discard_fixed_gradients` between
    `backward` and the step of the optimizer. As a module it maps inputs to the logits (N, C) of the first network.

    With several ranks each network computes its rank's share of the examples, and the method gets the outputs for the
    whole batch on every rank, so that its result is that of a single process.

    Args:
        method: The method, from `emphasis.baselines.make`.
        network: Network with C outputs, or C + method.extra_outputs.
        peer: Second network, with other initial parameters, if `method.networks` is 2.
        process_group: Ranks that compute each batch. They make the same calls with the same inputs and states of
            torch's generators, and average their gradients, as with DDP and FSDP. None for a single process.

    Attributes:
        examples_evaluated: Number of examples that the network was evaluated on without a derivative; n for each pass
            over the data.
        restarted_at: Share of the steps that had been taken when the network was last restarted; 0 if it never was.

    Raises:
        ValueError: The number of networks is not that of the method, or the network does not have the features or
            feature maps that the method needs.
    """

    examples_evaluated: Tensor
    restarted_at: Tensor

    def __init__(
        self, method: Baseline, network: nn.Module, peer: nn.Module | None = None, process_group: Any = None
    ) -> None:
        super().__init__()
        if (peer is not None) != (method.networks == 2):
            raise EmphasisValueError(
                f"{type(method).__name__} trains {method.networks} network(s); pass peer=... only for two"
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
        self._number = 0  # number of examples in the latest call, on all ranks
        self._calls = 0  # number of calls of networks in this step
        for need, layer_of in (("features", last_linear), ("feature_maps", last_pool)):
            if need in method.needs:
                # The first hook, before hooks of the method that change the input of the layer.
                layer_of(network).register_forward_pre_hook(partial(self._record, need), prepend=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C) of the first network."""
        logits: Tensor = self.network(inputs)
        return logits[:, : self.method.num_classes]

    def loss(self, inputs: Tensor, indices: Tensor, progress: float) -> Tensor:
        """Return the scalar that a step minimizes.

        Args:
            inputs: Inputs of the examples, (N, ...), on the device of the method.
            indices: Indices of the examples in the labels of the problem, (N,) int64.
            progress: Share of the steps that have been taken, in [0, 1).

        Raises:
            DivergedError: Logits are not finite. On the CPU only; elsewhere the loss is not finite.
            ValueError: The network has fewer outputs than the method needs.
        """
        self._calls = 0
        network = self._counted(self.network)
        peer = None if self.peer is None else self._counted(self.peer)
        step = Step(inputs, self.method.labels[indices], indices, progress, network, peer, self.features, self.maps)
        return self.method.loss(step)

    def begin_epoch(self, number: int, progress: float, optimizer: Any, batches: Batches) -> None:
        """Let the method prepare an epoch.

        Args:
            number: Number of the epoch, from 0.
            progress: Share of the steps that have been taken, in [0, 1).
            optimizer: Optimizer, the state of which is cleared if the method restarts the network.
            batches: Function that returns the inputs of examples in batches, given by index, or of all examples if
                None.

        Raises:
            DivergedError: Logits of examples that the method evaluates are not finite.
        """

        def survey(indices: Tensor | None = None) -> Predictions:
            return self._survey(batches(indices))

        def save_weights() -> None:
            self._kept().load_state_dict(self.network.state_dict())

        def restore_weights() -> None:
            self.network.load_state_dict(self._kept().state_dict())
            optimizer.state.clear()
            self.restarted_at.fill_(progress)

        def clear_state(parameters: Iterable[nn.Parameter]) -> None:
            for parameter in parameters:
                optimizer.state.pop(parameter, None)

        self.method.begin_epoch(Epoch(number, progress, survey, save_weights, restore_weights, clear_state))

    def discard_fixed_gradients(self, progress: float) -> None:
        """Set the gradients of the parameters that the method leaves as they are in this step to None.

        Without a gradient an optimizer does not change them, by momentum and weight decay neither.

        Args:
            progress: Share of the steps that have been taken, in [0, 1).
        """
        for parameter in self.method.fixed_parameters(progress):
            parameter.grad = None

    def features(self) -> Tensor:
        """Return the inputs of the last linear layer in the latest call of the network."""
        return self._recorded("features")

    def maps(self) -> Tensor:
        """Return the inputs of the global average pool in the latest call of the network."""
        return self._recorded("feature_maps")

    def _recorded(self, need: str) -> Tensor:
        if need not in self._seen:
            raise EmphasisValueError(f'{type(self.method).__name__} must list "{need}" in its needs to use them')
        rows, number = self._seen[need]
        return rows if self.process_group is None else all_gather_rows(rows, number, self.process_group)

    def _counted(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return a function that calls a network and counts examples that are evaluated without a derivative."""

        def called(inputs: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                self.examples_evaluated += len(inputs)
            logits = self._checked(self._over_ranks(network, inputs))
            if logits.device.type == "cpu":
                _require_finite(logits)
            return logits

        return called

    def _over_ranks(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Return the logits of a network for all inputs, of which each rank computes its share."""
        self._number = len(inputs)
        if self.process_group is None:
            logits: Tensor = network(inputs)
            return logits
        self._calls += 1
        with _own_draws(self.process_group, inputs.device, self._calls):
            rows = network(inputs[rank_slice(self.process_group)])
        return all_gather_rows(rows, len(inputs), self.process_group)

    def _checked(self, logits: Tensor) -> Tensor:
        """Check that there are as many logits as the method needs, and return them."""
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
            raise EmphasisValueError(f'{type(self.method).__name__} must list "copy" in its needs to save parameters')
        return self.kept

    def _record(self, need: str, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._seen[need] = inputs[0], self._number

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
    """Let each rank draw its own random numbers, such as those of dropout, and restore the generators afterwards."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        seed = int(torch.randint(2**60, ()))
        torch.manual_seed(seed + call * torch.distributed.get_world_size(group) + torch.distributed.get_rank(group))
        yield


def _require_finite(logits: Tensor) -> None:
    if not bool(logits.detach().isfinite().all()):
        raise DivergedError("the logits of the network are NaN or infinite; use a smaller learning rate")
