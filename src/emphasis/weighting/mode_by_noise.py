"""Which emphasis mode goes with a noise rate: the more labels are wrong, the easier the examples to emphasize.

Source: section 4.1 of "Derivative Manipulation for General Example Weighting".
"""

from __future__ import annotations

import numpy as np

from emphasis.errors import EmphasisValueError

MODES = {0.0: 0.0, 0.2: 1 / 3, 0.4: 1 / 2, 0.6: 2 / 3, 0.8: 2 / 3}
"""The emphasis mode that did best at each noise rate (Table 9 and appendix E)."""


def mode_for(noise_rate: float) -> float:
    """Return the emphasis mode for a noise rate, linear between those of `MODES`.

    Args:
        noise_rate: In [0, 1]; beyond the last of `MODES` its mode holds.

    Raises:
        ValueError: `noise_rate` is no such number.
    """
    if not 0.0 <= noise_rate <= 1.0:
        raise EmphasisValueError(f"noise_rate={noise_rate} is not allowed; use a number in [0, 1]")
    return float(np.interp(noise_rate, list(MODES), list(MODES.values())))


def lam_for(noise_rate: float) -> float:
    """Return DM's lam for a noise rate: that whose mode lam / (lam + 1) is `mode_for`'s (Eq. 12), in [0, 2]."""
    mode = mode_for(noise_rate)
    return mode / (1.0 - mode)
