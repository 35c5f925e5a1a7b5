"""A network, or two, with the method that trains it: what a loop needs, whether this package's or one's own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from emphasis.baselines.protocol import Baseline, Epoch, Step, Survey

Batches = Callable[[Tensor | None], Iterable[Tensor]]


class Learner(nn.Module):
    """Trains a network by a method, in any loop: `begin_epoch` at an epoch's start, `loss` in every step.

    Called with inputs it returns the first network's logits (N, C).

    Args:
        method: From `emphasis.baselines.make`.
        network: With C outputs, or C + method.extra_outputs.
        peer: A second network, started differently, if `method.networks` is 2.

    Attributes:
        surveyed: How many examples the method has looked at without a derivative, a pass over the data being n.

    Raises:
        ValueError: The method needs a second network, or none; or features, of a network without a linear layer.
    """

    surveyed: Tensor

    def __init__(self, method: Baseline, network: nn.Module, peer: nn.Module | None = None) -> None:
        super().__init__()
        if (peer is not None) != (method.networks == 2):
            raise ValueError(f"{type(method).__name__} trains {method.networks} network(s); give peer=... only for two")
        self.method, self.network, self.peer = method, network, peer
        self.register_buffer("surveyed", torch.tensor(0))
        for one in filter(None, (network, peer)):
            method.prepare(one)
        self.kept: nn.Module | None = None
        if "copy" in method.needs:
            self.kept = copy.deepcopy(network).requires_grad_(False)
        self._features: Tensor | None = None
        if "features" in method.needs:
            linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
            if not linear:
                raise ValueError(f"{type(method).__name__} needs the features before a last nn.Linear, of which the "
                                 "network has none")  # fmt: skip
            linear[-1].register_forward_pre_hook(self._note_features)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C) of the first network."""
        logits: Tensor = self.network(inputs)
        return logits[:, : self.method.num_classes]

    def loss(self, inputs: Tensor, indices: Tensor, progress: float) -> Tensor:
        """Return what the step is to minimise, a number.

        Args:
            inputs: (N, ...), on the method's device.
            indices: (N,) int64, places of the examples in the problem's labels.
            progress: Share of all steps that have been taken, in [0, 1).
        """
        network = self._counted(self.network)
        peer = None if self.peer is None else self._counted(self.peer)
        step = Step(inputs, self.method.labels[indices], indices, progress, network, peer, self.features)
        return self.method.loss(step)

    def begin_epoch(self, number: int, progress: float, optimizer: Any, batches: Batches) -> None:
        """Let the method do what is due before an epoch.

        Args:
            number: 0, 1, ...
            progress: Share of all steps that have been taken.
            optimizer: Whose memory is emptied where the method starts the network anew.
            batches: Returns the inputs of the examples at given indices, or of all for None, in order and in batches.
        """

        def survey(indices: Tensor | None = None) -> Survey:
            return self._survey(batches(indices))

        def keep() -> None:
            self._kept().load_state_dict(self.network.state_dict())

        def recall() -> None:
            self.network.load_state_dict(self._kept().state_dict())
            optimizer.state.clear()

        self.method.begin_epoch(Epoch(number, progress, survey, keep, recall))

    def features(self) -> Tensor:
        """Return what the last linear layer saw in the latest call of the network."""
        if self._features is None:
            raise ValueError(f'{type(self.method).__name__} must name "features" among its needs to use them')
        return self._features

    def _counted(self, network: nn.Module) -> Callable[[Tensor], Tensor]:
        """Return the network's call, which takes note of examples that are looked at without a derivative."""

        def called(inputs: Tensor) -> Tensor:
            if not torch.is_grad_enabled():
                self.surveyed += len(inputs)
            logits: Tensor = network(inputs)
            return logits

        return called

    def _kept(self) -> nn.Module:
        if self.kept is None:
            raise ValueError(f'{type(self.method).__name__} must name "copy" among its needs to keep parameters')
        return self.kept

    def _note_features(self, _layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._features = inputs[0]

    @torch.no_grad()
    def _survey(self, batches: Iterable[Tensor]) -> Survey:
        training = self.network.training
        self.network.eval()
        logits, features = [], []
        for inputs in batches:
            logits.append(self.network(inputs).float())
            if "features" in self.method.needs:
                features.append(self.features().float())
        self.network.train(training)
        self.surveyed += sum(map(len, logits))
        return Survey(torch.cat(logits), torch.cat(features) if features else None)
