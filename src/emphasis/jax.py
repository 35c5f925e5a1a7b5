"""Losses for JAX: `emphasis_loss`, as in `emphasis.torch` but with the classes along the last axis.

Needs the extra `jax`. It works under jit, vmap, grad and their combinations, and can be differentiated twice.

from emphasis.jax import emphasis_loss

jax.grad(lambda params: emphasis_loss(apply(params, x), labels))(params)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import DEFAULT_WEIGHTING, FunctionWeighting, MaxMargin, Weighting, WeightingLike, as_weighting
from emphasis.weighting._numerics import doubt_of, exponent_of, log_trust_of
from emphasis.weighting.options import (
    SATURATION,
    Normalization,
    Reduction,
    check_ignore_index,
    check_options,
    check_weights_fit,
    factor_overflow,
    label_out_of_range,
    nonfinite_logits,
)

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.jax", "jax", error) from None

_DTYPES = ("float32", "float64", "bfloat16", "float16")


def emphasis_loss(
    logits: Any,
    labels: Any,
    weighting: WeightingLike = DEFAULT_WEIGHTING,
    *,
    normalization: Normalization = "integral",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    class_weight: Any = None,
    sample_weight: Any = None,
    max_margin: MaxMargin = "auto",
) -> jax.Array:
    """Return the loss whose derivative has L1 norm w(p) and the direction of cross-entropy's (Eq. 7 without its 0/0).

    It is `emphasis.torch.emphasis_loss` with the classes along the last axis. It is computed in float64 for float64
    logits, which have to be enabled in JAX, and in float32 otherwise.

    Args:
        logits: Finite array of shape (..., C), C >= 2: bfloat16, float16, float32 or float64.
        labels: Integers in [0, C) or `ignore_index`, of shape (...).
        weighting: A weighting, its dictionary, the name of a family, or a function p -> w or (p, 1-p) -> w in
            jax.numpy, the values of which are cast to the dtype of the arithmetic.
        normalization: None, "integral" (w divided by its integral, Eq. 8) or "batch" (weights divided by their sum, a
            constant for differentiation).
        reduction: "mean" over the valid examples weighted by class_weight * sample_weight, "sum", or "none" for the
            losses (...). Under "batch" the weights are those of a mean.
        ignore_index: Label of examples that are ignored, an integer of at most 64 bits.
        class_weight: Factors of w by class, >= 0, of shape (C,).
        sample_weight: Factors of w by example, >= 0, of shape (...). "mean" and "batch" depend on ratios of weights
            only.
        max_margin: Margin beyond which the derivative is 0: a number, None for no limit, or "auto" for 16.6 if
            w(1) > 0 and no limit otherwise.

    Returns:
        The loss in the dtype of the arithmetic; 0, with a gradient of 0, if there is no valid example.

    Raises:
        TypeError, ValueError: A shape, dtype or option is not allowed, or class_weight or sample_weight is
            differentiated. Outside of tracing also for labels out of range, NaN or infinite logits, and negative, NaN
            or infinite weights.
        OverflowError: w exceeds the range of the dtype of the logits, such as with a large beta and
            normalization=None. Outside of tracing also for w times class_weight and sample_weight, where more than
            their ratios matters.

        While JAX traces (jit, vmap, scan) values are not read: NaN, infinity and negative weights make the loss NaN,
        and the gradient for a label out of range is that of no class.

    Examples:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> from emphasis.jax import emphasis_loss
        >>> logits, labels = jnp.zeros((2, 4)), jnp.array([0, 3])
        >>> round(float(emphasis_loss(logits, labels, "CCE")), 4)  # log 4
        1.3863
        >>> jax.grad(emphasis_loss)(logits, labels, "CCE").shape
        (2, 4)
    """
    options = _options(as_weighting(weighting, _JaxFunctionWeighting), normalization, reduction, max_margin)
    logits = jnp.asarray(logits)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise EmphasisTypeError(f"logits must be floating, got {logits.dtype}; pass the network's raw outputs")
    if logits.dtype.name not in _DTYPES:
        raise EmphasisTypeError(
            f"logits of {logits.dtype} are not supported; use {', '.join(_DTYPES)}, such as logits.astype(jnp.float32)"
        )
    options.check_range(logits.dtype)
    valid, index = _labels(labels, logits, ignore_index)
    bad = ~jnp.isfinite(logits).all(-1) & valid
    if _is_true(bad.any()):
        raise nonfinite_logits(_first(bad))
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    return _loss(options, logits, index, _factor(options, class_weight, sample_weight, valid, index, logits, dtype))


@dataclass(frozen=True)
class _Options:
    """Resolved options; `log_largest` is the logarithm of the largest weight, -inf under "batch"."""

    weighting: Weighting
    normalization: Normalization
    reduction: Reduction
    max_margin: float
    log_normalizer: float
    log_largest: float

    @property
    def unbounded(self) -> bool:
        """Whether the weighting is unbounded, so that weights saturate."""
        return self.weighting.log_peak == math.inf

    @property
    def is_relative(self) -> bool:
        """Whether only ratios of the weights of examples matter."""
        return self.normalization == "batch" or self.reduction == "mean"

    def check_range(self, dtype: Any) -> None:
        """Check that `dtype` holds the weights, and the arithmetic their logarithms; raise OverflowError otherwise."""
        largest, in_arithmetic = (float(jnp.finfo(t).max) for t in (dtype, jnp.promote_types(dtype, jnp.float32)))
        check_weights_fit(self.weighting, self.log_largest, dtype, largest, in_arithmetic)


@lru_cache(maxsize=256)
def _options(
    weighting: Weighting, normalization: Normalization, reduction: Reduction, max_margin: MaxMargin
) -> _Options:
    """Check and resolve options; modes, integrals and tables are computed in numpy, so that the loss can be traced."""
    check_options(normalization, reduction)
    reach = weighting.max_margin(max_margin)
    if normalization == "batch":
        return _Options(weighting, normalization, reduction, reach, 0.0, -math.inf)
    log_normalizer = weighting.log_normalizer if normalization == "integral" else 0.0
    weighting.prepare(reach)
    return _Options(weighting, normalization, reduction, reach, log_normalizer, weighting.log_peak - log_normalizer)


@dataclass(frozen=True, repr=False)
class _JaxFunctionWeighting(FunctionWeighting):
    """A function of JAX arrays; for the mode, integral and table, which are in numpy, it is called in float64."""

    def call(self, function: Any, p: Any, q: Any) -> Any:
        if isinstance(p, jax.Array):
            return self._values(function, p, q)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return np.asarray(self._values(function, jnp.asarray(p), jnp.asarray(q)))

    def _values(self, function: Any, p: jax.Array, q: jax.Array) -> jax.Array:
        """Return the values of the function in the dtype of `p`."""
        value = super().call(function, p, q)
        try:
            value = jnp.asarray(value)
        except (TypeError, ValueError):
            raise EmphasisTypeError(f"{self!r} returned {value!r}; a weighting function returns an array") from None
        if value.shape not in ((), p.shape):
            raise EmphasisTypeError(
                f"{self!r} returned shape {value.shape} for p of shape {p.shape}; it must work elementwise"
            )
        if jnp.iscomplexobj(value):
            raise EmphasisTypeError(f"{self!r} returned {value.dtype}; weights are real numbers")
        return value.astype(p.dtype)


def _is_true(flag: Any) -> bool:
    """Return whether a flag is set, False while it is traced."""
    return not isinstance(flag, jax.core.Tracer) and bool(flag)


def _first(flags: Any) -> tuple[int, ...]:
    """Return the index of the first flag that is set."""
    return tuple(int(i) for i in np.argwhere(np.asarray(flags))[0])


def _labels(labels: Any, logits: jax.Array, ignore_index: Any) -> tuple[Any, jax.Array]:
    """Return which labels are valid, and the labels with 0 in place of the others."""
    ignore_index = check_ignore_index(ignore_index)
    if not isinstance(labels, jax.Array):
        labels = np.asarray(labels)  # keeps 64 bits, which JAX would reduce to 32
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise EmphasisTypeError(f"labels must be integers, got {labels.dtype}; soft labels are for emphasis.torch")
    if logits.ndim < 1 or logits.shape[-1] < 2 or labels.shape != logits.shape[:-1]:
        raise EmphasisValueError(
            f"logits must be (..., C) with C >= 2 and labels (...), got shapes {logits.shape} and {labels.shape}"
        )
    bits = jnp.iinfo(labels.dtype)
    ignored = labels == ignore_index if bits.min <= ignore_index <= bits.max else np.zeros(labels.shape, bool)
    num_classes = logits.shape[-1]
    wrong = ~ignored & ((labels < 0) | (labels > min(num_classes - 1, bits.max)))
    if _is_true(wrong.any()):
        raise label_out_of_range(int(labels[_first(wrong)]), num_classes, ignore_index)
    index = jnp.where(ignored, 0, labels)
    return ~ignored, index.astype(jnp.int32) if bits.bits < 32 else index  # 8 bits do not distinguish class 0 from 256


def _factor(
    options: _Options,
    class_weight: Any,
    sample_weight: Any,
    valid: Any,
    index: jax.Array,
    logits: jax.Array,
    dtype: Any,
) -> jax.Array:
    """Return class_weight * sample_weight of the valid examples and 0 for the others, rescaled if only ratios matter.

    Numbers are represented by mantissa and exponent until they have been rescaled, so that no product and no sum can
    overflow or vanish.
    """
    if class_weight is None and sample_weight is None:
        return jnp.asarray(valid, dtype)
    mantissa, exponent = jnp.ones(index.shape, dtype), jnp.zeros(index.shape, jnp.int32)
    if class_weight is not None:
        of_class = _parts("class_weight", class_weight, logits.shape[-1:], dtype)
        mantissa, exponent = of_class[0][index], of_class[1][index]
    if sample_weight is not None:
        of_example = _parts("sample_weight", sample_weight, index.shape, dtype)
        mantissa, exponent = mantissa * of_example[0], exponent + of_example[1]
    mantissa = jnp.where(valid, mantissa, 0.0)
    if options.is_relative:
        exponent = exponent - jnp.where(mantissa == 0.0, -(2**16), exponent).max(initial=-(2**16))
    elif not isinstance(mantissa, jax.core.Tracer):
        _check_product(options, mantissa, exponent, logits.dtype)
    return jnp.ldexp(mantissa, exponent)


def _check_product(options: _Options, mantissa: Any, exponent: Any, dtype: Any) -> None:
    """Check that weights times factors of examples fit into the dtype of the logits; raise OverflowError otherwise."""
    log_largest = 0.0 if options.unbounded else max(options.log_largest, 0.0)
    with np.errstate(over="ignore"):
        largest = np.ldexp(np.asarray(mantissa, np.float64), np.asarray(exponent)).max(initial=0.0)
    if largest > float(jnp.finfo(dtype).max) * math.exp(-log_largest):
        raise factor_overflow(options.weighting, largest, dtype)


def _parts(name: str, given: Any, shape: tuple[int, ...], dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Check weights and return them as mantissa, 0 or in [1/2, 1], and exponent."""
    if np.iscomplexobj(given):
        raise EmphasisTypeError(f"{name} must be an array of real numbers, got {given!r}")
    if not isinstance(given, jax.core.Tracer):
        try:
            given = np.asarray(given, np.float64)
        except (TypeError, ValueError):
            raise EmphasisTypeError(f"{name} must be an array of real numbers, got {given!r}") from None
    if given.shape != shape:
        raise EmphasisValueError(f"{name} must have shape {shape}, got {given.shape}")
    if isinstance(given, jax.core.Tracer):
        weight = _constant(name, given.astype(dtype))
        mantissa, exponent = jnp.frexp(jnp.where(weight >= 0.0, weight, math.nan))
        return mantissa, exponent
    bad = ~((given >= 0.0) & np.isfinite(given))
    if bad.any():
        raise EmphasisValueError(f"{name} holds {given[_first(bad)]}; weights must be finite and >= 0")
    of_numpy = np.frexp(given)
    return jnp.asarray(of_numpy[0], dtype), jnp.asarray(of_numpy[1], jnp.int32)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _constant(name: str, weight: jax.Array) -> jax.Array:  # noqa: ARG001
    """Return the weight; raise ValueError if JAX differentiates it, as its derivative would be 0 without notice."""
    return weight


def _differentiated(name: str, *_: Any) -> Any:
    raise EmphasisValueError(
        f'{name} is not differentiated; use reduction="none" with normalization=None or "integral" and multiply the '
        "losses by it yourself, or jax.lax.stop_gradient"
    )


_constant.defjvp(_differentiated)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(options: _Options, logits: jax.Array, labels: jax.Array, factor: jax.Array) -> jax.Array:
    return _loss_and_gradient(options, logits, labels, factor)[0]


def _backward(_: _Options, kept: tuple[jax.Array, jax.Array], of_loss: jax.Array) -> tuple[jax.Array, None, None]:
    gradient, like = kept
    return (gradient * jnp.asarray(of_loss)[..., None]).astype(like.dtype), None, None


def _loss_and_gradient(
    options: _Options, logits: jax.Array, labels: jax.Array, factor: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return the loss, and its derivative with a scalar of the dtype of the logits."""
    like, logits = jnp.zeros((), logits.dtype), logits.astype(factor.dtype)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(is_label, -math.inf, logits)
    log_rest = jax.nn.logsumexp(others, axis=-1)
    present = factor != 0.0  # true for NaN, which reaches the loss
    margin = jnp.where(present, jnp.where(is_label, logits, 0.0).sum(-1) - log_rest, 0.0)
    log_p, log_q = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    weighting = options.weighting.where_agreed
    log_w = jnp.asarray(weighting.log_weight(log_p, log_q, jnp), margin.dtype) - options.log_normalizer
    lead = jnp.where(present, jnp.where(is_label, logits, 0.0).sum(-1) - others.max(-1), 0.0)
    log_trust = jnp.zeros_like(log_p)
    if options.weighting.trust[0]:
        exponent = jax.lax.stop_gradient(_exponent(options.weighting.trust, logits, log_p, lead, factor))
        log_trust = log_trust_of(exponent, lead, jnp)
    log_w = jnp.where(margin > options.max_margin, -math.inf, log_w)
    if options.unbounded:  # by the smaller dtype, as the derivative is converted to that of the logits
        log_w = jnp.minimum(log_w, math.log(min(_largest(like.dtype), _largest(margin.dtype))))
    if options.normalization == "batch":
        log_share = log_w + log_trust + jnp.log(factor)
        peak = jax.lax.stop_gradient(log_share.max(initial=-math.inf))
        share = jnp.exp(log_share - jnp.where(peak == -math.inf, 0.0, peak))
        total = jax.lax.stop_gradient(share.sum())
        weight = share / jnp.where(total == 0.0, 1.0, total)
        loss = jnp.where(weight == 0.0, 0.0, -log_p * weight)
    else:
        total = factor.sum() if options.reduction == "mean" else jnp.ones((), factor.dtype)
        unit = factor / jnp.where(total == 0.0, 1.0, total)
        unit = unit * jnp.exp(log_trust)
        weight = jnp.where(unit == 0.0, 0.0, jnp.exp(log_w) * unit)
        largest = _largest(margin.dtype)

        def asarray(table: Any) -> jax.Array:  # the table of an unbounded weighting may exceed float32
            return jnp.asarray(np.clip(table, -largest, largest), margin.dtype)

        value = weighting.loss(margin, jnp, asarray, options.max_margin, options.log_normalizer)
        value = jnp.clip(value, -largest, largest) if options.unbounded else value
        loss = jnp.where(unit == 0.0, 0.0, value * unit)
    half = 0.5 * weight[..., None]
    gradient = jnp.where(is_label, -half, jnp.exp(others - log_rest[..., None]) * half)
    gradient = jnp.where(present[..., None], gradient, 0.0)
    return loss if options.reduction == "none" else loss.sum(), (gradient, like)


def _exponent(
    trust: tuple[float, float], logits: jax.Array, log_p: jax.Array, lead: jax.Array, factor: jax.Array
) -> jax.Array:
    """Return the exponents of p / p_max in the batch; see `Relative`."""
    present = factor != 0.0
    whole = jnp.where(present, factor, 0.0).sum()
    share = jnp.where(present, factor, 0.0) / jnp.where(whole == 0.0, 1.0, whole)
    top = logits.argmax(-1)
    is_top = jax.nn.one_hot(top, logits.shape[-1], dtype=bool)
    others = jnp.where(is_top, -math.inf, logits)
    log_rest = jax.nn.logsumexp(others, axis=-1)
    rest = jax.nn.sigmoid(log_rest - logits.max(-1))  # 1 - p_max, precise where p_max is near 1
    rests = jnp.where(is_top, rest[..., None], 1.0 - jnp.exp(others - log_rest[..., None]) * rest[..., None])
    rests = jnp.where(present[..., None], share[..., None] * rests, 0.0)
    prior_rest = rests.sum(tuple(range(rests.ndim - 1)))[top]
    doubt = jnp.where(present, share * doubt_of(log_p, lead, jnp), 0.0).sum()
    exponent: jax.Array = exponent_of(trust, doubt, rest, prior_rest, jnp)
    return exponent


def _largest(dtype: Any) -> float:
    """Return the value at which the weights of an unbounded weighting saturate."""
    return float(jnp.finfo(dtype).max) * math.exp(-SATURATION)


_loss.defvjp(_loss_and_gradient, _backward)
