"""Emphasis in JAX: `emphasis_loss`, the function of `emphasis.torch` for arrays whose last axis is the classes.

Needs the extra `jax`. Works under jit, vmap, grad and their combinations, and can be differentiated twice.

from emphasis import DM
from emphasis.jax import emphasis_loss

jax.grad(lambda params: emphasis_loss(apply(params, x), labels, DM(lam=0.5, beta=12)))(params)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.weighting import FunctionWeighting, MaxMargin, Weighting, WeightingLike, as_weighting
from emphasis.weighting.options import SATURATION, Normalization, Reduction, check_options

try:
    import jax
    import jax.numpy as jnp
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.jax", "jax", error) from None


def emphasis_loss(
    logits: Any,
    labels: Any,
    weighting: WeightingLike,
    *,
    normalization: Normalization = "integral",
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    class_weight: Any = None,
    sample_weight: Any = None,
    max_margin: MaxMargin = "auto",
) -> jax.Array:
    """Return the loss whose derivative has L1 norm w(p) and cross-entropy's direction (Eq. 7 without its 0/0).

    As `emphasis.torch.emphasis_loss`, but for the axis of the classes, which is the last here. Arithmetic in float32
    at least, in float64 for float64 (which JAX has to be told to enable).

    Args:
        logits: (..., C), floating, finite, C >= 2.
        labels: (...) integers in [0, C) or `ignore_index`.
        weighting: A weighting, its dictionary, a family's name, or a function p -> w or (p, 1-p) -> w in jax.numpy.
        normalization: None, "integral" (w divided by its integral, Eq. 8) or "batch" (weights divided by their sum,
            a constant for differentiation).
        reduction: "mean" over class_weight * sample_weight of the valid examples, "sum" or "none", (...). Under
            "batch" the weights are the mean already.
        ignore_index: Label of examples to leave out.
        class_weight: (C,) >= 0, multiplies w by the label's weight.
        sample_weight: (...) >= 0, multiplies w; 0 leaves an example out.
        max_margin: No derivative beyond this margin: a number, None, or "auto": 16.6 if w(1) > 0 and none otherwise.

    Returns:
        The loss in the arithmetic's type. 0, with a gradient of 0, for no valid example.

    Raises:
        TypeError, ValueError: Shapes, dtypes or options do not fit; outside of tracing also labels out of range,
            negative weights, NaN or infinite logits. Traced values are not read: they make the loss NaN, and a label
            out of range has the gradient of no class.
    """
    options = _options(as_weighting(weighting, _JaxFunctionWeighting), normalization, reduction, max_margin)
    logits, labels = jnp.asarray(logits), jnp.asarray(labels)
    if not jnp.issubdtype(logits.dtype, jnp.floating):
        raise EmphasisTypeError(f"logits must be floating, got {logits.dtype}; pass the network's raw outputs")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise EmphasisTypeError(f"labels must be integers, got {labels.dtype}; soft labels are for emphasis.torch")
    if logits.ndim < 1 or logits.shape[-1] < 2 or labels.shape != logits.shape[:-1]:
        raise EmphasisValueError(
            f"logits must be (..., C) with C >= 2 and labels (...), got shapes {logits.shape} and {labels.shape}"
        )
    valid = labels != ignore_index
    factor = valid.astype(jnp.promote_types(logits.dtype, jnp.float32))
    index = jnp.where(valid, labels, 0)
    _check(~valid | ((labels >= 0) & (labels < logits.shape[-1])), labels, f"labels are 0 to {logits.shape[-1] - 1}")
    _check(jnp.isfinite(logits).all(-1) | ~valid, logits, "logits are finite numbers")
    for name, given, shape in (
        ("class_weight", class_weight, logits.shape[-1:]),
        ("sample_weight", sample_weight, labels.shape),
    ):
        if given is not None:
            weight = jnp.asarray(given, factor.dtype)
            if weight.shape != shape:
                raise EmphasisValueError(f"{name} must have shape {shape}, got {weight.shape}")
            _check((weight >= 0) & jnp.isfinite(weight), weight, f"{name} is finite and >= 0")
            factor = factor * (weight[index] if name == "class_weight" else weight)
    return _loss(options, logits, index, factor)


@dataclass(frozen=True)
class _Options:
    weighting: Weighting
    normalization: Normalization
    reduction: Reduction
    max_margin: float
    log_normalizer: float


@lru_cache(maxsize=256)
def _options(
    weighting: Weighting, normalization: Normalization, reduction: Reduction, max_margin: MaxMargin
) -> _Options:
    """Return the options checked, and all that is computed once computed: in numpy, so that it can be traced."""
    check_options(normalization, reduction)
    reach = weighting.max_margin(max_margin)
    if normalization == "batch":
        return _Options(weighting, normalization, reduction, reach, 0.0)
    log_normalizer = weighting.log_normalizer if normalization == "integral" else 0.0
    weighting.prepare(reach)
    return _Options(weighting, normalization, reduction, reach, log_normalizer)


@dataclass(frozen=True, repr=False)
class _JaxFunctionWeighting(FunctionWeighting):
    """A function of JAX arrays, which numpy's sides (mode, integral, table) call in float64."""

    def call(self, function: Any, p: Any, q: Any) -> Any:
        if isinstance(p, jax.Array):
            return super().call(function, p, q)
        with jax.ensure_compile_time_eval(), jax.enable_x64(True):
            return np.asarray(super().call(function, jnp.asarray(p), jnp.asarray(q)))


def _check(holds: jax.Array, values: jax.Array, rule: str) -> None:
    """Raise ValueError unless the rule holds for every example; not while tracing."""
    if not isinstance(holds, jax.core.Tracer) and not bool(holds.all()):
        raise EmphasisValueError(f"{rule}, got {np.asarray(values)[~np.asarray(holds)].flat[0]!s}")


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss(options: _Options, logits: jax.Array, labels: jax.Array, factor: jax.Array) -> jax.Array:
    return _loss_and_gradient(options, logits, labels, factor)[0]


def _backward(_: _Options, kept: tuple[jax.Array, jax.Array], of_loss: jax.Array) -> tuple[jax.Array, None, None]:
    gradient, like = kept
    return (gradient * (of_loss[..., None] if of_loss.ndim else of_loss)).astype(like.dtype), None, None


def _loss_and_gradient(
    options: _Options, logits: jax.Array, labels: jax.Array, factor: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Return the loss, and its derivative with something of the logits' type."""
    like, logits = jnp.zeros((), logits.dtype), logits.astype(factor.dtype)
    own = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    others = jnp.where(own, -math.inf, logits)
    log_rest = jax.nn.logsumexp(others, axis=-1)
    present = factor != 0.0  # NaN is, and reaches the loss
    margin = jnp.where(present, jnp.where(own, logits, 0.0).sum(-1) - log_rest, 0.0)
    log_p, log_q = jax.nn.log_sigmoid(margin), jax.nn.log_sigmoid(-margin)
    log_w = options.weighting.log_weight(log_p, log_q, jnp) - options.log_normalizer
    log_w = jnp.where(margin > options.max_margin, -math.inf, log_w)
    largest = float(jnp.finfo(factor.dtype).max) * math.exp(-SATURATION)
    if options.weighting.log_peak == math.inf:
        log_w = jnp.minimum(log_w, math.log(largest))
    if options.normalization == "batch":
        log_share = log_w + jnp.log(factor)
        peak = jax.lax.stop_gradient(jnp.max(log_share, initial=-1e30))
        total = jax.lax.stop_gradient(jnp.exp(log_share - peak).sum())
        weight = jnp.exp(log_share - peak) / jnp.where(total == 0.0, 1.0, total)
        loss = jnp.where(weight == 0.0, 0.0, -log_p * weight)
    else:
        total = factor.sum() if options.reduction == "mean" else jnp.ones(())
        unit = factor / jnp.where(total == 0.0, 1.0, total)
        weight = jnp.where(unit == 0.0, 0.0, jnp.exp(log_w) * unit)

        def asarray(table: Any) -> jax.Array:  # an unbounded weighting's holds more than float32 does
            return jnp.asarray(np.clip(table, -largest, largest), margin.dtype)

        value = options.weighting.loss(margin, jnp, asarray, options.max_margin, options.log_normalizer)
        loss = jnp.where(unit == 0.0, 0.0, jnp.clip(value, -largest, largest) * unit)
    half = 0.5 * weight[..., None]
    gradient = jnp.where(own, -half, jnp.exp(others - log_rest[..., None]) * half)
    gradient = jnp.where(present[..., None], gradient, 0.0)
    return loss if options.reduction == "none" else loss.sum(), (gradient, like)


_loss.defvjp(_loss_and_gradient, _backward)
