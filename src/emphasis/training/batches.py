"""Which examples each step sees: a pure function of seed and iteration, so that a resumed run goes on alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=256)
def _permutation(seed: int, epoch: int, num_examples: int) -> NDArray[np.int64]:
    order = np.random.default_rng([seed, epoch]).permutation(num_examples)
    order.flags.writeable = False
    return order


def batch_indices(seeds: Sequence[int], iteration: int, num_examples: int, batch_size: int) -> NDArray[np.int64]:
    """Return the examples of one step, (len(seeds), batch_size); an epoch leaves out its incomplete last batch.

    Raises:
        ValueError: `batch_size` exceeds `num_examples`.
    """
    if batch_size > num_examples:
        raise ValueError(f"batch_size={batch_size} exceeds the {num_examples} training examples; use a smaller one")
    epoch, batch = divmod(iteration, num_examples // batch_size)
    window = slice(batch * batch_size, (batch + 1) * batch_size)
    return np.stack([_permutation(seed, epoch, num_examples)[window] for seed in seeds])
