import pytest
import torch

from emphasis.models.stacked import ACTIVATIONS, SingleNetwork, StackedMLP, at_own_rates
from emphasis.torch import EmphasisLoss
from emphasis.torch.functional import resolve
from emphasis.torch.stacked import stacked_derivative
from emphasis.weighting import DM, GCE, MAE

OBJECTIVES = [
    (MAE(), None, "auto"),
    (GCE(0.7), "integral", "auto"),
    (DM(lam=0.5, beta=12), "batch", 16.6),
    (DM(lam=0.5, beta=8, vanishing=True), "integral", "auto"),
]
SEEDS = [3, 4]
SIZES = [6, 7, 5, 4]


def _plain_network(stack, number):
    """Network `number` of the stack as an ordinary torch module."""
    activation = {"relu": torch.nn.ReLU, "sigmoid": torch.nn.Sigmoid, "tanh": torch.nn.Tanh}[stack.activation]
    layers = []
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        linear = torch.nn.Linear(*weight.shape[1:], dtype=weight.dtype)
        linear.weight.data = weight[number].detach().T.clone()
        linear.bias.data = bias[number, 0].detach().clone()
        layers += [linear, activation()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_stack_trains_as_its_networks_do_one_by_one(activation):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(10, len(SEEDS), 9, SIZES[0], generator=generator, dtype=torch.float64)
    labels = torch.randint(SIZES[-1], (10, len(SEEDS), 9), generator=generator)
    stack = StackedMLP(SIZES, SEEDS, len(OBJECTIVES), activation=activation, dtype=torch.float64)
    plain = [_plain_network(stack, number) for number in range(stack.num_networks)]
    options = [resolve(weighting, n, "mean", max_margin, None) for weighting, n, max_margin in OBJECTIVES]

    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1, momentum=0.9)
    for x, y in zip(inputs, labels, strict=True):
        optimizer.zero_grad()
        logits = stack(x)
        logits.backward(stacked_derivative(logits, y, options))
        optimizer.step()

    for number, network in enumerate(plain):
        weighting, normalization, max_margin = OBJECTIVES[number // len(SEEDS)]
        criterion = EmphasisLoss(weighting, normalization=normalization, max_margin=max_margin)
        own = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for x, y in zip(inputs[:, number % len(SEEDS)], labels[:, number % len(SEEDS)], strict=True):
            own.zero_grad()
            criterion(network(x), y).backward()
            own.step()
        for layer, linear in enumerate(network[::2]):
            torch.testing.assert_close(stack.weights[layer][number], linear.weight.T, rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(stack.biases[layer][number, 0], linear.bias, rtol=1e-11, atol=1e-12)


def test_a_network_starts_from_its_seed_alone():
    first, second = StackedMLP([3, 4], [0, 1], 2).weights[0], StackedMLP([3, 4], [1]).weights[0]
    assert torch.equal(first[0], first[2])
    assert torch.equal(first[1], second[0])
    assert not torch.equal(first[0], first[1])
    assert first.abs().max() <= 3**-0.5


@pytest.mark.parametrize("hidden", [[], [5]])
def test_shared_inputs_give_what_repeated_ones_do(hidden):
    stack = StackedMLP([3, *hidden, 2], [0, 1, 2], 2)
    inputs = torch.rand(1, 4, 3)
    logits = stack(inputs)
    assert logits.shape == (6, 4, 2)
    torch.testing.assert_close(logits, stack(inputs.expand(3, -1, -1)))


def test_a_stack_of_one_is_its_network():
    network = torch.nn.Linear(3, 2)
    inputs = torch.rand(1, 4, 3)
    assert torch.equal(SingleNetwork(network)(inputs)[0], network(inputs[0]))


def test_an_unknown_activation_names_the_known():
    with pytest.raises(ValueError, match="use one of relu, sigmoid, tanh"):
        StackedMLP([3, 2], [0], activation="swish")


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters, rate: torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda parameters, rate: torch.optim.Adam(parameters, rate, weight_decay=0.01),
        lambda parameters, rate: torch.optim.AdamW(parameters, rate, weight_decay=0.1),
    ],
    ids=["SGD", "Adam", "AdamW"],
)
def test_each_network_may_have_a_learning_rate_of_its_own(make):
    """It ends where it would have ended alone, at that rate; at the optimizer's it would not."""
    rates, generator = (0.05, 0.002, 0.01), torch.Generator().manual_seed(0)
    data = [torch.randn(1, 16, 4, generator=generator, dtype=torch.float64) for _ in range(6)]

    def trained(copies, rate, shares=()):
        stack = StackedMLP([4, 5, 3], [7], copies, dtype=torch.float64)
        optimizer = make(stack.parameters(), rate)
        if shares:
            at_own_rates(optimizer, shares)
        for inputs in data:
            optimizer.zero_grad()
            torch.nn.functional.softplus(stack(inputs)).mean((1, 2)).sum().backward()
            optimizer.step()
        return [parameter.detach() for parameter in stack.parameters()]

    together = trained(3, max(rates), [rate / max(rates) for rate in rates])
    for number, rate in enumerate(rates):
        for own, alone in zip(together, trained(1, rate), strict=True):
            torch.testing.assert_close(own[number : number + 1], alone, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(together[0][1:2], trained(1, max(rates))[0], rtol=1e-3)
