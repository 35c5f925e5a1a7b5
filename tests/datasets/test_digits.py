import numpy as np
import pytest

from emphasis.datasets import load_digits


def test_the_split_is_stratified_fixed_and_scaled():
    split, again, other = load_digits(), load_digits(), load_digits(seed=1)
    assert split.train_inputs.shape == (1297, 64)
    assert split.test_inputs.shape == (500, 64)
    assert split.train_inputs.dtype == np.float32
    assert (split.train_inputs.min(), split.train_inputs.max()) == (0.0, 1.0)
    assert np.ptp(np.bincount(split.test_labels)) <= 3
    assert np.array_equal(split.test_inputs, again.test_inputs)
    assert not np.array_equal(split.test_inputs, other.test_inputs)


@pytest.mark.parametrize("test_size", [9, 1788])
def test_an_impossible_split_is_refused(test_size):
    with pytest.raises(ValueError, match="use 10 to 1787"):
        load_digits(test_size)
