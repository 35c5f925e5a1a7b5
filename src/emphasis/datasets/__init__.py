"""Real data sets, as arrays. Each module imports what it needs when it is asked for data."""

from emphasis.datasets.digits import Split, load_digits

__all__ = ["Split", "load_digits"]
