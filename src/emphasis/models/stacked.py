"""Many networks of one shape as one module: their parameters are stacked, and each layer is one batched product.

The networks are independent: network s of the stack computes and learns the same as it would alone. On a CPU this is
many times faster than one network after another, whose matrices are too small to keep the cores busy.

A stack of S networks takes inputs (K, N, ...) with K a divisor of S, and network m * K + k sees inputs[k]: so S / K
methods share the batches of K seeds. With K = 1, all networks see the same examples.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from emphasis.errors import EmphasisValueError

ACTIVATIONS = {"relu": torch.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class StackedMLP(nn.Module):
    """A stack of copies * len(seeds) multilayer perceptrons, initialized like nn.Linear, uniform in +-1/sqrt(fan-in).

    The initial parameters of network `copy * len(seeds) + k` depend on `seeds[k]` only, so all copies are equal at
    first.

    Args:
        layer_sizes: Sizes [inputs, hidden, ..., classes], at least two.
        seeds: One integer per network of a copy.
        copies: Number of copies.
        activation: Activation of the hidden layers: "relu", "sigmoid" or "tanh".
        dtype: Type of the parameters, which are drawn in float64, so that all types start from the same values.

    Raises:
        ValueError: The activation is unknown.
    """

    def __init__(
        self,
        layer_sizes: Sequence[int],
        seeds: Sequence[int],
        copies: int = 1,
        *,
        activation: str = "relu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise EmphasisValueError(f"activation={activation!r} is not allowed; use one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.num_networks = copies * len(seeds)
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for fan_in, fan_out in itertools.pairwise(layer_sizes):
            for parameters, shape in ((self.weights, (fan_in, fan_out)), (self.biases, (1, fan_out))):
                drawn = [torch.rand(shape, generator=g, dtype=torch.float64) for g in generators]
                initial = (2.0 * torch.stack(drawn) - 1.0) / fan_in**0.5
                parameters.append(nn.Parameter(initial.to(dtype).repeat(copies, 1, 1)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (S, N, C) for inputs (K, N, ...), each example flattened."""
        inputs = inputs.flatten(2)
        seeds, examples, width = inputs.shape
        first = self.weights[0]
        # Networks with the same inputs are computed by one product of large matrices instead of many small ones.
        joined = first.view(-1, seeds, width, first.shape[2]).permute(1, 2, 0, 3).flatten(2)
        hidden = torch.bmm(inputs, joined).view(seeds, examples, -1, first.shape[2])
        hidden = hidden.permute(2, 0, 1, 3).reshape(self.num_networks, examples, -1)
        activations: Tensor = hidden + self.biases[0]
        for weight, bias in zip(self.weights[1:], self.biases[1:], strict=True):
            activations = torch.baddbmm(bias, ACTIVATIONS[self.activation](activations), weight)
        return activations

    def features(self, inputs: Tensor) -> Tensor:
        """Return the inputs of the last layer, (S, N, width), for inputs (K, N, ...)."""
        hidden = inputs.flatten(2).repeat(self.num_networks // len(inputs), 1, 1)
        for weight, bias in list(zip(self.weights, self.biases, strict=True))[:-1]:
            hidden = ACTIVATIONS[self.activation](torch.baddbmm(bias, hidden, weight))
        return hidden


def at_own_rates(
    optimizer: torch.optim.Optimizer,
    rates: Sequence[float],
    held: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = lambda parameter, of_networks: (parameter, of_networks),
) -> None:
    """Train each network of a stack at its own learning rate.

    After each step of the optimizer, the change of network s is scaled by `rates[s]`. This is equivalent to a scaled
    learning rate for optimizers whose steps are proportional to it, such as SGD, Adam and AdamW.

    Args:
        optimizer: Optimizer of the parameters of a stack.
        rates: Learning rate of each network, as a share of the optimizer's.
        held: Returns the parts of a parameter and of per-network values that are on this rank.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    shares = torch.tensor(rates, dtype=parameters[0].dtype, device=parameters[0].device)
    before: list[Tensor] = []

    def save_before(*_: object) -> None:
        before[:] = [held(parameter, shares)[0].detach().clone() for parameter in parameters]

    @torch.no_grad()
    def scale_change(*_: object) -> None:
        for parameter, old in zip(parameters, before, strict=True):
            local, share = held(parameter, shares)
            local.copy_(old.lerp(local, share.to(local).view(-1, *[1] * (local.ndim - 1))))

    optimizer.register_step_pre_hook(save_before)
    optimizer.register_step_post_hook(scale_change)


@torch.no_grad()
def init_like_stack(network: nn.Module, seed: int) -> None:
    """Initialize a multilayer perceptron with the parameters of a network of that seed in a `StackedMLP`."""
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    stack = StackedMLP([layers[0].in_features, *(layer.out_features for layer in layers)], [seed])
    for layer, weight, bias in zip(layers, stack.weights, stack.biases, strict=True):
        layer.weight.copy_(weight[0].T)
        layer.bias.copy_(bias[0, 0])


class SingleNetwork(nn.Module):
    """A stack that contains a single network (N, ...) -> (N, C), and maps (1, N, ...) to (1, N, C)."""

    num_networks = 1

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (1, N, C) for inputs (1, N, ...)."""
        logits: Tensor = self.network(inputs.squeeze(0))
        return logits.unsqueeze(0)


Stack = StackedMLP | SingleNetwork
