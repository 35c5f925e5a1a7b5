"""An estimate of the noise rate, for comparison with the share of suspects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def mixture_noise_rate(score: NDArray[np.float64]) -> float:
    """Return the weight of the lower component of a mixture of two normal distributions, fitted to the scores.

    The share of outvoted labels (`Suspects.noise_rate`) is the better estimate: where few labels are wrong, the lower
    component also contains hard examples whose labels are correct.

    Args:
        score: (n,) mean margins of labels, n >= 2.
    """
    from sklearn.mixture import GaussianMixture

    values = np.asarray(score, dtype=np.float64)[:, None]
    start = np.quantile(values, (0.1, 0.9))[:, None]
    mixture = GaussianMixture(2, means_init=start, random_state=0).fit(values)
    return float(mixture.weights_[np.argmin(mixture.means_[:, 0])])
