"""A sweep whose processes are killed: several share one folder, kill -9 takes one of them at random moments.

    python benchmarks/kill_sweep.py            # 20 kills, two minutes on two cores

Runs the recipe `digits` with networks that train one by one, alone; then again and again in two processes at once
that share a folder, of which a random one is killed at a random moment and started again, until so many have been
killed while they ran. Each sweep must end with the lines of the run alone (but for seconds and revision), each network
recorded once, and no checkpoint left. Prints, and writes to results/kill_sweep.json, what became of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sklearn.datasets  # noqa: F401  (all imports before the forks: a process is then at work at once)
import torch

import emphasis.experiments.console  # noqa: F401
from emphasis.cli import main as emphasis_command
from emphasis.experiments.jobs import revision
from emphasis.files import write_text

# Dropout, so that the networks train one by one; no figures, which would take longer than they.
RECIPE = 'extends = "digits"\nname = "killed"\nfigures = []\nseeds = 1\n[network]\ndropout = 0.1\n'
OPTIONS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu", "--checkpoint-seconds", "0.05"]


def start(folder: Path, iterations: int) -> int:
    """Start a process of the sweep, and return its number."""
    pid = os.fork()
    if pid:
        return pid
    log = os.open(f"{folder}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    recipe = folder.with_name("recipe.toml")
    code = emphasis_command(["run", str(recipe), *OPTIONS, "--iterations", str(iterations), "--out", str(folder)])
    sys.stdout.flush()
    os._exit(code)


def end(pid: int) -> int:
    """Wait for a process, and return its exit code, negative if it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return what must be the same: results.jsonl without timings and the state of the checkout."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key not in ("seconds", "revision")} for row in rows]


def recorded(folder: Path) -> list[str]:
    """Return the key of every line of every job."""
    found = [path.read_text(encoding="utf-8").splitlines() for path in (folder / "cells").glob("[!.]*.jsonl")]
    return sorted(json.loads(line)["key"] for part in found for line in part)


def sweep(folder: Path, processes: int, kills: int, iterations: int, longest: float, draw: random.Random) -> int:
    """Run a sweep to its end, killing at most so many of its processes; return how many were killed."""
    killed = 0
    running = [start(folder, iterations) for _ in range(processes)]
    while killed < kills:
        time.sleep(draw.uniform(0.0, longest))
        chosen = draw.randrange(processes)
        os.kill(running[chosen], signal.SIGKILL)
        if end(running[chosen]) == 0:  # it had finished, and so had everything
            del running[chosen]
            break
        killed += 1
        running[chosen] = start(folder, iterations)
    codes = [end(pid) for pid in running]
    if any(codes):
        raise SystemExit(f"a process that was not killed ended with {codes}:\n{Path(f'{folder}.log').read_text()}")
    return killed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="(default: 20)")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="that share a folder (default: 2)")
    parser.add_argument("--iterations", type=int, default=400, metavar="N", help="of each network (default: 400)")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the moments (default: drawn)")
    parser.add_argument("--out", type=Path, default=Path("results/kill_sweep.json"))
    options = parser.parse_args()
    seed = random.randrange(10**6) if options.seed is None else options.seed
    draw = random.Random(seed)
    sweeps = []
    with tempfile.TemporaryDirectory() as base:
        Path(base, "recipe.toml").write_text(RECIPE, encoding="utf-8")
        began = time.monotonic()
        alone = Path(base, "alone")
        end(start(alone, options.iterations))
        longest = 0.4 * (time.monotonic() - began)
        while sum(one["kills"] for one in sweeps) < options.kills:
            folder = Path(base, f"sweep-{len(sweeps)}")
            left = options.kills - sum(one["kills"] for one in sweeps)
            killed = sweep(folder, options.processes, left, options.iterations, longest, draw)
            resumed = Path(f"{folder}.log").read_text(encoding="utf-8").count("going on from iteration")
            sweeps.append({
                "kills": killed, "resumed_from_a_checkpoint": resumed, "networks": len(lines(folder)),
                "same_lines": lines(folder) == lines(alone), "recorded_once": recorded(folder) == recorded(alone),
                "checkpoints_left": len(list(folder.glob("cells/*.pt"))),
            })  # fmt: skip
            print(sweeps[-1], flush=True)
    good = all(one["same_lines"] and one["recorded_once"] and not one["checkpoints_left"] for one in sweeps)
    report = {
        "kills": sum(one["kills"] for one in sweeps), "all_the_same": good, "sweeps": sweeps, "seed": seed,
        "processes": options.processes, "iterations": options.iterations, "machine": platform.machine(),
        "torch": torch.__version__, "revision": revision(),
    }  # fmt: skip
    write_text(options.out, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    if not good:
        raise SystemExit(f"a sweep ended otherwise; seed {seed}")


if __name__ == "__main__":
    main()
