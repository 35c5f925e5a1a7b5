"""Validators name the argument, its value and what is allowed."""

import math

import numpy as np
import pytest

from emphasis.validation import (
    check_choice,
    check_flag,
    check_range,
    check_whole,
    checked_integer,
    checked_number,
    is_finite_number,
    is_number,
    is_whole,
)


@pytest.mark.parametrize("value", [0, -3, 10**40, np.int64(4), np.uint8(1)])
def test_whole_numbers_are_those_of_python_and_numpy(value):
    assert is_whole(value)
    assert is_number(value)


@pytest.mark.parametrize("value", [True, np.bool_(1), 1.0, "1", None, np.float32(2)])
def test_truth_values_texts_and_fractions_are_not_whole(value):
    assert not is_whole(value)
    assert is_number(value) == isinstance(value, float | np.floating)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_whole("top", 0, 1), "top=0 is not allowed; use a whole number, 1 or more"),
        (lambda: check_whole("top", 5, 1, 4), "top=5 is not allowed; use a whole number, 1 to 4"),
        (lambda: check_whole("top", True, 1), "top=True is not allowed"),
        (lambda: check_range("q", 1.0, 0.0, 1.0, ends="[)"), "q=1.0 is not allowed; use a number in [0, 1)"),
        (lambda: check_range("q", 0, 0.0, math.inf, ends="()"), "q=0 is not allowed; use a number in (0, inf)"),
        (lambda: check_range("q", math.nan, 0.0, 1.0), "q=nan is not allowed"),
        (lambda: check_range("q", "0.5", 0.0, 1.0), "q='0.5' is not allowed"),
        (lambda: check_flag("hard", 1), "hard=1 is not allowed; use true or false"),
        (lambda: check_choice("shape", "cos", ("linear", "cosine")), "shape='cos' is not allowed; use one of linear,"),
        (lambda: check_choice("shape", ["linear"], ("linear", "cosine")), "use one of linear, cosine"),
        (lambda: checked_number("GCE", "q", 1.5, 0.0, 1.0), "GCE: q=1.5 is not allowed; q must be in [0, 1]"),
        (
            lambda: checked_number("AEL", "a", 0, 0.0, ends="(]"),
            "AEL: a=0 is not allowed; a must be a finite number > 0",
        ),
        (lambda: checked_number("DM", "beta", 10**400), "beta must be a finite number"),
        (lambda: checked_number("DM", "beta", math.nan), "DM: beta=nan is not allowed"),
        (lambda: checked_integer("seed", -1, 0), "seed=-1 is not allowed; seed must be an integer >= 0"),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(call, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert message in str(caught.value)


def test_a_number_is_returned_as_a_float():
    assert type(checked_number("GCE", "q", np.float32(0.5), 0.0, 1.0)) is float
    for wrong in (True, "0.5", None, [0.5, 0.5]):
        with pytest.raises(TypeError, match="GCE: q must be a number, got"):
            checked_number("GCE", "q", wrong)


@pytest.mark.parametrize("value", [0, 1.5, -1e308, np.float32(2), np.int64(-3)])
def test_finite_numbers_are_those_that_float64_holds(value):
    assert is_finite_number(value)


@pytest.mark.parametrize("value", [10**400, math.inf, math.nan, True, "1", None])
def test_other_values_are_not_finite_numbers(value):
    assert not is_finite_number(value)


def test_an_integer_of_the_wrong_type_is_a_type_error():
    with pytest.raises(TypeError, match=r"seed=1\.5 is not allowed"):
        checked_integer("seed", 1.5, 0)
    assert type(checked_integer("seed", np.int32(3), 0)) is int
