"""Controls for what training has learned: what a figure is worth where there is nothing to be learned.

Trained figures differ from processor to processor and from seed to seed. A test of one compares it with the same
training of a control (cross-entropy, a parameter that is off, no training), with shuffled truth, or with chance.
"""

import numpy as np


def share_of_the_way(found, control, best=1.0):
    """Return how far `found` has come from the control's figure to the best one: 0 is the control's, 1 the best."""
    share = (found - control) / (best - control)
    print(f"{found:.4g} is {share:.0%} of the way from {control:.4g} to {best:.4g}")  # shown where a test fails
    return share


def deviations_from_chance(score, truth, draws=200):
    """Return by how many standard deviations `score(truth)` lies above its mean over shuffled truths."""
    rng, truth = np.random.default_rng(0), np.asarray(truth)
    found = score(truth)
    shuffled = np.array([score(rng.permutation(truth)) for _ in range(draws)])
    far = (found - shuffled.mean()) / max(shuffled.std(), 1e-12)
    print(f"{found:.4g} is {far:.1f} deviations above {shuffled.mean():.4g}, that of shuffled truth")
    return far


def right_beyond_chance(predicted, truth):
    """Return whether predictions are right more often than any luck makes them: by more than six deviations."""
    predicted = np.asarray(predicted)
    return deviations_from_chance(lambda labels: np.mean(predicted == labels), truth) > 6.0
