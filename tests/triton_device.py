"""What the tests of the Triton kernels share: on the GPU if there is one, else in Triton's interpreter.

The interpreter must be chosen before Triton is imported, and torch.compile imports it too. So without a GPU one test,
in kernels/test_triton.py, runs all the others in a process of their own.
"""

import os

import numpy as np
import torch

from emphasis.kernels import gpu
from emphasis.kernels.gpu import GPU
from emphasis.weighting.margin_table import margin_table

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
RUNS = gpu.available(DEVICE)
IGNORED = -100
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def on_device(test):
    """Collect the test only where the kernels run."""
    test.__test__ = RUNS
    return test


def on_host(test):
    """Collect the test only outside the interpreter."""
    test.__test__ = not INTERPRETED
    return test


def on_the_device(array, dtype=None):
    return torch.as_tensor(array, dtype=dtype).to(DEVICE)


def packed(weighting, setting="auto", log_normalizer=0.0):
    table = margin_table(weighting, weighting.max_margin(setting), log_normalizer)
    return None if table is None else on_the_device(table.packed)


def batch(shape, seed, dtype=torch.float32, spread=4.0):
    rng = np.random.default_rng(seed)
    logits = on_the_device(rng.normal(size=shape) * spread, dtype)
    return logits, on_the_device(rng.integers(0, shape[1], (shape[0], *shape[2:])))


def float64(tensor):
    return tensor.detach().cpu().double().numpy()


def compute(
    logits, labels, table, factor=None, ignore_index=IGNORED, reduction="none", is_batch=False, where="new memory"
):
    """The loss, and its derivative times what it is still to be multiplied by, in the logits' dtype and in float64."""
    loss, gradient, pending = GPU.loss_of_labels(
        logits, labels, factor, table, ignore_index, reduction, is_batch, where
    )
    assert loss.dtype == torch.float32
    assert loss.shape == (labels.shape if reduction == "none" else ())
    if where == "nothing":
        return loss, gradient, pending
    assert gradient.dtype == logits.dtype
    assert gradient.shape == logits.shape
    return loss, gradient, float64(gradient) * float(pending)
