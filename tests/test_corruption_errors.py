"""Labels, rates and matrices that corruption does not take are named with what is allowed."""

import math

import numpy as np
import pytest

from emphasis.corruption import (
    cifar10_asymmetric,
    from_transition_matrix,
    instance_dependent,
    long_tail,
    pair_flip,
    pn_ratio,
    superclass_swap,
    symmetric,
)

EYE = np.eye(2)


HALF = np.full((2, 2), 0.5)


ERRORS = [
    (lambda: symmetric([[0, 1]], 0.1), ValueError, r"shape \(1, 2\), not \(N,\).*argmax"),
    (lambda: symmetric(3, 0.1), ValueError, r"shape \(\), not \(N,\)"),
    (lambda: symmetric([], 0.1), ValueError, "labels are empty"),
    (lambda: symmetric([0.0, 1.0], 0.1), TypeError, r"labels are float64.*astype\(int\)"),
    (lambda: symmetric([True, False], 0.1), TypeError, "labels are bool"),
    (lambda: symmetric(["cat"], 0.1), TypeError, "labels are <U3"),
    (lambda: symmetric([-100, 1], 0.1), ValueError, "labels hold -100.*leave ignored examples out"),
    (lambda: symmetric([0, 7], 0.1, num_classes=5), ValueError, r"hold 7, outside \[0, 4\] of num_classes=5"),
    (lambda: symmetric([0, 0], 0.1), ValueError, "only class 0; pass num_classes >= 2"),
    (lambda: symmetric([0], 0.1, num_classes=1), ValueError, "num_classes=1 is not allowed.*integer >= 2"),
    (lambda: symmetric([0], 0.1, num_classes=2.0), TypeError, "num_classes=2.0 is not allowed"),
    (lambda: symmetric([0, 1], math.nan), ValueError, r"symmetric: noise_rate=nan.*in \[0, 1\]"),
    (lambda: symmetric([0, 1], 40), ValueError, r"symmetric: noise_rate=40.*in \[0, 1\]"),
    (lambda: pair_flip([0, 1], -0.1), ValueError, r"pair_flip: noise_rate=-0.1.*in \[0, 1\]"),
    (lambda: cifar10_asymmetric([0, 1], "0.4"), TypeError, "cifar10_asymmetric: noise_rate must be a number"),
    (lambda: cifar10_asymmetric([10], 0.1), ValueError, "hold 10.*num_classes=10"),
    (lambda: symmetric([0, 1], 0.1, sampling="some"), ValueError, "sampling='some'.*'exact', 'independent'"),
    (lambda: symmetric([0, 1], 0.1, seed=None), TypeError, "seed=None.*integer >= 0"),
    (lambda: symmetric([0, 1], 0.1, seed=True), TypeError, "seed=True"),
    (lambda: symmetric([0, 1], 0.1, seed=-1), ValueError, "seed=-1"),
    (
        lambda: superclass_swap([0], 0.1, superclass=[0, 0, 4]),
        ValueError,
        "superclass 4 has one class, 2.*two",
    ),
    (lambda: superclass_swap([0], 0.1, superclass=EYE), ValueError, r"superclass has shape \(2, 2\).*\(C,\)"),
    (lambda: superclass_swap([100], 0.1), ValueError, "hold 100.*num_classes=100"),
    (
        lambda: from_transition_matrix([0], np.ones((2, 3)) / 3),
        ValueError,
        r"shape \(2, 3\): it must be square",
    ),
    (lambda: from_transition_matrix([0], [1.0]), ValueError, r"shape \(1,\): it must be square"),
    (lambda: from_transition_matrix([0], [[0.9, 0.1], [0.2, 0.7]]), ValueError, "row 1 .*0.8999.*transpose"),
    (lambda: from_transition_matrix([0], EYE + 1e-7), ValueError, "row 0 .*within 1e-08"),
    (lambda: from_transition_matrix([0], [[1.5, -0.5], [0, 1]]), ValueError, r"\[0, 1\]=-0.5 .*in \[0, 1\]"),
    (lambda: from_transition_matrix([0], [[1, 0], [math.nan, 1]]), ValueError, r"\[1, 0\]=nan"),
    (lambda: from_transition_matrix([2], EYE), ValueError, "hold 2.*num_classes=2"),
    (lambda: instance_dependent([0, 1], 0.1), TypeError, "either probabilities.*or difficulty"),
    (lambda: instance_dependent([0, 1], 0.1, probabilities=HALF, difficulty=[1, 1]), TypeError, "either"),
    (
        lambda: instance_dependent([0, 1], 0.1, probabilities=[1, 1]),
        ValueError,
        r"has shape \(2,\).*need \(2, 2\)",
    ),
    (
        lambda: instance_dependent([0, 1], 0.1, probabilities=HALF, num_classes=3),
        ValueError,
        r"need \(2, 3\)",
    ),
    (
        lambda: instance_dependent([0, 1], 0.1, probabilities=EYE * 2),
        ValueError,
        "row 0 of probabilities.*2.0",
    ),
    (
        lambda: instance_dependent([0, 1], 0.1, difficulty=[1]),
        ValueError,
        r"difficulty has shape \(1,\).*\(2,\)",
    ),
    (lambda: instance_dependent([0, 1], 0.1, difficulty=[1, -2]), ValueError, "holds -2: .*finite and >= 0"),
    (lambda: instance_dependent([0, 1], 0.1, difficulty=[1, math.inf]), ValueError, "holds inf"),
    (lambda: instance_dependent([0, 1], 0.6, difficulty=[1, 0]), ValueError, "noise_rate=0.6 exceeds 0.5"),
    (lambda: instance_dependent([0, 1], 0.6, difficulty=[0, 0]), ValueError, "noise_rate=0.6 exceeds 0,"),
    (lambda: pn_ratio([0, 0], 2), ValueError, r"must hold positive=1 and others; they hold \[0\]"),
    (lambda: pn_ratio([1, 1], 2), ValueError, r"must hold positive=1 and others; they hold \[1\]"),
    (lambda: pn_ratio([1, 1, 0], 1), ValueError, "ratio=1: 2 positives and 1 negatives allow 2 to 2"),
    (lambda: pn_ratio([1, 1, 0], 9), ValueError, "ratio=9"),
    (lambda: pn_ratio([1, 1, 0], 0), ValueError, "ratio=0: .*allow 2 to 2"),
    (lambda: pn_ratio([1, 1, 0], 5e-324), ValueError, "allow 2 to 2"),
    (lambda: pn_ratio([1, 0], -1), ValueError, "pn_ratio: ratio=-1"),
    (lambda: long_tail([0, 2], 10), ValueError, "class 1 of 3 has no example"),
    (lambda: long_tail([0, 1], 0.5), ValueError, "imbalance_factor=0.5.*>= 1"),
]


@pytest.mark.parametrize(("call", "kind", "message"), ERRORS, ids=[message for _, _, message in ERRORS])
def test_bad_input_is_named_with_what_is_allowed(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
