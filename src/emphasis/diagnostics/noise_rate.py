"""How many labels are wrong, and which emphasis mode goes with that. Pure functions of numpy arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MODES = {0.0: 0.0, 0.2: 1 / 3, 0.4: 1 / 2, 0.6: 2 / 3, 0.8: 2 / 3}
"""The emphasis mode that did best at each noise rate (Table 9 and appendix E of "Derivative Manipulation for General
Example Weighting"): the more labels are wrong, the easier the examples to emphasise (section 4.1)."""


def mode_for(noise_rate: float) -> float:
    """Return the emphasis mode for a noise rate, linear between those of `MODES`.

    Args:
        noise_rate: In [0, 1]; beyond the last of `MODES` its mode holds.

    Raises:
        ValueError: `noise_rate` is no such number.
    """
    if not 0.0 <= noise_rate <= 1.0:
        raise ValueError(f"noise_rate={noise_rate} is not allowed; use a number in [0, 1]")
    return float(np.interp(noise_rate, list(MODES), list(MODES.values())))


def lam_for(noise_rate: float) -> float:
    """Return DM's lam for a noise rate: that whose mode lam / (lam + 1) is `mode_for`'s (Eq. 12), in [0, 2]."""
    mode = mode_for(noise_rate)
    return mode / (1.0 - mode)


def mixture_noise_rate(score: NDArray[np.float64]) -> float:
    """Return the share of the lower of two normal distributions, fitted to scores by scikit-learn: a noise rate.

    To be compared with the share of outvoted labels (`Suspects.noise_rate`), which is nearer to the truth: where few
    labels are wrong, the lower distribution takes the hard ones among the right.

    Args:
        score: (n,) mean margins of labels, n >= 2.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(score, dtype=np.float64)[:, None]
    start = np.quantile(values, (0.1, 0.9))[:, None]
    mixture = GaussianMixture(2, means_init=start, random_state=0).fit(values)
    return float(mixture.weights_[np.argmin(mixture.means_[:, 0])])
