"""Forward and backward pass of the default loss and of DM beside F.cross_entropy, in one process, interleaved.

    python benchmarks/default_speed.py [--threads 2] [--rounds 7]

Prints for each shape the ratio of the medians of each round: median, least and largest over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from emphasis import DM
from emphasis.torch import EmphasisLoss

SHAPES = ((256, 10), (256, 100), (4096, 1000), (4096, 32_000))
WARM_UP = 3


def seconds(loss: Callable[[Tensor], Tensor], logits: Tensor, passes: int) -> float:
    """Return the median time of a forward and a backward pass."""
    times = []
    for _ in range(passes + WARM_UP):
        logits.grad = None
        start = time.perf_counter()
        loss(logits).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    losses = {
        'DM, "integral"': EmphasisLoss(DM(lam=0.5, beta=12), normalization="integral"),
        "Relative": EmphasisLoss(),
    }
    for rows, classes in SHAPES:
        logits, labels = torch.randn(rows, classes, requires_grad=True), torch.randint(classes, (rows,))
        passes = max(1, min(200, 30_000_000 // (rows * classes)))
        ratios: dict[str, list[float]] = {name: [] for name in losses}
        for _ in range(options.rounds):
            reference = seconds(lambda z, labels=labels: F.cross_entropy(z, labels), logits, passes)
            for name, criterion in losses.items():
                taken = seconds(lambda z, labels=labels, criterion=criterion: criterion(z, labels), logits, passes)
                ratios[name].append(taken / reference)
        for name, found in ratios.items():
            print(
                f"{rows:,} x {classes:,} {name}: {statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"
            )


if __name__ == "__main__":
    main()
