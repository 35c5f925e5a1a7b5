"""What recording an emphasis trace adds to a training step: the same steps with and without, in turn.

    python benchmarks/trace_overhead.py        # about 3 minutes on two cores

Prints, and writes to results/trace_overhead.json, the time of a step of ResNet-20 on images of 32 x 32, and the ratio
of the two, pair by pair.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import torch

from emphasis import DM
from emphasis.diagnostics.trace import EmphasisTrace
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text
from emphasis.models import build
from emphasis.torch import EmphasisLoss

EXAMPLES = 50_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=8, help="in a round")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=Path("results/trace_overhead.json"))
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(options.batch_size, 3, 32, 32, generator=generator).to(device)
    labels = torch.randint(0, 10, (options.batch_size,), generator=generator).to(device)
    network = build("resnet20", (3, 32, 32), 10, seed=0).to(device)
    criterion = EmphasisLoss(DM(lam=0.5, beta=12))
    optimizer = torch.optim.SGD(network.parameters(), 1e-3, momentum=0.9)
    subset = torch.arange(EXAMPLES) % 10 == 0

    def steps(trace: EmphasisTrace | None) -> float:
        began = time.perf_counter()
        for _ in range(options.steps):
            rows = torch.randint(0, EXAMPLES, (options.batch_size,))
            logits = network(inputs)
            loss = criterion(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            if trace is not None:
                trace.record(rows, logits, labels)
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - began) / options.steps

    with (
        tempfile.TemporaryDirectory() as folder,
        EmphasisTrace(folder, EXAMPLES, criterion, subsets={"s": subset}) as t,
    ):
        steps(None), steps(t)
        pairs = [(steps(None), steps(t)) for _ in range(options.rounds)]
        began = time.perf_counter()
        t.end_row()
        row = time.perf_counter() - began
    ratios = sorted(with_trace / without for without, with_trace in pairs)
    alone = time_of_record(criterion, options.batch_size, device, subset)
    report = {
        "network": "resnet20",
        "batch_size": options.batch_size,
        "rounds": options.rounds,
        "steps": options.steps,
        "step_seconds": statistics.median(without for without, _ in pairs),
        "ratio": {"median": statistics.median(ratios), "quartiles": statistics.quantiles(ratios, n=4)[::2]},
        "record_seconds": alone,
        "row_seconds": row,
        "examples": EXAMPLES,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "revision": revision(),
    }
    report["record_share"] = alone / report["step_seconds"]
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def time_of_record(criterion: EmphasisLoss, size: int, device: torch.device, subset: torch.Tensor) -> float:
    """Return the median time of `record` alone, which pairs of steps are too noisy to tell."""
    logits, labels = torch.randn(size, 10, device=device), torch.zeros(size, dtype=torch.int64, device=device)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmphasisTrace(folder, 200 * EXAMPLES, criterion, subsets={"s": subset.repeat(200)}) as trace,
    ):
        times = []
        for _ in range(200):
            rows = torch.randint(0, EXAMPLES, (size,))
            began = time.perf_counter()
            trace.record(rows, logits, labels)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        trace._recorded = 0  # nothing to be written
    return statistics.median(times)


if __name__ == "__main__":
    main()
