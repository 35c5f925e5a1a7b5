"""scikit-learn's digits: 1,797 scans of handwritten digits of 8 x 8 pixels, shipped with scikit-learn.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998
(its test part), https://doi.org/10.24432/C50P49, CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from emphasis.datasets.download import Progress
from emphasis.datasets.split import Split
from emphasis.errors import EmphasisValueError

_NUM_EXAMPLES = 1797
_NUM_CLASSES = 10
_LARGEST_PIXEL = 16.0


def load_digits(test_size: int = 500, seed: int = 0) -> Split:
    """Return the digits, with pixels in [0, 1] and a stratified test part.

    Args:
        test_size: Number of test examples, 10 to 1,787 (each class needs an example in both parts).
        seed: Seed of the split.

    Raises:
        ValueError: `test_size` is out of range.
    """
    if not _NUM_CLASSES <= test_size <= _NUM_EXAMPLES - _NUM_CLASSES:
        raise EmphasisValueError(
            f"test_size={test_size} is not allowed; digits has {_NUM_EXAMPLES} examples of {_NUM_CLASSES} classes, "
            f"so use {_NUM_CLASSES} to {_NUM_EXAMPLES - _NUM_CLASSES}"
        )
    import sklearn.datasets
    import sklearn.model_selection

    digits: Any = sklearn.datasets.load_digits()
    inputs = (digits.data / _LARGEST_PIXEL).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train_inputs, test_inputs, train_labels, test_labels = sklearn.model_selection.train_test_split(
        inputs, labels, test_size=test_size, stratify=labels, random_state=seed
    )
    return Split(train_inputs, train_labels, test_inputs, test_labels, _NUM_CLASSES, picture=(8, 8))


def load_digits_split(_root: Path, _progress: Progress, *, test_size: int = 500, seed: int = 0) -> Split:
    """Return scikit-learn's digits as `emphasis.datasets.load` calls it; see `load_digits`."""
    return load_digits(test_size, seed)
