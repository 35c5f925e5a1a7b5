"""The emphasis mode for a noise rate: the more labels are wrong, the easier the examples that should be emphasized.

Source: section 4.1 of "Derivative Manipulation for General Example Weighting".
"""

from __future__ import annotations

import numpy as np

from emphasis.errors import EmphasisValueError

MODES = {0.0: 0.0, 0.2: 1 / 3, 0.4: 1 / 2, 0.6: 2 / 3, 0.8: 2 / 3}
"""The best emphasis mode at each noise rate (Table 9 and appendix E)."""


def mode_for(noise_rate: float) -> float:
    """Return the emphasis mode for a noise rate, interpolated linearly in `MODES`.

    Args:
        noise_rate: Share of wrong labels, in [0, 1]. Beyond the largest rate of `MODES` the mode is constant.

    Raises:
        ValueError: `noise_rate` is not in [0, 1].
    """
    if not 0.0 <= noise_rate <= 1.0:
        raise EmphasisValueError(f"noise_rate={noise_rate} is not allowed; use a number in [0, 1]")
    return float(np.interp(noise_rate, list(MODES), list(MODES.values())))


def lam_for(noise_rate: float) -> float:
    """Return the lam in [0, 2] for which the mode of DM, lam / (lam + 1), is that of `mode_for` (Eq. 12).

    Examples:
        >>> from emphasis.weighting import lam_for, mode_for
        >>> mode_for(0.4), lam_for(0.4)
        (0.5, 1.0)
    """
    mode = mode_for(noise_rate)
    return mode / (1.0 - mode)
