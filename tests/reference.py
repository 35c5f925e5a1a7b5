"""The families written a second time, literally from the paper, in mpmath: what the tests compare with."""

from collections.abc import Callable
from typing import Any

import mpmath as mp
import numpy as np
from hypothesis import strategies as st

from emphasis import (
    CCE,
    DM,
    GCE,
    IMAE,
    MAE,
    MSE,
    SCE,
    Beta,
    Exponential,
    Focal,
    Normal,
    Spline,
    Uniform,
    Weighting,
    from_function,
    from_loss,
)

mp.mp.dps = 60
MARGINS = (0.0, 1.0, -1.0, 20.0, -20.0, 100.0, -100.0, 1e4, -1e4)
MpFunction = Callable[[Any, Any], Any]


def polynomial(p):
    """A user's weighting."""
    return p**2 * (1 - p) + 0.25


def polynomial_q(p, q):
    """A user's weighting that keeps the digits of 1-p."""
    return p * q**1.5


def minus_log(p):
    """A user's loss."""
    return -np.log(p)


def _focal(gamma: float) -> MpFunction:
    return lambda p, q: 2 * q**gamma * (q - gamma * p * mp.log(p))


def _dm(lam: float, beta: float, minus: int = 0) -> MpFunction:
    def w(p, q):
        return mp.expm1(beta * p**lam * q) if minus else mp.exp(beta * p**lam * q)

    return w


def _spline(p, q):
    """Two cubics, with the derivatives 5, 0 and -7 at 0, 1/2 and 1."""
    if p < 0.5:
        s = 2 * p
        return (2 * s**3 - 3 * s**2 + 1) + mp.mpf(2.5) * (s**3 - 2 * s**2 + s) + 2 * (3 * s**2 - 2 * s**3)
    r = 2 * q
    return mp.mpf(3.5) * (r**3 - 2 * r**2 + r) + 2 * (3 * r**2 - 2 * r**3)


# (weighting, w(p, 1-p) from the text, the loss L(p) with its usual constant where it has one)
CASES: list[tuple[Weighting, MpFunction, MpFunction | None]] = [
    (CCE(), lambda p, q: 2 * q, lambda p, q: -mp.log(p)),
    (MAE(), lambda p, q: 2 * p * q, lambda p, q: q),
    (MSE(), lambda p, q: 4 * p * q**2, lambda p, q: q**2),
    (GCE(0.7), lambda p, q: 2 * p ** mp.mpf(0.7) * q, lambda p, q: (1 - p ** mp.mpf(0.7)) / mp.mpf(0.7)),
    (GCE(0.04), lambda p, q: 2 * p ** mp.mpf(0.04) * q, lambda p, q: (1 - p ** mp.mpf(0.04)) / mp.mpf(0.04)),
    (DM(lam=0.5, beta=12), _dm(0.5, 12), None),
    (DM(lam=0.001, beta=3), _dm(0.001, 3), None),
    (DM(lam=0, beta=-2), _dm(0, -2), None),
    (DM(lam=2, beta=-3), _dm(2, -3), None),
    (DM(lam=0.5, beta=12, vanishing=True), _dm(0.5, 12, 1), None),
    (DM(lam=0, beta=0.01, vanishing=True), _dm(0, 0.01, 1), None),
    (Normal(psi=0.3, beta=8), lambda p, q: mp.exp(-8 * p * (p - 2 * mp.mpf(0.3))), None),
    (Exponential(2.0), lambda p, q: mp.exp(2 * q), None),
    (Beta(alpha=2.5, eta=1.5), lambda p, q: p**1.5 * q**0.5, None),
    (Beta(alpha=0.999, eta=2), lambda p, q: p ** (mp.mpf(0.999) - 1) * q, None),
    (
        SCE(mu=0.1, nu=1.0, A=-4.0),
        lambda p, q: 2 * mp.mpf(0.1) * q + 8 * p * q,
        lambda p, q: -mp.mpf(0.1) * mp.log(p) + 4 * q,
    ),
    (SCE(mu=0.0, nu=0.5, A=-4.0), lambda p, q: 4 * p * q, lambda p, q: 2 * q),
    (Focal(2.0), _focal(2.0), lambda p, q: -(q**2) * mp.log(p)),
    (Focal(0.5), _focal(0.5), lambda p, q: -mp.sqrt(q) * mp.log(p)),
    (IMAE(8.0), _dm(1, 8), None),
    (Uniform(), lambda p, q: mp.mpf(1), None),
    (Spline(((0, 1), (0.5, 2), (1, 0))), _spline, None),
    (CCE() + 0.5 * MAE(), lambda p, q: 2 * q + p * q, lambda p, q: -mp.log(p) + q / 2),
    (0.5 * (DM(lam=1, beta=4) + MSE()), lambda p, q: (mp.exp(4 * p * q) + 4 * p * q**2) / 2, None),
]
CASE_IDS = [repr(case[0]) for case in CASES]

# Users' functions see p and 1-p themselves, so they have "the accuracy they have": compared where p has its digits.
USER_CASES: list[tuple[Weighting, MpFunction]] = [
    (from_function(polynomial), lambda p, q: p**2 * q + mp.mpf(0.25)),
    (from_function(polynomial_q), lambda p, q: p * q**1.5),
    (from_loss(minus_log), lambda p, q: 2 * q),
]


def probabilities(margin: float) -> tuple[Any, Any]:
    """Return p and 1-p of a margin in mpmath."""
    margin = mp.mpf(margin)
    return 1 / (1 + mp.exp(-margin)), 1 / (1 + mp.exp(margin))


def exact_derivative(w: MpFunction, logits: list[float], label: int) -> tuple[list[Any], Any]:
    """Return the derivative of one example with respect to its logits, and its L1 norm w(p), in mpmath."""
    z = [mp.mpf(float(x)) for x in logits]
    rest = [mp.exp(x) if j != label else mp.mpf(0) for j, x in enumerate(z)]
    total = mp.fsum(rest)
    weight = w(*probabilities(z[label] - mp.log(total)))
    return [-weight / 2 if j == label else weight / 2 * rest[j] / total for j in range(len(z))], weight


def integral(w: MpFunction, a: float = 0.0, b: float = 1.0) -> Any:
    """Return the integral of w over [a, b] by mpmath's own quadrature, split where weightings bend."""
    inner = [x for x in (1e-9, 1e-6, 1e-4, 1e-2, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.9, 0.99) if a < x < b]
    with mp.workdps(30):
        return mp.quad(lambda p: w(p, 1 - p), [a, *inner, b])


@st.composite
def weightings(draw) -> Weighting:
    """Any built-in family with random parameters."""
    positive = st.floats(0.05, 8.0)
    family = draw(st.sampled_from(["CCE", "GCE", "MAE", "MSE", "DM", "vDM", "Normal", "Exp", "Beta", "SCE", "Focal"]))
    match family:
        case "CCE" | "MAE" | "MSE":
            return {"CCE": CCE, "MAE": MAE, "MSE": MSE}[family]()
        case "GCE":
            return GCE(draw(st.floats(0.0, 1.0)))
        case "DM":
            return DM(lam=draw(st.floats(0.0, 4.0)), beta=draw(st.floats(-8.0, 24.0)))
        case "vDM":
            return DM(lam=draw(st.floats(0.0, 4.0)), beta=draw(st.floats(0.01, 24.0)), vanishing=True)
        case "Normal":
            return Normal(psi=draw(st.floats(0.0, 1.5)), beta=draw(st.floats(-6.0, 12.0)))
        case "Exp":
            return Exponential(draw(st.floats(-8.0, 8.0)))
        case "Beta":
            return Beta(alpha=draw(st.floats(1.0, 6.0)), eta=draw(st.floats(1.0, 6.0)))
        case "SCE":
            return SCE(mu=draw(positive), nu=draw(positive), A=-draw(positive))
        case _:
            return Focal(draw(st.floats(0.0, 5.0)))


def loss_reference(logits, labels, weighting, normalization, reduction, ignore_index, weight, max_margin):
    """Gradient and loss in float64 numpy from Eq. 7, of the very logits given."""
    valid = labels != ignore_index
    counted = np.where(valid, weight, 0.0)
    raw = weighting.derivative(logits, np.where(valid, labels, 0), max_margin) * np.expand_dims(counted, 1)
    others = np.where(
        np.arange(logits.shape[1]).reshape(-1, *[1] * (labels.ndim - 1)) == labels[:, None], -np.inf, logits
    )
    own = np.take_along_axis(logits, np.where(valid, labels, 0)[:, None], 1)[:, 0]
    margin = np.where(valid, own - np.logaddexp.reduce(others, 1), 0.0)
    if normalization == "batch":
        total = np.abs(raw).sum() or 1.0
        share = np.abs(raw).sum(1) / total
        return raw / total, share * np.logaddexp(0.0, -margin)
    scale = weighting.integral if normalization == "integral" else 1.0
    scale *= (counted.sum() or 1.0) if reduction == "mean" else 1.0
    return raw / scale, counted * weighting.potential(margin, max_margin) / scale


def recounted(true, noisy, num_classes):
    """The realized transition matrix by the definition, one label at a time."""
    counts = np.zeros((num_classes, num_classes))
    for a, b in zip(true, noisy, strict=True):
        counts[a, b] += 1
    for row in range(num_classes):
        counts[row] = counts[row] / counts[row].sum() if counts[row].any() else np.eye(num_classes)[row]
    return counts
