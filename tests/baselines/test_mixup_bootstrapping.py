"""MD-DYR-SH, and the mixture of two beta distributions that it fits to losses."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from clouds import CLASSES, N, learner, problem
from emphasis.baselines import _beta_mixture as beta_mixture
from emphasis.baselines import make


@given(
    a=st.floats(1.5, 4.0),
    b=st.floats(15.0, 40.0),
    c=st.floats(15.0, 40.0),
    d=st.floats(1.5, 4.0),
    share=st.floats(0.25, 0.75),
    seed=st.integers(0, 1000),
)
@settings(max_examples=15, deadline=None)
def test_beta_mixture_recovers_planted_components_that_lie_apart(a, b, c, d, share, seed):
    """Where they overlap much, the moments that the authors match instead of the likelihood are biased."""
    rng = np.random.default_rng(seed)
    low, high = rng.beta(a, b, 6000), rng.beta(c, d, 6000)
    many = int(share * 6000)
    values = torch.from_numpy(np.concatenate([low[:many], high[: 6000 - many]]))
    found = beta_mixture.fit(values, 60)
    np.testing.assert_allclose(found.means, [a / (a + b), c / (c + d)], atol=0.05)
    assert float(found.share[0]) == pytest.approx(share, abs=0.06)
    posterior = found.posterior(values)
    assert posterior[:many].mean() < 0.2
    assert posterior[many:].mean() > 0.8


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_posterior_rises_with_the_loss_and_lies_in_0_1(seed):
    rng = np.random.default_rng(seed)
    values = torch.from_numpy(rng.beta(rng.uniform(0.5, 3), rng.uniform(1, 9), 500))
    grid = torch.linspace(0.0, 1.0, 301)
    posterior = beta_mixture.fit(values).posterior(grid)
    assert ((posterior >= 0) & (posterior <= 1)).all()
    inside = posterior[1:-1]
    assert (inside[1:] >= inside[:-1] - 1e-9).all() or posterior[-1] >= posterior[0]


@pytest.mark.parametrize("values", [torch.full((50,), 0.3), torch.zeros(50), torch.ones(50)])
def test_beta_mixture_of_a_point_is_finite(values):
    found = beta_mixture.fit(values)
    assert torch.isfinite(found.alpha).all()
    assert torch.isfinite(found.posterior(values)).all()


def test_the_phases_and_the_temperature_of_mixup_bootstrapping_are_the_releases():
    """Of 300 epochs: 105 of mixup, 5 of dynamic mixup, then both losses; its temperature is 0.001 from 200 on."""
    method = make("mixup-bootstrapping", problem()[0])
    assert method.phase(0.5) == "mixup"  # no loss has been looked at
    method.known.fill_(True)
    begins = {
        phase: min(e for e in range(105, 300) if method.phase(e / 300) == phase)
        for phase in ("dynamic mixup", "bootstrapping")
    }
    assert begins == {"dynamic mixup": 105, "bootstrapping": 110}
    epochs = (0, 110, 155, 200, 299)
    assert [method.temperature(e / 300) for e in epochs] == pytest.approx([1.0, 1.0, 0.5005, 0.001, 0.001])


@pytest.mark.parametrize("phase", ["mixup", "dynamic mixup", "bootstrapping"])
def test_the_losses_of_mixup_bootstrapping(phase):
    """By the formulas of the release, from a network that gives the logits of whatever inputs it sees."""
    given_, inputs, _ = problem(noise=0.3)
    one = learner("mixup-bootstrapping", given_)
    method, progress = one.method, {"mixup": 0.1, "dynamic mixup": 0.351, "bootstrapping": 0.5}[phase]
    wrong = torch.linspace(0.1, 0.9, N)
    method.wrong.copy_(wrong)
    method.known.fill_(phase != "mixup")
    torch.manual_seed(3)
    found = one.loss(inputs, torch.arange(N), progress)
    torch.manual_seed(3)
    other, drawn = torch.randperm(N), float(torch.distributions.Beta(32.0, 32.0).sample())
    share = torch.full((N,), drawn) if phase == "mixup" else (1 - wrong) / (2 - wrong - wrong[other])
    with torch.no_grad():
        log_p = F.log_softmax(one(share[:, None] * inputs + (1 - share[:, None]) * inputs[other]), 1)
        z = F.softmax(one(inputs) / method.temperature(progress), 1)
    labels = given_.labels
    if phase != "bootstrapping":
        expected = drawn * F.nll_loss(log_p, labels) + (1 - drawn) * F.nll_loss(log_p, labels[other])
    else:
        each = -(1 - wrong) * log_p[torch.arange(N), labels] - wrong * (z * log_p).sum(1)
        other_each = -(1 - wrong[other]) * log_p[torch.arange(N), labels[other]] - wrong[other] * (
            z[other] * log_p
        ).sum(1)
        mean = log_p.exp().mean(0)
        expected = (0.5 * each + 0.5 * other_each).mean() + (1 / CLASSES * (1 / CLASSES / mean).log()).sum()
    torch.testing.assert_close(found.detach(), expected)


def test_beta_mixture_refuses_what_is_no_share():
    with pytest.raises(ValueError, match="scale them first"):
        beta_mixture.fit(torch.tensor([0.5, float("nan")]))
