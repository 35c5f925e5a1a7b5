"""Steps, labels and comparisons of the tests of methods for videos."""

import torch

from emphasis.baselines import Step

CLASSES, CHANNELS = 3, 5


def random_labels(n, seed=0):
    """Return labels of `CLASSES` classes."""
    return torch.randint(CLASSES, (n,), generator=torch.Generator().manual_seed(seed))


def exactly(found, expected):
    """Compare in float64."""
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=1e-10, atol=1e-10)


def random(*shape, seed=0):
    """Return normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fed(labels, logits, features=None, maps=None):
    """Return a step with what the network would return."""
    rows = torch.arange(len(labels))
    return Step(logits, labels, rows, 0.0, lambda _: logits, None, lambda: features, lambda: maps)
