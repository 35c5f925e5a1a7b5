"""The emphasis mode that goes with a noise rate, and weightings that change with progress."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emphasis.weighting import (
    CCE,
    DM,
    GCE,
    Measured,
    Normal,
    Ramp,
    Relative,
    default_schedule,
    lam_for,
    mode_for,
    scheduled,
)
from emphasis.weighting.schedule import schedule_from_dict, schedule_to_dict

rates = st.floats(0.0, 1.0)


@pytest.mark.parametrize(("rate", "lam"), [(0.0, 0.0), (0.2, 0.5), (0.4, 1.0), (0.6, 2.0), (0.8, 2.0), (1.0, 2.0)])
def test_at_the_papers_noise_rates_lam_is_the_papers(rate, lam):
    assert lam_for(rate) == pytest.approx(lam, abs=1e-12)


@given(rates, rates)
def test_the_more_noise_the_easier_the_examples_emphasised(one, other):
    low, high = sorted((one, other))
    assert 0.0 <= mode_for(low) <= mode_for(high) <= 2 / 3


@given(rates)
def test_the_mode_of_dm_with_that_lam_is_that_mode(rate):
    assert DM(lam=lam_for(rate), beta=4).mode == pytest.approx(mode_for(rate), abs=1e-12)


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_what_is_no_rate_is_an_error(rate):
    with pytest.raises(ValueError, match=r"noise_rate=.* is not allowed; use a number in \[0, 1\]"):
        mode_for(rate)


STEP = Ramp(0, 1, "step", until=0.2)
numbers = st.floats(-20.0, 20.0)
progresses = st.floats(0.0, 1.0)


@given(numbers, numbers, st.sampled_from(["linear", "cosine"]), progresses, progresses)
def test_a_ramp_goes_from_start_to_end_and_never_back(start, end, shape, one, other):
    ramp = Ramp(start, end, shape)
    assert ramp.at(0.0) == start
    assert ramp.at(1.0) == pytest.approx(end, abs=1e-12)
    early, late = ramp.at(min(one, other)), ramp.at(max(one, other))
    low, high = min(start, end), max(start, end)
    assert low - 1e-12 <= early <= high + 1e-12
    assert (late - early) * (end - start) >= -1e-9


@given(numbers, numbers, progresses)
def test_linear_and_cosine_are_their_formulas_stage_by_stage(start, end, progress):
    s = math.floor(progress * 100) / 100
    assert Ramp(start, end).at(progress) == pytest.approx(start + (end - start) * s, abs=1e-12)
    cosine = start + (end - start) * (1 - math.cos(math.pi * s)) / 2
    assert Ramp(start, end, "cosine").at(progress) == pytest.approx(cosine, abs=1e-12)


@given(numbers, numbers, st.floats(0.01, 0.99), progresses)
def test_a_step_changes_once(start, end, until, progress):
    s = math.floor(progress * 100) / 100
    assert Ramp(start, end, "step", until).at(progress) == (start if s < until else end)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_training_with_relative_begins_with_cross_entropy(q, doubt, progress):
    weighting = Relative(q=q, doubt=doubt)
    current = scheduled(weighting, default_schedule(weighting), progress)
    assert current == (Relative(q=0.0, doubt=doubt) if progress < 0.2 else Relative(q=q, doubt=0.0))
    assert default_schedule(DM()) == default_schedule(CCE()) == {}


@given(st.floats(0.0, 4.0), st.floats(-8.0, 8.0), progresses)
def test_a_constant_schedule_is_the_weighting_itself(lam, beta, progress):
    weighting = DM(lam=lam, beta=beta)
    for ramp in (Ramp(lam), Ramp(lam, lam, "cosine"), Ramp(lam, shape="constant")):
        assert scheduled(weighting, {"lam": ramp}, progress) is weighting
    assert scheduled(weighting, {}, progress) is weighting


def test_what_is_not_scheduled_stays():
    weighting = DM(lam=0.5, beta=4, vanishing=True)
    assert scheduled(weighting, {"beta": Ramp(4, 12)}, 0.5) == DM(lam=0.5, beta=8, vanishing=True)
    assert scheduled(GCE(0.7), {"q": Ramp(0.2, 0.7)}, 0.0) == GCE(0.2)
    assert scheduled(Normal(psi=0.2, beta=3), {"psi": Ramp(0, 0.5)}, 1.0) == Normal(psi=0.5, beta=3)


def test_a_measured_lam_is_that_of_the_noise_rate_once_it_is_known():
    weighting = DM(lam=1, beta=4)
    schedule = {"lam": Measured(start=0.25)}
    assert scheduled(weighting, schedule, 0.3) == DM(lam=0.25, beta=4)
    assert scheduled(weighting, schedule, 0.3, noise_rate=0.4) is weighting
    assert scheduled(weighting, schedule, 0.3, noise_rate=0.2) == DM(lam=0.5, beta=4)


@given(st.sampled_from([Ramp(0, 1), Ramp(2.5), Ramp(1, 3, "cosine"), Ramp(1, shape="constant"), STEP, Measured(0.1)]))
def test_a_schedule_survives_its_table(what):
    assert schedule_from_dict(schedule_to_dict({"lam": what})) == {"lam": what}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Ramp(math.nan), "start=nan is not allowed; use a finite number"),
        (lambda: Ramp(0, math.inf), "end=inf is not allowed"),
        (lambda: Ramp(0, 1, "cubic"), "use one of constant, linear, cosine, step"),
        (lambda: Ramp(0, 1, "step"), "until=None is not allowed; use a number between 0 and 1"),
        (lambda: Ramp(0, 1, "step", until=1), "until=1 is not allowed"),
        (lambda: Ramp(0, 1, until=0.5), 'until=0.5 is not allowed; omit it, or use the shape "step"'),
        (lambda: Ramp(0, 1, "constant"), "a constant ends where it starts"),
        (lambda: Measured(-1), "start=-1 is not allowed"),
        (lambda: scheduled(DM(), {"gamma": Ramp(1)}, 0.0), "has no parameter 'gamma' to schedule; it has lam, beta"),
        (lambda: scheduled(DM(vanishing=True), {"vanishing": Ramp(1)}, 0.0), "no parameter 'vanishing'"),
        (lambda: scheduled(CCE(), {"q": Ramp(1)}, 0.0), "it has none"),
        (lambda: scheduled(DM(), {"beta": Measured()}, 0.0), "beta cannot follow the measured noise rate"),
        (lambda: scheduled(DM(), {"lam": Ramp(-1, 1)}, 0.0), "lam"),
        (lambda: scheduled(DM(), {"lam": Ramp(0, 1)}, 1.5), "progress=1.5 is not allowed"),
        (lambda: scheduled(DM(), {"lam": Measured()}, 0.5, 1.5), "noise_rate=1.5 is not allowed"),
        (lambda: schedule_from_dict({"lam": 3}), "must be a table"),
        (lambda: schedule_from_dict({"lam": {"end": 3}}), "needs a start; it takes start, end, shape"),
        (lambda: schedule_from_dict({"lam": {"start": 3, "stop": 1}}), "has no setting 'stop'"),
    ],
)
def test_what_is_no_schedule_is_an_error_with_the_cure(call, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        call()
