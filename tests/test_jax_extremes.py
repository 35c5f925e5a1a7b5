"""What must not end as a silent NaN in JAX: weights of any scale, small types, arguments that do not fit."""

from functools import lru_cache

import numpy as np
import pytest
import torch

jax = pytest.importorskip("jax", reason="needs the extra jax")

import jax.numpy as jnp  # noqa: E402
from hypothesis import example, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from emphasis import CCE, DM, Beta  # noqa: E402
from emphasis import torch as emphasis_torch  # noqa: E402
from emphasis.errors import EmphasisError  # noqa: E402
from emphasis.jax import emphasis_loss  # noqa: E402


@pytest.fixture
def x64(request):
    with jax.enable_x64(request.param):
        yield request.param


def random_case(seed, examples=6, classes=5):
    rng = np.random.default_rng(seed)
    return 4.0 * rng.normal(size=(examples, classes)), rng.integers(classes, size=examples)


ZEROS, LABELS = np.zeros((2, 3)), np.array([0, 1])
STEEP = {"normalization": None, "weighting": DM(lam=0.5, beta=500)}
STEEPER = {"normalization": "batch", "weighting": DM(lam=0.5, beta=1e39)}
SHORT = {"weighting": lambda p: p[:1]}


@pytest.mark.parametrize("differentiated", [False, True])
@pytest.mark.parametrize(
    ("logits", "labels", "options", "match"),
    [
        (ZEROS, np.array([0, 3]), {}, r"label 3 is outside 0..2 \(C=3\).*ignore_index=-100; relabel the classes"),
        (ZEROS, np.array([0, -1]), {}, "label -1 is outside 0..2"),
        (ZEROS * np.nan, np.array([-100, 1]), {}, r"logits hold NaN or infinity, first .* index \(1,\): training has"),
        (ZEROS + 1e39, LABELS, {}, r"logits hold NaN or infinity, first .* index \(0,\)"),
        (ZEROS, LABELS, {"sample_weight": -np.ones(2)}, "sample_weight holds -1.0; weights must be finite and >= 0"),
        (ZEROS, LABELS, {"class_weight": np.full(3, np.inf)}, "class_weight holds inf; weights must be finite"),
        (ZEROS, LABELS, {"ignore_index": 1.5}, "ignore_index must be an integer, got 1.5"),
        (ZEROS, LABELS, {"ignore_index": None}, "ignore_index must be an integer, got None"),
        (ZEROS, LABELS, {"ignore_index": True}, "ignore_index must be an integer, got True"),
        (ZEROS, LABELS, STEEP, r"reaches w = exp\(192.5\), more than .*float32 holds; use normalization="),
        (ZEROS, LABELS, STEEPER, "log w of DM.* is more than .*float32 holds; use a smaller beta"),
        (ZEROS, LABELS, SHORT, r"returned shape \(1,\) for p of shape .*; it must work elementwise"),
    ],
)
def test_where_torch_raises_jax_does_in_the_same_words(logits, labels, options, match, differentiated):
    options = {"weighting": CCE(), **options}
    tensors = {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in options.items()}
    z = torch.tensor(logits).float()
    with pytest.raises(EmphasisError, match=match) as of_torch:
        emphasis_torch.emphasis_loss(z, torch.tensor(labels), **tensors)

    def loss(z):
        return emphasis_loss(z, labels, **options)

    with pytest.raises(EmphasisError, match=match) as of_jax:
        (jax.grad(loss) if differentiated else loss)(jnp.asarray(z.numpy()))
    assert of_jax.type is of_torch.type


@pytest.mark.parametrize(
    "scales", [(1e30, 1e30), (1.0, 3e38), (1e39, 1.0), (1e-30, 1e-30), (1.0, 1e-300), (1e-300, 1e39)]
)
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
def test_weights_beyond_any_type_keep_their_ratios(normalization, scales):
    logits, labels = random_case(10)
    weight = np.random.default_rng(0).uniform(0.5, 1.0, len(labels))
    options = {"class_weight": np.full(5, scales[0]), "sample_weight": scales[1] * weight}

    def loss(z, c, s, reduction="mean"):
        options = {"normalization": normalization, "reduction": reduction}
        return emphasis_loss(z, labels, DM(lam=0.5, beta=4), class_weight=c, sample_weight=s, **options)

    call, z = jax.value_and_grad(loss), jnp.asarray(logits)
    expected = call(z, None, weight)
    ours = call(z, *options.values())
    np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(ours[1], expected[1], atol=1e-6)
    if max(scales) == 1e30:  # in float32, so that they can be traced
        traced = jax.jit(call)(z, *(jnp.asarray(given, jnp.float32) for given in options.values()))
        np.testing.assert_allclose(traced[1], expected[1], atol=1e-6)
    if max(scales) > 1.0 and normalization != "batch" and scales[0] >= 1.0:
        for reduction in ("sum", "none"):
            with pytest.raises(OverflowError, match=r"class_weight and sample_weight come to .* what float32 holds"):
                loss(z, *options.values(), reduction)


@lru_cache
def weighted(weighting, normalization, reduction, x64):
    """Value and derivative, compiled once."""
    with jax.enable_x64(x64):
        options = {"normalization": normalization, "reduction": reduction}
        return jax.jit(
            jax.value_and_grad(
                lambda z, y, c, s: emphasis_loss(z, y, weighting, class_weight=c, sample_weight=s, **options)
            )
        )


@settings(max_examples=8)
@example(CCE(), ("integral", "mean"), -30, 0, False)
@example(DM(lam=0.5, beta=12), ("batch", "sum"), 30, 0, False)
@given(
    st.sampled_from([CCE(), DM(lam=0.5, beta=12)]),
    st.sampled_from([(None, "mean"), ("integral", "mean"), ("batch", "sum")]),
    st.integers(-30, 30),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_a_mean_does_not_depend_on_the_scale_of_the_weights(weighting, how, power, seed, x64):
    rng = np.random.default_rng(seed)
    logits, labels = random_case(seed)
    class_weight, sample_weight = rng.uniform(0.1, 2.0, 5), rng.uniform(0.0, 2.0, len(labels))
    labels[0], sample_weight[1] = -100, 0.0
    rtol = 1e-12 if x64 else 5e-6
    with jax.enable_x64(x64):
        dtype = np.float64 if x64 else np.float32
        compiled, z = weighted(weighting, *how, x64), jnp.asarray(logits, dtype)

        def eager(z, y, c, s):
            options = {"normalization": how[0], "reduction": how[1], "class_weight": c, "sample_weight": s}
            return jax.value_and_grad(lambda z: emphasis_loss(z, y, weighting, **options))(z)

        value, gradient = eager(z, labels, class_weight, sample_weight)
        scaled = (sample_weight * 10.0**power).astype(dtype)
        for call in (eager, compiled):
            for of_class in (class_weight, class_weight * 10.0 ** (-abs(power) // 2)):
                ours = call(z, labels, of_class.astype(dtype), scaled)
                np.testing.assert_allclose(ours[0], value, rtol=rtol)
                np.testing.assert_allclose(ours[1], gradient, rtol=rtol, atol=rtol * np.abs(gradient).max())


def test_float16_cannot_hold_every_weight():
    logits, labels = random_case(11)
    half, steep = jnp.asarray(logits, jnp.float16), DM(lam=0.0, beta=12.0)  # w reaches 162,755
    with pytest.raises(
        OverflowError, match=r"DM\(.*\) reaches w = exp\(12\), more than float16 holds; use .* wider dtype"
    ):
        emphasis_loss(half, labels, steep, normalization=None)
    for dtype, normalization in ((jnp.float16, "batch"), (jnp.float16, "integral"), (jnp.bfloat16, None)):
        gradient = jax.grad(lambda z, n=normalization: emphasis_loss(z, labels, steep, normalization=n))(
            half.astype(dtype)
        )
        assert np.isfinite(np.asarray(gradient, np.float32)).all()
    unbounded = jax.grad(lambda z: emphasis_loss(z, labels[:1], Beta(alpha=0.2, eta=1.0), reduction="sum"))
    gradient = np.asarray(
        unbounded(jnp.full((1, 5), -3e4, jnp.float16).at[0, (labels[0] + 1) % 5].set(3e4)), np.float32
    )
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1000.0


@pytest.mark.parametrize(("kind", "x64"), [(int, False), (np.int64, True), (np.int8, False)], indirect=["x64"])
def test_any_integer_is_an_ignore_index(kind, x64):
    logits, labels = random_case(12)
    expected = emphasis_loss(logits[1:], labels[1:], CCE())
    for dtype in (np.int64, np.int8):
        ignored = np.concatenate([[-1], labels[1:]]).astype(dtype)
        for array in (ignored, jnp.asarray(ignored)):
            np.testing.assert_allclose(emphasis_loss(logits, array, CCE(), ignore_index=kind(-1)), expected, rtol=1e-6)
    wide = np.concatenate([[2**40], labels[1:]])  # JAX would make of it 0, a class
    np.testing.assert_allclose(emphasis_loss(logits, wide, CCE(), ignore_index=2**40), expected, rtol=1e-6)
    narrow = jnp.asarray(labels, jnp.uint8)  # which no label of 2**40 can be in
    np.testing.assert_allclose(
        emphasis_loss(logits, narrow, CCE(), ignore_index=2**40), emphasis_loss(logits, labels, CCE())
    )
    many = emphasis_loss(jnp.zeros((1, 300)), jnp.zeros(1, jnp.int8), CCE())
    np.testing.assert_allclose(many, np.log(300.0), rtol=1e-6)


@pytest.mark.parametrize(
    ("other", "tolerance", "normalization"),
    [("float64", 1e-6, None), ("float64", 1e-6, "batch"), ("bfloat16", 0.02, None), ("float16", 2e-3, "batch")],
)
def test_what_a_function_returns_is_cast(other, tolerance, normalization):
    """And may be of another type: the loss has the arithmetic's, and the derivative the logits'."""
    logits, labels = random_case(13)
    with jax.enable_x64(True):
        z = jnp.asarray(logits, jnp.float32)
        plain, kinked = (
            jax.value_and_grad(lambda z, f=f: emphasis_loss(z, labels, f, normalization=normalization))(z)
            for f in (lambda p: p * (1 - p) * (p < 0.6), lambda p: (p * (1 - p) * (p < 0.6)).astype(other))
        )
        assert (kinked[0].dtype, kinked[1].dtype) == (jnp.float32, jnp.float32)
        np.testing.assert_allclose(kinked[0], plain[0], rtol=tolerance)
        np.testing.assert_allclose(kinked[1], plain[1], atol=tolerance * np.abs(plain[1]).max())
        flat = emphasis_loss(z, labels, lambda p: (p >= 0.0).astype(int), normalization=normalization)
        np.testing.assert_allclose(flat, emphasis_loss(z, labels, "Uniform", normalization=normalization), rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda p: None, "returned None; a weighting function returns an array"),
        (lambda p: p + 0j, "returned complex128; weights are real numbers"),
        (lambda p: jnp.ones(1025), r"returned shape \(1025,\) for p of shape .*; it must work elementwise"),
    ],
)
def test_what_no_weight_can_be_is_named(function, match):
    with pytest.raises(TypeError, match=match):
        emphasis_loss(np.zeros((1, 3)), np.array([0]), function)


def test_weights_are_not_differentiated_in_silence():
    logits, labels = random_case(14)
    logits, weight = jnp.asarray(logits), jnp.ones(len(labels))

    def loss(z, s, c=None):
        return emphasis_loss(z, labels, CCE(), sample_weight=s, class_weight=c)

    expected = jax.grad(loss)(logits, weight)
    for transformed in (
        jax.jit(loss),
        jax.checkpoint(loss),
        lambda z, s: jax.lax.map(lambda s: loss(z, s), s[None])[0],
    ):
        np.testing.assert_allclose(jax.grad(transformed)(logits, weight), expected, rtol=1e-6)
        with pytest.raises(ValueError, match='sample_weight is not differentiated; use reduction="none"'):
            jax.grad(transformed, argnums=1)(logits, weight)
    with pytest.raises(ValueError, match="class_weight is not differentiated"):
        jax.grad(loss, argnums=2)(logits, weight, jnp.ones(5))
    (by_vjp,) = jax.vjp(lambda z: loss(z, weight), logits)[1](1.0)  # a number, no array
    np.testing.assert_allclose(by_vjp, expected)
