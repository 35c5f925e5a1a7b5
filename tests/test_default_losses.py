"""The losses of benchmarks/defaults.py, which are formulas of its own, are those of the library."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from emphasis import CCE, DM, GCE, SCE, Relative
from emphasis.baselines.active_passive import ActivePassive
from emphasis.baselines.elr import ELR
from emphasis.baselines.label_smoothing import LabelSmoothing
from emphasis.baselines.protocol import Problem, Step
from emphasis.torch import emphasis_loss

_PATH = Path(__file__).parents[1] / "benchmarks" / "defaults_methods.py"
_SPEC = importlib.util.spec_from_file_location("defaults_methods", _PATH)
assert _SPEC is not None
assert _SPEC.loader is not None
bench = importlib.util.module_from_spec(_SPEC)
sys.modules["defaults_methods"] = bench  # dataclasses look their module up
_SPEC.loader.exec_module(bench)

CLASSES = 7
LABELS = torch.arange(21) % CLASSES
PROBLEM = Problem(LABELS, CLASSES)


def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (3.0 * torch.randn(21, CLASSES, generator=generator, dtype=torch.float64)).requires_grad_()


def derivative(name: str) -> Tensor:
    method = {method.name: method for method in [*bench.dm_and_gce(), *bench.methods()]}[name]
    method.start(1, CLASSES, 21)
    S = logits().detach().softmax(1)[None]
    return method.derivative(bench.Batch(S, LABELS, torch.arange(21)))[0] / 21


@pytest.mark.parametrize(
    ("name", "weighting", "normalization"),
    [
        ("CCE", CCE(), "integral"),
        ("GCE 0.7", GCE(0.7), "integral"),
        ("above prior 1", Relative(doubt=0.0), "integral"),
        ("above prior 0.7", Relative(q=0.7, doubt=0.0), "integral"),
        ("doubt above prior 1", Relative(), "integral"),
        ("SCE", SCE(mu=0.1, nu=1.0), None),
        ("DM(0.5, 12)", DM(lam=0.5, beta=12), "integral"),
        ("DM(0.5, 4)", DM(lam=0.5, beta=4), "integral"),
        ("vanishing DM(0.5, 4)", DM(lam=0.5, beta=4, vanishing=True), "integral"),
    ],
)
def test_weightings_are_the_library_s(name: str, weighting, normalization) -> None:
    z = logits()
    emphasis_loss(z, LABELS, weighting, normalization=normalization).backward()
    torch.testing.assert_close(derivative(name), z.grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "baseline"),
    [("label smoothing", LabelSmoothing), ("NCE+RCE", ActivePassive), ("ELR", ELR)],
)
def test_other_methods_are_the_library_s(name: str, baseline) -> None:
    z, method = logits(), baseline(PROBLEM)
    if name == "ELR":
        method.loss(Step(z, LABELS, torch.arange(21), progress=0.0, network=lambda inputs: inputs)).backward()
    else:
        method.example_losses(z, LABELS).mean().backward()
    torch.testing.assert_close(derivative(name), z.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "name", ["Relative 0.5", "Relative 0.7, 1.5", "above prior 1", "doubt 0.7", "doubt above prior 1"]
)
def test_relative_is_cross_entropy_where_the_network_agrees_and_never_pushes_harder(name: str) -> None:
    p = logits().detach().softmax(1)
    push, relative = derivative("CCE"), derivative(name)
    agrees = p.argmax(1) == LABELS
    assert agrees.any()
    assert not agrees.all()
    torch.testing.assert_close(relative[agrees], push[agrees], rtol=0, atol=0)
    assert (relative[~agrees].abs() <= push[~agrees].abs()).all()
    assert (relative[~agrees].abs() < push[~agrees].abs()).any()


def test_above_prior_is_cross_entropy_while_the_network_knows_the_classes_frequencies_alone() -> None:
    S = torch.tensor([0.9, 0.1], dtype=torch.float64).expand(1, 10, 2)
    batch = bench.Batch(S, torch.tensor([0] * 9 + [1]), torch.arange(10))
    (method,) = (method for method in bench.candidates() if method.name == "above prior 1")
    torch.testing.assert_close(method.derivative(batch), batch.push, rtol=0, atol=0)


def test_the_warm_up_ends_with_cross_entropys_mean_push() -> None:
    (method,) = (method for method in bench.known_methods() if method.warms_up)
    p = torch.linspace(0.05, 0.95, 50, dtype=torch.float64)[None]
    method.start(1, CLASSES, 50)
    method.switch(p)
    pushes = 2.0 * (1.0 - p) * method.scale * method.ratio(p)
    torch.testing.assert_close(pushes.mean(), (2.0 * (1.0 - p)).mean())


def test_after_the_warm_up_a_form_is_itself_and_before_cross_entropy() -> None:
    batch = bench.Batch(logits().detach().softmax(1)[None], LABELS, torch.arange(21))
    plain = {method.name: method for method in bench.candidates()}
    for method in bench.after_warm_up():
        method.start(1, CLASSES, 50)
        assert method.derivative(batch) is batch.push
        method.switch(batch.p)
        expected = plain[method.name.removesuffix(" after warm-up")].derivative(batch)
        torch.testing.assert_close(method.derivative(batch), expected, rtol=0, atol=0)
