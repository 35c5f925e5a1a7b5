"""Commands that are killed, and commands whose disk is full: what is lost, and what is recorded twice?

    python benchmarks/fault_sweep.py                  # 60 kills and 12 full disks, some fifteen minutes; Linux
    python benchmarks/fault_sweep.py --only tune full # of these alone; the report keeps what it says of the others

Killed by kill -9, ten times each: `run`, `fit`, `audit`, `tune`, `search`, and the ranks of `run --devices 2`. A
command is killed once it has written a random number of files, whole or half, and is given again until it has finished.

Full, with three sizes of disk each: `run`, `fit`, `audit` and `tune` write to a tmpfs that is too small (mounting needs
root). The command must say so in one line; the disk is then made larger, and the same command given again.

A command that was stopped is right if it ends with the files of one that was left alone, with each network recorded
once, and if nothing that was finished before is written again. Writes results/fault_sweep.json, and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import kill_sweep
import optuna  # noqa: F401  (as are all imports before the forks)
import sklearn.datasets
import torch
import xgboost  # noqa: F401
from kill_sweep import found_in, log_of, wait_for_writes, written

import emphasis.experiments.reports.audit_page
import emphasis.experiments.reports.tune_page
import emphasis.tabular.fit  # noqa: F401
from emphasis.cli.main import main as emphasis_command
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

RECIPE = kill_sweep.RECIPE + "[solver]\niterations = 60\n[evaluation]\ntrace = false\n"
QUIET = ["--no-progress", "--accelerator", "cpu"]
TABLE = ["wine.csv", "--label", "class"]
ONE = [*QUIET, "--workers", "1", "--threads", "1"]
COMMANDS = {
    "run": ["run", "recipe.toml", *ONE, "--checkpoint-seconds", "0.02", "--methods", "CCE", "MAE", "MSE"],
    "fit": ["fit", *TABLE, "--no-progress", "--folds", "4", "--set", "n_estimators=20"],
    "audit": ["audit", *TABLE, *QUIET, "--iterations", "100"],
    "tune": ["tune", *TABLE, *QUIET, "--workers", "1", "--iterations", "60", "--trials", "4", "--folds", "2"],
    "search": [
        "search",
        "recipe.toml",
        *ONE,
        "--method",
        "CCE",
        "--vary",
        "solver.learning_rate=0.01:0.2:log",
        "--trials",
        "4",
        "--batch",
        "2",
    ],
}
WRITES = {"run": 20, "fit": 12, "audit": 12, "tune": 30, "search": 12}  # at most, before a kill
SIZES = {"run": (8, 24, 40), "fit": (8, 40, 80), "audit": (8, 24, 60), "tune": (8, 60, 110)}  # KiB
CHANGING = ("seconds", "revision", "emphasis", "networks_at_once")  # fields that differ between two runs


def start(name: str, folder: Path) -> int:
    """Start a command, and return the number of its process."""
    pid = os.fork()
    if pid:
        return pid
    os.chdir(Path(os.environ["SWEEP"]))
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = emphasis_command([*COMMANDS[name], "--out", str(folder)])
    sys.stdout.flush()
    os._exit(code)


def finished_in(folder: Path) -> set[tuple[str, int, int]]:
    """Return what is finished in a folder, and when it was written: jobs of networks, and folds."""
    return {one for one in written(folder) if not one[0].startswith(".") and _is_finished(one[0])}


def _is_finished(name: str) -> bool:
    return (name.endswith(".jsonl") and name != "results.jsonl") or name.removesuffix(".npz").isdigit()


def results_of(folder: Path) -> dict[str, Any]:
    """Return what must be the same in the end, by file: lines and numbers without times, and arrays."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.suffix in (
            ".html",
            ".png",
            ".ubj",
        ):  # pages name the folder; models are compared below
            found[name] = True
        elif path.name == "results.jsonl":
            about = found_in(path.parent)
            about["lines"] = [without_times(line) for line in about["lines"]]
            found[name] = about
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.suffix == ".csv":
            found[name] = path.read_bytes()
    for path in folder.rglob("model.ubj"):
        found["model"] = path.read_bytes()
    return found


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(one) for key, one in value.items() if key not in CHANGING}
    return [without_times(one) for one in value] if isinstance(value, list) else value


def recorded_twice(folder: Path) -> int:
    """Return how many networks more than one job has recorded."""
    keys = [
        json.loads(line)["key"]
        for path in folder.rglob("cells/[!.]*.jsonl")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return len(keys) - len(set(keys))


def verdict(folder: Path, alone: dict[str, Any], kept: set[tuple[str, int, int]]) -> dict[str, Any]:
    """Return whether a command that was stopped has ended as one that was not; `kept` was finished when it stopped."""
    ended = results_of(folder)
    return {
        "lost": len(kept - finished_in(folder)),
        "recorded_twice": recorded_twice(folder),
        "differ": sorted(name for name in {*ended, *alone} if ended.get(name) != alone.get(name)),
    }


def killed(name: str, base: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Return the report of as many kills of a command."""
    alone_code = kill_sweep.end(start(name, base / "alone"))
    if alone_code:
        raise SystemExit(log_of(base / "alone").read_text())
    alone = results_of(base / "alone")
    report: dict[str, Any] = {"kills": 0, "folders": 0, "lost": 0, "recorded_twice": 0, "differ": []}
    while report["kills"] < kills:
        folder = base / f"run-{report['folders']}"
        kept: set[tuple[str, int, int]] = set()
        code = -1
        while code < 0:
            pid = start(name, folder)
            if report["kills"] < kills:
                wait_for_writes(folder, draw.randrange(1, WRITES[name]), lambda pid=pid: kill_sweep.is_alive(pid))
                os.kill(pid, signal.SIGKILL)
            code = kill_sweep.end(pid)
            report["kills"] += code < 0
            kept |= finished_in(folder) if code < 0 else set()
        if code:
            raise SystemExit(log_of(folder).read_text())
        add(report, verdict(folder, alone, kept))
    return report


def add(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Add what came of one folder."""
    report["folders"] += 1
    for name, value in found.items():
        report[name] += value


def ranks(base: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Return the report of as many kills of one of two ranks."""
    with contextlib.redirect_stdout(io.StringIO()):
        found = kill_sweep.killed_until(kills, kill_sweep.ranks, base, 60, draw.randrange(10**6))
    same = [
        name for name in ("lines", "arrays", "recorded", "files") for one in found["runs"] if not one[f"same_{name}"]
    ]
    return {
        "kills": found["kills"],
        "folders": len(found["runs"]),
        "lost": same.count("lines") + same.count("arrays"),
        "recorded_twice": same.count("recorded"),
        "differ": same,
    }


@contextlib.contextmanager
def disk(place: Path, kib: int) -> Iterator[None]:
    """A disk of so many KiB."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full(name: str, base: Path) -> dict[str, Any]:
    """Return the report of a command on disks that are too small."""
    if kill_sweep.end(start(name, base / "alone")):
        raise SystemExit(log_of(base / "alone").read_text())
    alone = results_of(base / "alone")
    report: dict[str, Any] = {"full_disks": 0, "folders": 0, "said_so": 0, "lost": 0, "recorded_twice": 0, "differ": []}
    for size in SIZES[name]:
        place = base / f"disk-{size}"
        log = base / f"disk-{size}.log"
        with disk(place, size):
            folder = place / "run"
            (place / "run.log").symlink_to(log)
            code = kill_sweep.end(start(name, folder))
            said = log.read_text().strip().splitlines()[-1]
            report["full_disks"] += 1
            report["said_so"] += code == 2 and said.startswith("emphasis: ") and "No space left on device" in said
            kept = finished_in(folder)
            subprocess.run(["mount", "-o", "remount,size=100m", str(place)], check=True)
            if kill_sweep.end(start(name, folder)):
                raise SystemExit(log.read_text())
            add(report, verdict(folder, alone, kept))
    return report


def table(report: dict[str, dict[str, Any]]) -> str:
    """Return the report as a table of Markdown."""
    columns = ("what", "kills", "full disks", "said so", "finished work lost", "recorded twice", "files that differ")
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, one in report.items():
        cells = (
            name,
            one.get("kills", ""),
            one.get("full_disks", ""),
            one.get("said_so", ""),
            one["lost"],
            one["recorded_twice"],
            len(one["differ"]),
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    kinds: dict[str, Callable[[Path, random.Random], dict[str, Any]]] = {}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=(*COMMANDS, "ranks", "full"), help="(default: all)")
    parser.add_argument("--kills", type=int, default=10, metavar="N", help="of each command (default: 10)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the moments (default: drawn)")
    parser.add_argument("--out", type=Path, default=Path("results/fault_sweep.json"))
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    chosen: Sequence[str] = options.only or [*COMMANDS, "ranks", "full"]
    for name in COMMANDS:
        kinds[name] = lambda base, draw, name=name: killed(name, base, options.kills, draw)
        if name in SIZES:
            kinds[f"{name}, full"] = lambda base, _, name=name: full(name, base)
    kinds["ranks"] = lambda base, draw: ranks(base, options.kills, draw)
    kept = json.loads(options.out.read_text(encoding="utf-8"))["found"] if options.out.exists() else {}
    for name, kind in kinds.items():
        if ("full" if name.endswith(", full") else name) not in chosen:
            continue
        with tempfile.TemporaryDirectory() as where:
            base = Path(where)
            os.environ["SWEEP"] = where
            (base / "recipe.toml").write_text(RECIPE, encoding="utf-8")
            sklearn.datasets.load_wine(as_frame=True).frame.rename(columns={"target": "class"}).to_csv(
                base / "wine.csv", index=False
            )
            kept[name] = {**kind(base, random.Random(f"{name} {seed}")), "seed": seed}
        print(name, kept[name], flush=True)
        about = {"machine": platform.machine(), "torch": torch.__version__, "revision": revision()}
        found = {one: kept[one] for one in kinds if one in kept}
        write_text(options.out, json.dumps({"found": found, **about}, indent=1) + "\n")
    print(table(found))
    if any(found[name]["lost"] or found[name]["recorded_twice"] or found[name]["differ"] for name in found) or any(
        found[name].get("said_so") != found[name].get("full_disks") for name in found
    ):
        raise SystemExit(f"a command ended otherwise; seed {seed}")


if __name__ == "__main__":
    main()
