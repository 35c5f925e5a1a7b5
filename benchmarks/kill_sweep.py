"""Runs whose processes are killed: kill -9 takes one of them after a random number of writes.

    python benchmarks/kill_sweep.py                 # 20 kills of each kind, some twelve minutes on two cores; Linux
    python benchmarks/kill_sweep.py --only ranks    # of one kind; the report keeps what it says of the other

The recipe is `digits` with networks that train one by one. Two kinds of runs are killed again and again:

    sweep    several processes share a folder; a random one is killed, and started again
    ranks    two processes train each network together (--devices 2); a random one is killed, the command must end by
             itself, and is given again

The moments are counted in files that a run has written since it was started again, whole ones and half-written ones, so
that they do not depend on how fast the machine is. Each run must end with the lines (but for seconds and revision) and
the arrays of one that was left alone, each network recorded once, and no checkpoint and no lock left. Prints what
became of it, and writes that to results/kill_sweep.json.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.datasets  # noqa: F401  (all imports before the forks: a process is then at work at once)
import torch

import emphasis.cli.progress
import emphasis.experiments.reports.report  # noqa: F401
from emphasis.cli.main import main as emphasis_command
from emphasis.experiments.runs.provenance import revision
from emphasis.files import write_text

# Dropout, so that the networks train one by one; no figures, which would take longer than they.
RECIPE = 'extends = "digits"\nname = "killed"\nfigures = []\nseeds = 1\n[network]\ndropout = 0.1\n'
OPTIONS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu", "--checkpoint-seconds", "0.05"]
JOINED = b"All distributed processes registered"  # what the log says once both ranks have found each other
WRITES = 40  # at most, before a kill
PATIENCE = 60.0  # seconds for ranks to find each other, and for a command to end whose rank was killed


def log_of(folder: Path) -> Path:
    """Return the file that the run's processes print to."""
    return folder.with_name(f"{folder.name}.log")


def command(folder: Path, iterations: int, *more: str) -> list[str]:
    """Return the arguments of `emphasis` that run the recipe in the folder."""
    recipe = folder.with_name("recipe.toml")
    return ["run", str(recipe), *OPTIONS, *more, "--iterations", str(iterations), "--out", str(folder)]


def start(folder: Path, iterations: int) -> int:
    """Start a process of a sweep, and return its number."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(log_of(folder), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = emphasis_command(command(folder, iterations))
    sys.stdout.flush()
    os._exit(code)


def end(pid: int) -> int:
    """Wait for a process, and return its exit code, negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def written(folder: Path) -> set[tuple[str, int, int]]:
    """Return the files of a run with what tells that they have been written again."""
    found = set()
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # it has just been moved
                about = (Path(place) / name).stat()
                found.add((name, about.st_ino, about.st_mtime_ns))
    return found


def wait_for_writes(folder: Path, number: int, running: Callable[[], bool]) -> None:
    """Wait until as many files have been written, or nothing runs any more."""
    before, seen = written(folder), set[tuple[str, int, int]]()
    while len(seen) < number and running():
        time.sleep(0.001)
        seen |= written(folder) - before


def sweep(folder: Path, kills: int, iterations: int, draw: random.Random) -> dict[str, Any]:
    """Run a sweep of two processes to its end, killing at most so many of them; of one, if none is to be killed."""
    killed = 0
    running = [start(folder, iterations) for _ in range(2 if kills else 1)]
    while killed < kills:
        wait_for_writes(folder, draw.randrange(WRITES), lambda: all(map(is_alive, running)))
        chosen = draw.randrange(2)
        os.kill(running[chosen], signal.SIGKILL)
        if end(running[chosen]) == 0:  # it had finished, and so had everything
            del running[chosen]
            break
        killed += 1
        running[chosen] = start(folder, iterations)
    codes = [end(pid) for pid in running]
    if any(codes):
        raise SystemExit(f"a process that was not killed ended with {codes}:\n{log_of(folder).read_text()}")
    return {"kills": killed}


def ranks(folder: Path, kills: int, iterations: int, draw: random.Random) -> dict[str, Any]:
    """Give the command for two ranks until it has finished, killing at most so many of them."""
    killed, slowest = [0, 0], 0.0
    while True:
        chosen = draw.randrange(2) if sum(killed) < kills else None
        code, seconds = give(command(folder, iterations, "--devices", "2"), folder, chosen, draw.randrange(WRITES))
        if code == 0:  # it had finished before
            return {"kills": sum(killed), "kills_by_rank": killed, "slowest_end_seconds": round(slowest, 2)}
        if chosen is None:
            raise SystemExit(f"a command of which nothing was killed ended with {code}:\n{log_of(folder).read_text()}")
        killed[chosen] += 1
        slowest = max(slowest, seconds)


def give(arguments: list[str], folder: Path, victim: int | None, writes: int) -> tuple[int, float]:
    """Give a command, and kill a rank after so many writes; return how it ended, and after how long."""
    with log_of(folder).open("ab") as log:
        before = log.tell()
        running = subprocess.Popen([sys.executable, "-m", "emphasis", *arguments], stdout=log, stderr=log)
    wait_until(lambda: JOINED in log_of(folder).read_bytes()[before:], "the ranks do not join", folder)
    pids = running.pid, second_rank(running.pid)
    if victim is None:
        running.wait()
    else:
        wait_for_writes(folder, writes, lambda: all(map(is_alive, pids)))
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[victim], signal.SIGKILL)
    began = time.monotonic()
    wait_until(lambda: not any(map(is_alive, pids)), "a rank goes on without the other", folder)
    return running.wait(), time.monotonic() - began


def wait_until(holds: Callable[[], bool], otherwise: str, folder: Path) -> None:
    """Wait until something holds, and end with the log if it does not within a minute."""
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise SystemExit(f"{otherwise}:\n{log_of(folder).read_text()}")
        time.sleep(0.01)


def second_rank(first: int) -> int:
    """Return the process that the first rank started as the second."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has just ended
            mother = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if mother == first and b"LOCAL_RANK=1\0" in (path / "environ").read_bytes():
                return int(path.name)
    raise SystemExit("there is no second rank")


def is_alive(pid: int) -> bool:
    """Return whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def found_in(folder: Path) -> dict[str, Any]:
    """Return what must be the same: lines without timings and the checkout's state, arrays, every job's keys, files."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    jobs = [path.read_text(encoding="utf-8").splitlines() for path in (folder / "cells").glob("[!.]*.jsonl")]
    arrays = {}
    for path in (folder / "cells").glob("[!.]*.npz"):
        with np.load(path) as stored:
            arrays |= {f"{path.stem} {name}": (stored[name].dtype.str, stored[name].tobytes()) for name in stored}
    return {
        "lines": [{key: value for key, value in row.items() if key not in ("seconds", "revision")} for row in rows],
        "arrays": arrays,
        "recorded": sorted(json.loads(line)["key"] for job in jobs for line in job),
        "files": sorted(path.name for path in (folder / "cells").iterdir()),
    }


def killed_until(kills: int, kind: Callable[..., dict[str, Any]], base: Path, iterations: int, seed: int) -> dict:
    """Return the report of as many kills of one kind."""
    draw = random.Random(seed)
    (base / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    kind(base / "alone", 0, iterations, draw)
    alone = found_in(base / "alone")
    runs: list[dict[str, Any]] = []
    while (left := kills - sum(one["kills"] for one in runs)) > 0:
        folder = base / f"run-{len(runs)}"
        about = kind(folder, left, iterations, draw)
        found = found_in(folder)
        runs.append(
            {
                **about,
                "resumed_from_a_checkpoint": log_of(folder).read_text().count("going on from iteration"),
                "networks": len(found["lines"]),
                **{f"same_{name}": found[name] == alone[name] for name in alone},
            }
        )
        print(runs[-1], *sorted({*found["files"]} ^ {*alone["files"]}), flush=True)
    good = all(one[f"same_{name}"] for one in runs for name in alone)
    return {
        "kills": sum(one["kills"] for one in runs),
        "all_the_same": good,
        "runs": runs,
        "seed": seed,
        "processes": 2,
        "iterations": iterations,
        "machine": platform.machine(),
        "torch": torch.__version__,
        "revision": revision(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("sweep", "ranks"), help="(default: both)")
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="of each kind (default: 20)")
    parser.add_argument("--iterations", type=int, default=400, metavar="N", help="of each network (default: 400)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the moments (default: drawn)")
    parser.add_argument("--out", type=Path, default=Path("results/kill_sweep.json"))
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    report = json.loads(options.out.read_text(encoding="utf-8")) if options.out.exists() else {}
    for kind in [kind for kind in (sweep, ranks) if options.only in (None, kind.__name__)]:
        with tempfile.TemporaryDirectory() as base:
            found = killed_until(options.kills, kind, Path(base), options.iterations, seed)
        write_text(options.out, json.dumps(report := {**report, kind.__name__: found}, indent=1) + "\n")
        print(json.dumps(found, indent=1))
        if not found["all_the_same"]:
            raise SystemExit(f"a run of {kind.__name__} ended otherwise; seed {seed}")


if __name__ == "__main__":
    main()
