"""Time and memory of the loss beside those of F.cross_entropy, forward and backward.

    python benchmarks/speed.py [--device cpu|cuda] [--threads 1 2] [--repeats N] [--only CASE ...] [--quick] [--out DIR]
    python benchmarks/speed.py --plot [--out DIR]

Contenders run in turn, a block of calls each, in every repeat; a ratio is of two blocks of the same repeat, so that
what slows the machine down for a while slows both. Printed, and written to results/speed: the median ratio, and its
range over the repeats. Peak memory is of one pass in a process of its own. Before anything is timed, contenders that
should compute the same gradient are checked to do so.

With ATEN_CPU_CAPABILITY=avx2 or =default in the environment torch and the kernels both keep to a smaller instruction
set, and the results have its name.

DEVICE.jsonl has a line for each contender, case and number of threads, DEVICE-machine.json what it ran on, README.md
the tables; docs/images/speed.png is drawn from them, by `--plot` too, which measures nothing. `--only` keeps what is
stored of the other cases if it is from the same machine. `--quick` is for trying it out: three short repeats without
the largest case, written to runs/speed and not worth quoting. On the CPU all of it takes about half an hour on two
cores, and wants the machine to itself.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import torch
from speed_cases import Case, cases, contenders, notes
from speed_measure import Timing, extra_bytes, machine, ratios, time_all
from speed_plot import draw
from speed_report import Row, page, tables

from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

ROOT = Path(__file__).parents[1]
SHORTEST = 0.02  # seconds that a block lasts at least: the clock and the loop are nothing to it
DEVICES = ("cpu", "cpu-avx2", "cpu-default", "cuda")
BUSY = 0.5  # load above which other work disturbs


def measure(case: Case, device: str, threads: list[int], repeats: int, shortest: float) -> list[Row]:
    """Return a row for each contender and number of threads."""
    rows: list[Row] = []
    for count in threads:
        torch.set_num_threads(count)
        rivals = contenders(case, device)
        timings = time_all(case, rivals, device, repeats, shortest)
        reference = timings[rivals[0].name]
        for rival in rivals:
            own = timings[rival.name]
            row: Row = {
                "case": case.name,
                "title": case.title,
                "kind": case.kind,
                "contender": rival.name,
                "threads": count,
                "repeats": repeats,
                "calls": own.calls,
                "seconds": own.median,
                **ratios(own, reference),
            }
            if case.kind == "linear":
                equals = (timings[one.name] for one in rivals if one.computes == "cross-entropy")
                best = min(equals, key=lambda timing: timing.median)
                row |= {f"best_{name}": value for name, value in ratios(own, best).items()}
            if case.copies:
                row |= _bandwidth(case, own, timings["copy"])
            rows.append(row)
        del rivals
    for row in rows:
        if row["threads"] == max(threads) and row["contender"] != "copy":
            row |= _memory(case, row["contender"], device, max(threads))
    return rows


def _bandwidth(case: Case, own: Timing, copy: Timing) -> Row:
    """Return bytes per second if logits are read once and the derivative written once, and that over a copy's."""
    return {
        "bytes_per_second": 2 * case.logits_bytes / own.median,
        "copy_share": ratios(copy, own)["ratio"],
    }


def _memory(case: Case, contender: str, device: str, threads: int) -> Row:
    """Return the most memory that one pass takes beyond its inputs, also over the logits' size."""
    extra = extra_bytes(case, contender, device, threads)
    if extra is None:
        return {"extra_bytes": None}
    return {
        "extra_bytes": extra,
        "extra_over_logits": extra / case.logits_bytes,
        "beyond_gradients_over_logits": (extra - case.gradient_bytes) / case.logits_bytes,
    }


def load(folder: Path, device: str) -> tuple[list[Row], dict[str, Any]]:
    """Return what is stored of a device: its rows and its machine."""
    lines, described = folder / f"{device}.jsonl", folder / f"{device}-machine.json"
    if not (lines.is_file() and described.is_file()):
        return [], {}
    return [json.loads(line) for line in lines.read_text().splitlines()], json.loads(described.read_text())


def store(folder: Path, device: str, rows: list[Row], described: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{device}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write_text(folder / f"{device}-machine.json", json.dumps(described, indent=2) + "\n")


def report(folder: Path, images: Path) -> None:
    """Write README.md of what is stored in the folder, and draw it."""
    stored = {device: load(folder, device) for device in DEVICES}
    write_text(folder / "README.md", page(stored))
    for device, (rows, _) in stored.items():
        if rows:
            images.mkdir(parents=True, exist_ok=True)
            draw(rows, images / f"{device.replace('cpu', 'speed').replace('cuda', 'speed-cuda')}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="on the CPU")
    parser.add_argument("--repeats", type=int, help="of every case; by default more for what varies more")
    parser.add_argument("--only", nargs="+", metavar="CASE", help=f"of {', '.join(c.name for c in cases('cuda'))}")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="results/speed by default, runs/speed with --quick")
    parser.add_argument("--plot", action="store_true", help="write README.md and draw what is stored, and no more")
    options = parser.parse_args()
    out = options.out or ROOT / ("runs" if options.quick else "results") / "speed"
    images = ROOT / "docs" / "images" if out.resolve() == ROOT / "results" / "speed" else out

    if options.plot:
        if not any(load(out, device)[0] for device in DEVICES):
            parser.error(f"nothing is stored in {out}; measure first")
        report(out, images)
        return
    device: str = options.device
    if device == "cuda" and not torch.cuda.is_available():
        parser.error("this torch finds no GPU; use --device cpu")
    chosen = cases(device)
    if options.only:
        unknown = set(options.only) - {case.name for case in chosen}
        if unknown:
            parser.error(
                f"unknown on {device}: {', '.join(sorted(unknown))}; known: {', '.join(c.name for c in chosen)}"
            )
        chosen = [case for case in chosen if case.name in options.only]
    elif options.quick:
        chosen = [case for case in chosen if case.name != "linear-128000"]

    measured = revision() or "-"
    described = {**machine(device), "notes": notes(device)}
    capability = os.environ.get("ATEN_CPU_CAPABILITY")
    name = f"cpu-{capability}" if device == "cpu" and capability else device
    rows, stored_machine = load(out, name) if options.only else ([], {})
    if stored_machine != described:
        rows = []
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > BUSY:
        print(f"The machine is busy (load {os.getloadavg()[0]:.1f}): expect wide ranges.\n")

    threads = sorted(set(options.threads)) if device == "cpu" else [torch.get_num_threads()]
    place = {case.name: number for number, case in enumerate(cases(device))}
    for case in chosen:
        repeats = options.repeats or (3 if options.quick else case.repeats)
        new = measure(case, device, threads, repeats, 0.25 * SHORTEST if options.quick else SHORTEST)
        new = [{**row, "revision": measured} for row in new]
        print(tables(new, device), flush=True)
        rows = sorted([row for row in rows if row["case"] != case.name] + new, key=lambda row: place[row["case"]])
        store(out, name, rows, described)
    report(out, images)
    print(f"written to {out}; drawn in {images}")


if __name__ == "__main__":
    main()
