"""Weightings as objects: algebra, text, dictionaries, users' functions, and every refusal."""

import copy
import math
import pickle
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import emphasis.weighting as ew
from emphasis import (
    CCE,
    DM,
    GCE,
    IMAE,
    MAE,
    MSE,
    SCE,
    Beta,
    Focal,
    Normal,
    Spline,
    Uniform,
    from_dict,
    from_function,
    from_loss,
)
from emphasis.errors import EmphasisError
from emphasis.weighting import AUTO_MAX_MARGIN, FAMILIES, EmphasisWarning, Scaled, Sum, as_weighting
from emphasis.weighting.serialise import imported, is_named, named_from_dict
from reference import CASES, minus_log, polynomial, polynomial_q, weightings

P = np.linspace(0.01, 0.99, 50)


def nested(depth):
    """A dictionary of scalings within each other."""
    table = {"family": "CCE"}
    for _ in range(depth):
        table = {"family": "Scaled", "factor": 2.0, "weighting": table}
    return table


# --- text, dictionaries, equality ---------------------------------------------------------------


@given(st.lists(weightings(), min_size=1, max_size=3), st.floats(0.1, 10))
def test_repr_and_dictionary_give_the_weighting_back(terms, factor):
    weighting = sum(terms, start=0)
    for each in (terms[0], weighting, factor * weighting, factor * weighting + terms[0]):
        assert eval(repr(each), vars(ew)) == each
        again = from_dict(each.to_dict())
        assert again == each
        assert hash(again) == hash(each)
        assert pickle.loads(pickle.dumps(each)) == each
        assert copy.deepcopy(each) == each


def test_repr_is_what_a_person_writes():
    assert repr(DM(lam=0.5, beta=12)) == "DM(lam=0.5, beta=12.0)"
    assert repr(DM(lam=0.5, beta=12, vanishing=True)) == "DM(lam=0.5, beta=12.0, vanishing=True)"
    assert repr(CCE() + 0.5 * MAE()) == "CCE() + 0.5 * MAE()"
    assert repr(2 * (CCE() + MAE())) == "2.0 * (CCE() + MAE())"
    assert DM(lam=0.5, beta=12).to_dict() == {"family": "DM", "lam": 0.5, "beta": 12.0}


def test_equality_is_by_value():
    assert DM(lam=1, beta=2) == DM(lam=1.0, beta=2.0)
    assert DM(lam=1, beta=2) != DM(lam=1, beta=2, vanishing=True)
    assert GCE(0.5) != Focal(0.5)
    assert len({CCE(), CCE(), MAE()}) == 2
    assert from_function(polynomial) == from_function(polynomial)


def test_families_by_name_dictionary_and_function():
    assert as_weighting("CCE") == CCE()
    assert as_weighting({"family": "DM", "lam": 0.5, "beta": 12}) == DM(lam=0.5, beta=12)
    assert from_dict({"family": "IMAE", "T": 8}) == IMAE(8)
    assert from_dict({"family": "Uniform"}) == Uniform()
    assert as_weighting(polynomial) == from_function(polynomial)
    weighting = GCE(0.3)
    assert as_weighting(weighting) is weighting
    assert set(FAMILIES) >= {
        "CCE",
        "MAE",
        "MSE",
        "GCE",
        "DM",
        "Normal",
        "Exponential",
        "Beta",
        "SCE",
        "Focal",
    }


def test_importable_functions_can_be_written_down():
    for weighting in (
        from_function(polynomial),
        from_function(polynomial_q),
        from_loss(minus_log),
        from_loss(minus_log, minus_one_over),
    ):
        assert from_dict(weighting.to_dict(), trusted=True) == weighting
    assert repr(from_loss(minus_log, minus_one_over)) == "from_loss(minus_log, derivative=minus_one_over)"
    with pytest.raises(ValueError, match="no importable name"):
        from_function(lambda p: p).to_dict()


def minus_one_over(p):
    return -1 / p


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module of one's own whose import leaves a trace."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil_module.py").write_text("imported = True\ndef weight(p):\n    return p\n")
    yield "evil_module:weight"
    sys.modules.pop("evil_module", None)


@pytest.mark.parametrize(
    "around",
    [
        lambda table: table,
        lambda table: {"family": "Scaled", "factor": 2.0, "weighting": table},
        lambda table: {"family": "Sum", "terms": [{"family": "CCE"}, table]},
    ],
)
@pytest.mark.parametrize("key", ["function", "loss", "derivative"])
def test_a_dictionary_imports_only_where_it_is_trusted(around, key, evil):
    names = {"function": evil} if key == "function" else {"loss": "reference:minus_log", key: evil}
    table = around({"family": "function" if key == "function" else "from_loss", **names})
    for door in (from_dict, as_weighting):
        with pytest.raises(ValueError, match=r"runs code; call emphasis\.from_dict\(\.\.\., trusted=True\)"):
            door(table)
    named = named_from_dict(table)
    assert "evil_module" not in sys.modules
    assert is_named(named)
    assert named.to_dict() == table
    assert evil in repr(named)
    with pytest.raises(EmphasisError, match="was read without importing"):
        named(0.5)
    assert pickle.loads(pickle.dumps(named)) == named
    if key != "derivative":  # which is not the loss's
        imported(named)(0.5)
    else:
        from_dict(table, trusted=True)
    assert "evil_module" in sys.modules


def test_a_weighting_of_the_package_is_not_named_and_stays_itself():
    for weighting in (CCE(), 2 * CCE() + MAE(), Spline(((0, 1), (1, 0)))):
        assert not is_named(weighting)
        assert imported(weighting) is weighting
        assert named_from_dict(weighting.to_dict()) == weighting


# --- algebra ------------------------------------------------------------------------------------


@given(weightings(), weightings(), st.floats(0.1, 10))
def test_sums_and_scalings_are_those_of_the_derivatives_and_losses(first, second, factor):
    both = first + factor * second
    np.testing.assert_allclose(both(P), first(P) + factor * second(P), rtol=1e-12)
    assert both.integral == pytest.approx(first.integral + factor * second.integral, rel=1e-10)
    u = np.array([-3.0, 0.0, 2.0])
    np.testing.assert_allclose(
        both.potential(u), first.potential(u) + factor * second.potential(u), rtol=1e-9, atol=1e-12
    )
    assert (factor * first).mode == first.mode


def test_algebra_flattens_and_refuses():
    assert (CCE() + MAE()) + MSE() == CCE() + (MAE() + MSE()) == Sum((CCE(), MAE(), MSE()))
    assert 2 * (3 * CCE()) == Scaled(6.0, CCE())
    assert CCE() * 2 == 2 * CCE()
    for bad in (
        lambda: CCE() + 1,
        lambda: CCE() * "a",
        lambda: CCE() * True,
        lambda: Sum(()),
        lambda: Sum((1,)),
    ):
        with pytest.raises(TypeError):
            bad()
    for factor in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor"):
            factor * CCE()


# --- users' functions ---------------------------------------------------------------------------


def test_a_function_of_p_and_q_keeps_the_digits_of_q():
    weighting = from_function(lambda p, q: 2 * q)
    got = weighting.derivative(np.array([[40.0, 0.0]]), np.array([0]))
    np.testing.assert_allclose(np.abs(got).sum(), 2 / (1 + math.exp(40)), rtol=1e-12)


def test_from_loss_by_complex_step_and_by_formula():
    for weighting in (
        from_loss(lambda p: (1 - p**0.7) / 0.7),
        from_loss(lambda p, q: (1 - p**0.7) / 0.7),
        from_loss(lambda p: (1 - p**0.7) / 0.7, lambda p: -(p**-0.3)),
        from_loss(lambda p: abs(1 - p**0.7) / 0.7, lambda p, q: -(p**-0.3)),
    ):
        np.testing.assert_allclose(weighting(P), GCE(0.7)(P), rtol=1e-12)


def test_ufuncs_and_constants_work():
    np.testing.assert_allclose(from_function(np.sqrt)(P), np.sqrt(P))
    assert from_function(lambda p: 1.0).modes == ()


def test_functions_that_are_no_weightings_are_refused():
    cases = [
        (lambda p: p - 0.5, ValueError, ">= 0"),
        (lambda p: p * np.nan, ValueError, "NaN"),
        (lambda p: 1 / np.where(p == 0.5, 0.0, 1.0), ValueError, "infinite inside"),
        (lambda p: 0 * p, ValueError, "0 on all"),
        (lambda p: p[:3], TypeError, "elementwise"),
        (lambda p, q, r: p, TypeError, "3 arguments"),
    ]
    for function, error, text in cases:
        with pytest.raises(error, match=text), np.errstate(all="ignore"):
            from_function(function)
    with pytest.raises(TypeError, match="callable"):
        from_function(3)
    with pytest.raises(ValueError, match="derivative="):
        from_loss(lambda p: abs(p - 1))


def test_a_jump_warns_that_digits_are_lost():
    step = from_function(lambda p: np.where(p > 1 / 3, 1.0, 0.0))
    with pytest.warns(EmphasisWarning, match="not smooth"):
        assert step.integral == pytest.approx(2 / 3, abs=1e-3)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: GCE(1.5), ValueError, r"q=1.5 is not allowed; q must be in \[0, 1\]"),
        (lambda: GCE(-0.1), ValueError, "q=-0.1"),
        (lambda: GCE(math.nan), ValueError, "q=nan"),
        (lambda: GCE("a"), TypeError, "q must be a number"),
        (lambda: GCE(None), TypeError, "q must be a number"),
        (lambda: GCE(True), TypeError, "q must be a number"),
        (lambda: DM(lam=-1, beta=1), ValueError, "lam=-1 .* >= 0"),
        (lambda: DM(lam=1, beta=math.inf), ValueError, "beta=inf .* finite"),
        (lambda: DM(lam=1, beta=-1, vanishing=True), ValueError, "beta > 0"),
        (lambda: DM(lam=1, beta=0, vanishing=True), ValueError, "beta > 0"),
        (lambda: DM(lam=1, beta=1, vanishing=1), TypeError, "True or False"),
        (lambda: Beta(alpha=-0.1, eta=2), ValueError, "alpha"),
        (lambda: Beta(alpha=1, eta=-2), ValueError, "eta"),
        (lambda: Normal(psi=-1, beta=1), ValueError, "psi"),
        (lambda: SCE(mu=0, nu=0), ValueError, "give no term a weight"),
        (lambda: SCE(A=1), ValueError, "A=1 .* <= 0"),
        (lambda: Focal(-1), ValueError, "gamma"),
        (lambda: from_dict({"family": "GCEE"}), ValueError, "did you mean 'GCE'"),
        (lambda: from_dict({"family": "zzzzzz"}), ValueError, "known: CCE"),
        (lambda: from_dict({"q": 1}), ValueError, "unknown family None"),
        (lambda: from_dict({"family": "GCE", "p": 1}), ValueError, "no parameter 'p'; it takes q"),
        (lambda: from_dict({"family": "Sum"}), ValueError, "needs the parameter 'terms'"),
        (lambda: from_dict({"family": "function", "function": "polynomial"}), ValueError, "module:name"),
        (lambda: from_dict({"family": "function", "function": 3}), ValueError, "module:name"),
        (lambda: from_dict({"family": "function", "function": "os:"}, trusted=True), ValueError, "module:name"),
        (
            lambda: from_dict({"family": "function", "function": "no.such:f"}, trusted=True),
            ValueError,
            "ModuleNotFound",
        ),
        (lambda: from_dict({"family": ["CCE"]}), ValueError, "unknown family"),
        (lambda: from_dict({"family": "Sum", "terms": 3}), TypeError, "must be a list"),
        (lambda: from_dict({"family": "Sum", "terms": [3]}), TypeError, "must be a mapping"),
        (lambda: from_dict({"family": "Scaled", "factor": "x", "weighting": {"family": "CCE"}}), TypeError, "factor"),
        (lambda: from_dict(nested(60)), ValueError, "nested more than 50 deep"),
        (lambda: from_dict({"family": "GCE", "q": 10**400}), ValueError, "q=1000.* not allowed"),
        (lambda: from_dict({"family": "Spline", "points": [[0, 10**400], [1, 1]]}), ValueError, "pairs"),
        (lambda: from_dict(3), TypeError, "mapping"),
        (lambda: as_weighting(3), TypeError, "pass one such as DM"),
        (lambda: as_weighting(DM), TypeError, r"DM\(\.\.\.\)"),
        (lambda: CCE()([0.5, 1.5]), ValueError, r"1\.5.*\[0, 1\]"),
        (lambda: CCE()(math.nan), ValueError, "nan"),
        (lambda: CCE().mass(0.5, 0.2), ValueError, "b=0.2"),
        (lambda: CCE().mass(-0.5, 0.2), ValueError, "a=-0.5"),
        (lambda: CCE().emphasis_variance([]), ValueError, "at least one"),
        (lambda: CCE().max_margin("off"), ValueError, '"auto", None or a number'),
        (lambda: CCE().max_margin(math.nan), ValueError, "max_margin"),
        (lambda: CCE().potential(math.nan), ValueError, "NaN"),
        (lambda: CCE().derivative(np.zeros((2, 1)), [0, 0]), ValueError, "C >= 2"),
        (lambda: CCE().derivative(np.zeros(3), [0, 0]), ValueError, "C >= 2"),
        (lambda: CCE().derivative(np.zeros((2, 3)), [0, 3]), ValueError, r"label 3 is outside 0\.\.2"),
        (lambda: CCE().derivative(np.zeros((2, 3)), [0]), ValueError, "shape"),
        (lambda: CCE().derivative(np.zeros((2, 3)), [0.0, 1.0]), TypeError, "integers"),
        (lambda: CCE().derivative(np.full((1, 3), np.nan), [0]), ValueError, "NaN"),
    ],
)
def test_bad_input_names_value_and_cure(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_max_margin_settings():
    assert CCE().max_margin("auto") == math.inf
    assert DM(lam=0.5, beta=12).max_margin("auto") == AUTO_MAX_MARGIN
    assert DM(lam=0.5, beta=12, vanishing=True).max_margin("auto") == math.inf
    assert DM(lam=0.5, beta=12).max_margin(None) == math.inf
    assert CCE().max_margin(5) == 5.0
    logits = np.array([[17.0, 0.0], [16.0, 0.0]])
    got = DM(lam=0.5, beta=12).derivative(logits, np.array([0, 0]), max_margin="auto")
    assert (got[0] == 0).all()
    assert np.abs(got[1]).sum() == pytest.approx(1.0, abs=1e-5)


def test_derivative_takes_more_dimensions():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 4, 3, 5)), rng.integers(0, 4, (2, 3, 5))
    flat = np.moveaxis(logits, 1, -1).reshape(-1, 4)
    expected = MAE().derivative(flat, labels.ravel())
    got = np.moveaxis(MAE().derivative(logits, labels), 1, -1).reshape(-1, 4)
    np.testing.assert_array_equal(got, expected)


def test_every_case_prints_without_an_address():
    assert not [case for case in CASES if "0x" in repr(case[0])]


def test_dm_takes_its_parameters_in_the_order_of_the_paper():
    assert DM(0.5, 12) == DM(lam=0.5, beta=12)
