"""What has to hold on a GPU, in one run of at most eight minutes: the tests that need one, and the loss's time.

    python benchmarks/gpu_acceptance.py [--minutes 8] [--out results/gpu_acceptance.json]

Tests on the device come first, spread over the cores where pytest-xdist is installed, for Triton compiles on the host;
they are stopped where the measurements need the time. Then DM's forward and backward pass is timed beside that of
F.cross_entropy as `speed.py` times it, and launches are counted with PyTorch's profiler: those of kernels, without the
one that fills the gradient that a backward pass starts from. Prints a table of ratios, their range over the repeats and
their limits, and writes all of it to JSON after each step. Exits with 0 if everything holds, 1 if not, 2 without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from speed_cases import Case, Contender, cases, contenders
from speed_measure import machine, ratios, time_all

from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

ROOT = Path(__file__).parents[1]
TESTS = ("tests/test_cuda*.py", "tests/training/test_cuda*.py", "tests/kernels/test_triton*.py")
SHORTEST, REPEATS = 0.02, 15
SMALL = Case("128x10", "ResNet-20's loss, 128 x 10", "logits", (128, 10), REPEATS, compiles=True)
EAGER, COMPILED, LARGE = 1.2, 1.05, 0.6
# A case, a contender, what its time is divided by, and the most that may be.
LIMITS: list[tuple[str, str, str, float | None]] = [
    ("128x10", "DM", "F.cross_entropy", EAGER),
    ("128x10", "DM, batch", "F.cross_entropy", None),
    ("128x10", "DM, compiled", "F.cross_entropy, compiled", COMPILED),
    ("4096x1000", "DM", "F.cross_entropy", EAGER),
    ("4096x1000", "DM, batch", "F.cross_entropy", None),
    ("4096x1000", "DM, compiled", "F.cross_entropy, compiled", COMPILED),
    ("4096x32000-bfloat16", "DM", "F.cross_entropy", LARGE),
    ("4096x32000-bfloat16", "DM, batch", "F.cross_entropy", None),
    ("4096x32000-float32", "DM", "F.cross_entropy", LARGE),
    ("4096x32000-float32", "DM, batch", "F.cross_entropy", None),
]
MEASURING, CASE = 180.0, 45.0  # seconds that measuring takes, and each of its cases
TO_END = 15.0  # seconds that tests have to end once they are stopped
LAUNCHES_OF = 4  # calls


def run_tests(paths: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return how many tests passed, failed and were skipped, and which failed; stop them after some time."""
    workers = ["-n", str(min(8, os.cpu_count() or 1))] if importlib.util.find_spec("xdist") else []
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *workers]
        # In a group of its own, so that what it started ends with it.
        process = subprocess.Popen([*command, *paths], cwd=ROOT, start_new_session=True)
        try:
            status: int | str = process.wait(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # upon which pytest says how far it has come
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=TO_END)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = f"stopped after {seconds:.0f} s"
        found = list(ElementTree.parse(report).iter("testcase")) if report.is_file() else []
    kinds = [next((child.tag for child in case if child.tag != "properties"), "passed") for case in found]
    failed = [
        f"{case.get('classname')}::{case.get('name')}"
        for case, kind in zip(found, kinds, strict=True)
        if kind in ("failure", "error")
    ]
    return {"status": status, "seconds": time.monotonic() - start, **Counter(kinds), "failed": failed}


def launches(rival: Contender) -> dict[str, float]:
    """Return how often each kernel starts in a forward and backward pass, without what fills a gradient with ones."""
    rival.prepare()
    rival.run()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(LAUNCHES_OF):
            rival.run()
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    counted = Counter(name for name in names if "FillFunctor" not in name)
    return {name[:120]: number / LAUNCHES_OF for name, number in counted.items()}


def measure(case: Case, device: str) -> list[dict[str, Any]]:
    """Return a row for each pair of contenders that has a limit, or none but is of interest."""
    pairs = [(name, reference, limit) for of, name, reference, limit in LIMITS if of == case.name]
    wanted = {one for name, reference, _ in pairs for one in (name, reference)}
    rivals = [rival for rival in contenders(case, device) if rival.name in wanted]
    timings = time_all(case, rivals, device, case.repeats, SHORTEST)
    of_each = {rival.name: launches(rival) if device == "cuda" else {} for rival in rivals}
    rows = []
    for name, reference, limit in pairs:
        found = ratios(timings[name], timings[reference])
        rows.append(
            {
                "case": case.title,
                "contender": name,
                "reference": reference,
                "limit": limit,
                "repeats": case.repeats,
                "seconds": timings[name].median,
                "reference_seconds": timings[reference].median,
                **found,
                "holds": None if limit is None else found["ratio"] <= limit,
                "launches": sum(of_each[name].values()),
                "reference_launches": sum(of_each[reference].values()),
                "kernels": of_each[name],
            }
        )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the measurements as text."""
    lines = [f"{'case':30} {'contender':13} {'time':>9} {'ratio':>6} {'range':>14} {'limit':>6}  launches"]
    for row in rows:
        limit = "-" if row["limit"] is None else f"{row['limit']:.2f}"
        spread = f"{row['ratio_min']:.2f} to {row['ratio_max']:.2f}"
        verdict = {None: "", True: "", False: "  MISSED"}[row["holds"]]
        lines.append(
            f"{row['case']:30} {row['contender']:13} {1e6 * row['seconds']:6.0f} us {row['ratio']:6.2f} {spread:>14} "
            f"{limit:>6}  {row['launches']:g} ({row['reference']}: {row['reference_launches']:g}){verdict}"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="to end within")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "gpu_acceptance.json")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU: this torch finds none, so there is nothing to check here")
        return 2
    end = time.monotonic() + 60.0 * options.minutes
    every = {case.name: case for case in [SMALL, *cases("cuda")]}
    chosen = [every[name] for name in dict.fromkeys(of for of, *_ in LIMITS)]
    report: dict[str, Any] = {"revision": revision(), "machine": machine("cuda"), "measurements": [], "left out": []}
    paths = [str(path.relative_to(ROOT)) for pattern in TESTS for path in sorted(ROOT.glob(pattern))]
    report["tests"] = run_tests(paths, end - time.monotonic() - MEASURING - TO_END)
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    for case in chosen:
        if time.monotonic() + CASE > end:
            report["left out"].append(case.title)
            continue
        report["measurements"] += measure(case, "cuda")
        write_text(options.out, json.dumps(report, indent=1) + "\n")
        torch.cuda.empty_cache()
    print(table(report["measurements"]))
    print({name: value for name, value in report["tests"].items() if name != "failed"}, *report["tests"]["failed"])
    if report["left out"]:
        print("no time was left for", ", ".join(report["left out"]))
    holds = all(row["holds"] is not False for row in report["measurements"]) and not report["left out"]
    # A test that is skipped, because Triton is missing for example, proves nothing.
    return 0 if holds and report["tests"]["status"] == 0 and report["tests"].get("passed") else 1


if __name__ == "__main__":
    sys.exit(main())
