"""Optimisers and schedules against the formulas of Caffe's solvers, written out."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from emphasis.learning_rate import cosine
from emphasis.training.optimizers import apply_schedule, make_optimizer
from emphasis.training.settings import Schedule, Solver

STEPS = 12


def _gradient(x):
    return torch.tensor([2.0, -0.5, 0.01], dtype=torch.float64) * x + 0.3 * x.sin()


def _run(solver):
    x = torch.nn.Parameter(torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64))
    optimizer = make_optimizer([x], solver)
    for iteration in range(STEPS):
        apply_schedule(optimizer, solver, iteration)
        x.grad = _gradient(x.detach())
        optimizer.step()
    return x.detach()


@given(st.floats(1e-8, 2.0), st.floats(0.0, 0.1), st.floats(0.0, 0.99), st.floats(0.5, 0.9999))
def test_adams_delta_means_what_it_does_in_caffe(delta, weight_decay, beta1, beta2):
    solver = Solver(
        iterations=STEPS,
        batch_size=1,
        learning_rate=0.05,
        name="adam",
        delta=delta,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
    )
    x, m, v = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 0.0, 0.0
    for t in range(1, STEPS + 1):
        g = _gradient(x) + weight_decay * x
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        x = x - 0.05 * math.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (v.sqrt() + delta)
    torch.testing.assert_close(_run(solver), x, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_with_momentum_and_weight_decay(nesterov):
    solver = Solver(
        iterations=STEPS,
        batch_size=1,
        learning_rate=0.05,
        momentum=0.9,
        nesterov=nesterov,
        weight_decay=0.01,
        schedule=Schedule("step", at=(4, 8), factor=0.5),
    )
    x, velocity = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64), 0.0
    for iteration in range(STEPS):
        rate = 0.05 * 0.5 ** ((iteration >= 4) + (iteration >= 8))
        g = _gradient(x) + 0.01 * x
        velocity = 0.9 * velocity + g
        x = x - rate * (g + 0.9 * velocity if nesterov else velocity)
    torch.testing.assert_close(_run(solver), x, rtol=1e-12, atol=1e-14)


def test_schedules():
    inv = Schedule("inv", gamma=1e-5, power=0.75)
    assert [inv.scale(i) for i in (0, 10_000)] == pytest.approx([1.0, 1.1**-0.75])
    step = Schedule("step", at=(15_000, 22_000), factor=0.1)
    assert [step.scale(i) for i in (0, 14_999, 15_000, 22_000)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert Schedule().scale(10**6) == 1.0
    assert [Schedule("cosine").scale(i, 1000) for i in (0, 24, 500, 1000)] == pytest.approx(
        [0.02, 0.5 * 0.99858, 0.5, 0.0], abs=1e-4
    )


def test_a_schedule_that_ends_takes_smaller_and_smaller_steps():
    x = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
    solver = Solver(iterations=40, batch_size=1, learning_rate=0.1, schedule=Schedule("cosine"))
    optimizer = make_optimizer([x], solver)
    steps = []
    for iteration in range(40):
        before = x.item()
        apply_schedule(optimizer, solver, iteration)
        x.grad = torch.ones_like(x)
        optimizer.step()
        steps.append(before - x.item())
    assert steps == pytest.approx([0.1 * cosine(iteration, 40) for iteration in range(40)])
    assert steps[-1] < 0.001 < 0.09 < max(steps)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"policy": "triangle"}, "policy"),
        ({"policy": "step", "at": (5, 5)}, "at"),
        ({"at": (0,)}, "at"),
        ({"factor": 0.0}, "factor"),
        ({"gamma": -1.0}, "gamma"),
        ({"power": math.inf}, "power"),
    ],
)
def test_schedules_are_checked(changes, named):
    with pytest.raises(ValueError, match=f"^{named}="):
        Schedule(**changes)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"iterations": 0}, "iterations"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"nesterov": True}, "nesterov"),
        ({"name": "lion"}, "name"),
        ({"name": "adam", "momentum": 0.9}, "momentum"),
        ({"delta": 0.0}, "delta"),
        ({"betas": (0.9,)}, "betas"),
        ({"weight_decay": -1e-4}, "weight_decay"),
    ],
)
def test_solvers_are_checked(changes, named):
    with pytest.raises(ValueError, match=f"^{named}="):
        Solver(**{"iterations": 1, "batch_size": 1, "learning_rate": 0.1, **changes})
