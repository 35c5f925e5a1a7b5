"""An estimate of how many labels are wrong, to be compared with the share of suspects."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
