"""Worst error of the derivative against mpmath, by family and dtype: python benchmarks/derivative_accuracy.py.

Each family of tests/reference.py at margins 0, +-1, +-20, +-100, +-1e4, four classes, normalization None, max_margin
None. The error is relative to each entry's exact value for the same logits, counted where that is a normal number of
the dtype's arithmetic (float32 for halves; fp16 entries below its smallest normal number, 6.1e-5, are left out).
"""

import math
import platform
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

from emphasis.torch import emphasis_loss

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from reference import CASES, MARGINS, exact_derivative

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def worst_error(weighting, w, dtype) -> float:
    """Return the largest relative error over the margins; inf if an entry is not finite."""
    floor = max(torch.finfo(dtype).tiny, torch.finfo(torch.promote_types(dtype, torch.float32)).tiny)
    worst = 0.0
    for margin in MARGINS:
        logits = torch.tensor([[0.3, margin + 1.1, -1.2, 0.7]], dtype=dtype, requires_grad=True)
        emphasis_loss(logits, torch.tensor([1]), weighting, normalization=None, max_margin=None).backward()
        expected, weight = exact_derivative(w, logits[0].tolist(), 1)
        got = logits.grad[0].double().tolist()
        pairs = [*zip(got, expected, strict=True), (math.fsum(map(abs, got)), weight)]
        for ours, theirs in pairs:
            if not math.isfinite(ours):
                return math.inf
            if abs(theirs) >= floor:
                worst = max(worst, float(abs(ours - theirs) / abs(theirs)))
    return worst


def main() -> None:
    warnings.simplefilter("ignore")
    print(f"torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}; n = {len(MARGINS)} margins each")
    print(f"{'':48}" + "".join(f"{str(dtype).removeprefix('torch.'):>12}" for dtype in DTYPES))
    overall = dict.fromkeys(DTYPES, 0.0)
    for weighting, w, _ in CASES:
        errors = {dtype: worst_error(weighting, w, dtype) for dtype in DTYPES}
        overall = {dtype: max(overall[dtype], error) for dtype, error in errors.items()}
        print(f"{weighting!r:48}" + "".join(f"{error:12.1e}" for error in errors.values()))
    print(f"{'worst':48}" + "".join(f"{error:12.1e}" for error in overall.values()))


if __name__ == "__main__":
    main()
