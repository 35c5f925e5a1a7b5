import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

jax = pytest.importorskip("jax", reason="needs the extra jax")

import jax.numpy as jnp  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from emphasis import CCE, DM, GCE, MAE, Beta  # noqa: E402
from emphasis import torch as emphasis_torch  # noqa: E402
from emphasis.jax import emphasis_loss  # noqa: E402
from reference import CASE_IDS, CASES, weightings  # noqa: E402


@pytest.fixture(params=[False, True], ids=["float32", "float64"])
def x64(request):
    with jax.enable_x64(request.param):
        yield request.param


def random_case(seed, examples=6, classes=5, scale=4.0):
    rng = np.random.default_rng(seed)
    logits = (rng.normal(size=(examples, classes)) * scale).astype(np.float32).astype(np.float64)
    return logits, rng.integers(classes, size=examples)


def both(logits, labels, weighting, **options):
    """Value and derivative of torch in float64, and of JAX in its widest type."""
    z = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    tensors = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    value = emphasis_torch.emphasis_loss(z, torch.tensor(labels), weighting, **tensors)
    value.sum().backward()
    ours, gradient = jax.value_and_grad(lambda x: emphasis_loss(x, labels, weighting, **options).sum())(
        jnp.asarray(logits)
    )
    return (value.sum().item(), z.grad.numpy()), (float(ours), np.asarray(gradient))


@pytest.mark.parametrize(("weighting", "_w", "_loss"), CASES, ids=CASE_IDS)
def test_the_derivative_is_the_reference_at_any_margin(weighting, _w, _loss, x64):
    margins = (0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4)
    logits = np.array([[margin + math.log(2.0), 0.0, 0.0] for margin in margins])
    logits = logits if x64 else logits.astype(np.float32)
    labels = np.zeros(len(margins), dtype=int)
    options = {"normalization": None, "max_margin": None, "reduction": "sum"}
    gradient = jax.grad(lambda z: emphasis_loss(z, labels, weighting, **options))(jnp.asarray(logits))
    expected = weighting.derivative(logits, labels)
    tolerance = 1e-12 if x64 else 2e-5
    np.testing.assert_allclose(gradient, expected, rtol=tolerance, atol=0.0 if x64 else 1e-30)


@settings(max_examples=12)  # every weighting is compiled anew
@given(weightings(), st.integers(0, 10**6), st.sampled_from([None, "integral", "batch"]))
def test_value_and_derivative_are_those_of_torch(weighting, seed, normalization):
    rng = np.random.default_rng(seed)
    logits, labels = random_case(seed)
    labels[rng.random(len(labels)) < 0.2] = -100
    for reduction in ("mean", "sum", "none"):
        options = {
            "normalization": normalization,
            "reduction": reduction,
            "class_weight": rng.uniform(0.0, 2.0, 5),
            "sample_weight": rng.uniform(0.0, 2.0, len(labels)),
        }
        with jax.enable_x64(True):
            (value, gradient), (our_value, ours) = both(logits, labels, weighting, **options)
        np.testing.assert_allclose(ours, gradient, rtol=1e-10, atol=1e-13 * max(1.0, np.abs(gradient).max()))
        assert our_value == pytest.approx(value, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("weighting", [CCE(), DM(lam=0.5, beta=12), GCE(0.7)], ids=repr)
def test_jit_vmap_and_grad_agree(weighting, x64):
    logits, labels = random_case(0)
    logits = jnp.asarray(logits)
    for normalization in ("integral", "batch"):

        def loss(z, y, normalization=normalization):
            return emphasis_loss(z, y, weighting, normalization=normalization)

        plain = jax.value_and_grad(loss)(logits, labels)
        for value, other in zip(plain, jax.jit(jax.value_and_grad(loss))(logits, labels), strict=True):
            np.testing.assert_allclose(value, other, rtol=1e-5 if not x64 else 1e-12, atol=1e-7)
        stacked = jnp.stack([logits, logits[::-1]]), np.stack([labels, labels[::-1]])
        values, gradients = jax.vmap(jax.value_and_grad(loss))(*stacked)
        np.testing.assert_allclose(values, [plain[0]] * 2, rtol=1e-5)
        np.testing.assert_allclose(gradients, [plain[1], plain[1][::-1]], rtol=1e-5, atol=1e-7)


def test_per_example_gradients_by_vmap():
    logits, labels = random_case(1)
    of_one = jax.vmap(jax.grad(lambda z, y: emphasis_loss(z, y, GCE(0.7), reduction="sum")))
    whole = jax.grad(lambda z: emphasis_loss(z, labels, GCE(0.7), reduction="sum"))(jnp.asarray(logits))
    np.testing.assert_allclose(of_one(jnp.asarray(logits), jnp.asarray(labels)), whole, rtol=1e-5, atol=1e-7)


def test_any_leading_axes():
    logits, labels = random_case(2, examples=12)
    flat = emphasis_loss(logits, labels, DM(lam=0.5, beta=4), reduction="none")
    shaped = emphasis_loss(logits.reshape(3, 4, 5), labels.reshape(3, 4), DM(lam=0.5, beta=4), reduction="none")
    np.testing.assert_array_equal(shaped.reshape(12), flat)
    alone = emphasis_loss(logits[0], labels[0], DM(lam=0.5, beta=4))
    np.testing.assert_allclose(alone, flat[0], rtol=1e-6)


@pytest.mark.parametrize("weighting", [CCE(), DM(lam=0.5, beta=4, vanishing=True), GCE(0.7)], ids=repr)
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_the_second_derivative_is_torchs(weighting, normalization):
    logits, labels = random_case(3, examples=2, classes=3, scale=1.5)

    def of_torch(z):
        return emphasis_torch.emphasis_loss(z, torch.tensor(labels), weighting, normalization=normalization)

    expected = torch.autograd.functional.hessian(of_torch, torch.tensor(logits))
    with jax.enable_x64(True):
        found = jax.jacrev(jax.grad(lambda z: emphasis_loss(z, labels, weighting, normalization=normalization)))(
            jnp.asarray(logits)
        )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-10)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_types_are_computed_in_float32_and_get_their_own_derivative(dtype):
    logits, labels = random_case(4)
    half = jnp.asarray(logits, dtype)
    loss, gradient = jax.value_and_grad(lambda z: emphasis_loss(z, labels, DM(lam=0.5, beta=4)))(half)
    full_loss, full = jax.value_and_grad(lambda z: emphasis_loss(z, labels, DM(lam=0.5, beta=4)))(
        half.astype(jnp.float32)
    )
    assert (loss.dtype, gradient.dtype) == (jnp.float32, dtype)
    assert float(loss) == float(full_loss)
    np.testing.assert_array_equal(gradient, full.astype(dtype))


def test_cce_is_optaxs_cross_entropy(x64):
    optax = pytest.importorskip("optax")
    logits, labels = random_case(5)
    logits = jnp.asarray(logits)
    own = jax.value_and_grad(lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels).mean())(logits)
    ours = jax.value_and_grad(lambda z: emphasis_loss(z, labels, CCE()))(logits)
    np.testing.assert_allclose(ours[0], own[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], own[1], atol=1e-7)


def test_a_function_of_ones_own_may_use_jax(x64):
    logits, labels = random_case(6)

    def mine(p, q):
        return jnp.sqrt(p) * q * jnp.exp(-p)

    @jax.jit
    def loss(z, y):
        return emphasis_loss(z, y, mine)

    value, gradient = jax.value_and_grad(loss)(jnp.asarray(logits), labels)
    z = torch.tensor(logits, requires_grad=True)
    expected = emphasis_torch.emphasis_loss(z, torch.tensor(labels), lambda p, q: p.sqrt() * q * (-p).exp())
    expected.backward()
    np.testing.assert_allclose(gradient, z.grad, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(emphasis_loss(logits, labels, "MAE"), emphasis_loss(logits, labels, MAE()))


def test_nothing_valid_is_a_loss_of_zero_with_a_gradient_of_zero():
    logits, _ = random_case(7)
    for options in ({}, {"normalization": "batch"}, {"reduction": "none"}):
        for labels, weight in ((np.full(6, -100), None), (np.zeros(6, dtype=int), np.zeros(6))):
            value, gradient = jax.value_and_grad(
                lambda z, y=labels, s=weight, o=options: emphasis_loss(z, y, GCE(0.7), sample_weight=s, **o).sum()
            )(jnp.asarray(logits))
            assert float(value) == 0.0
            assert not gradient.any()
    empty = jax.grad(lambda z: emphasis_loss(z, np.zeros(0, dtype=int), CCE()))(jnp.zeros((0, 3)))
    assert empty.shape == (0, 3)


def test_ignored_examples_may_hold_anything():
    logits, labels = random_case(8)
    labels[0], logits[0] = -100, np.nan
    loss, gradient = jax.value_and_grad(lambda z: emphasis_loss(z, labels, GCE(0.7)))(jnp.asarray(logits))
    assert np.isfinite(float(loss))
    assert not gradient[0].any()


def test_unbounded_weights_stay_finite_and_nan_is_never_silent():
    labels = np.array([0])
    steep = Beta(alpha=0.2, eta=1.0)
    gradient = jax.grad(lambda z: emphasis_loss(z, labels, steep))(jnp.array([[-1e4, 0.0]]))
    assert np.isfinite(gradient).all()
    bad = jax.jit(lambda z, s: emphasis_loss(z, labels, CCE(), sample_weight=s))
    assert np.isnan(bad(jnp.array([[jnp.nan, 0.0]]), jnp.ones(1)))
    assert np.isnan(bad(jnp.array([[1.0, 0.0]]), jnp.full(1, jnp.nan)))


@pytest.mark.parametrize(
    ("logits", "labels", "options", "kind", "match"),
    [
        (np.zeros((2, 3)), [0.0, 1.0], {}, TypeError, "labels must be integers.*soft"),
        (np.zeros((2, 3), dtype=int), [0, 1], {}, TypeError, "logits must be floating"),
        (np.zeros((2, 3)), [0], {}, ValueError, r"shapes \(2, 3\) and \(1,\)"),
        (np.zeros((2, 1)), [0, 0], {}, ValueError, "C >= 2"),
        (np.zeros((2, 3)), [0, 1], {"class_weight": np.ones(2)}, ValueError, r"class_weight must have shape \(3,\)"),
        (np.zeros((2, 3)), [0, 1], {"sample_weight": 1j * np.ones(2)}, TypeError, "sample_weight must be .* real"),
        (np.zeros((2, 3)), [0, 1], {"sample_weight": "heavy"}, TypeError, "sample_weight must be .* real.*'heavy'"),
        (np.zeros((2, 3)), [0, 2**32], {}, ValueError, "label 4294967296 is outside"),
        (
            np.zeros((2, 3)),
            [0, 1],
            {"ignore_index": 2**63},
            ValueError,
            "ignore_index=9223372036854775808 does not fit the 64 bits",
        ),
        (
            jnp.zeros((2, 3), jnp.float8_e4m3fn),
            [0, 1],
            {},
            TypeError,
            "logits of float8_e4m3fn are not supported",
        ),
        (np.zeros((2, 3)), [0, 1], {"reduction": "max"}, ValueError, "reduction='max'"),
        (np.zeros((2, 3)), [0, 1], {"normalization": "max"}, ValueError, "normalization='max'"),
        (np.zeros((2, 3)), [0, 1], {"max_margin": "max"}, ValueError, "max_margin='max'"),
    ],
)
def test_what_does_not_fit_is_named(logits, labels, options, kind, match):
    with pytest.raises(kind, match=match):
        emphasis_loss(logits, np.asarray(labels), CCE(), **options)


def test_it_trains_in_float32_as_in_torch():
    """Ten steps of gradient descent on a linear net."""
    rng = np.random.default_rng(0)
    x, y, w = rng.normal(size=(50, 4)), rng.integers(3, size=50), rng.normal(size=(4, 3))
    weighting = DM(lam=0.5, beta=8, vanishing=True)
    ours, theirs = jnp.asarray(w, jnp.float32), torch.tensor(w, dtype=torch.float32, requires_grad=True)
    step = jax.jit(jax.grad(lambda v: emphasis_loss(jnp.asarray(x, jnp.float32) @ v, y, weighting)))
    for _ in range(10):
        ours = ours - 0.5 * step(ours)
        loss = emphasis_torch.emphasis_loss(torch.tensor(x, dtype=torch.float32) @ theirs, torch.tensor(y), weighting)
        (gradient,) = torch.autograd.grad(loss, theirs)
        theirs = (theirs - 0.5 * gradient).detach().requires_grad_()
    np.testing.assert_allclose(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def test_the_example_trains_and_shows_what_it_says():
    pytest.importorskip("optax")
    example = Path(__file__).parents[1] / "examples" / "jax_optax.py"
    done = subprocess.run([sys.executable, "-W", "error", str(example)], capture_output=True, text=True, check=True)
    accuracy = {line[:14].strip(): float(line[14:].strip(" %")) for line in done.stdout.splitlines()}
    assert accuracy["DM, vanishing"] > accuracy["cross-entropy"] + 10
