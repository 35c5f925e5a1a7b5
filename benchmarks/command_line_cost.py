"""CPU time and memory of commands that train nothing: help, mistakes, the list of recipes and reports.

    python benchmarks/command_line_cost.py --repeats 5
    python benchmarks/command_line_cost.py --repeats 5 --label before --tree ../another-checkout

Each command runs in a process of its own on one core, and its user and system time are added. The results of all labels
are kept in results/command_line_cost.json.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "command_line_cost.json"
COMMANDS = {
    "--help": ["--help"],
    "a mistyped command": ["rnu"],
    "a mistyped option": ["run", "digits", "--sed", "3"],
    "a mistyped recipe": ["run", "digit"],
    "recipes": ["recipes"],
    "report table5 --format text": ["report", "table5", "--format", "text"],
    "report table5 --format csv": ["report", "table5", "--format", "csv"],
    "report table5": ["report", "table5"],
}
GOALS = {
    "--help": 0.2,
    "a mistyped command": 0.6,
    "a mistyped option": 0.6,
    "a mistyped recipe": 0.6,
    "recipes": 0.6,
    "report table5 --format text": 1.5,
    "report table5 --format csv": 1.5,
    "report table5": 5.0,
}


def cost(arguments: list[str], tree: Path, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one command."""
    process = subprocess.Popen(
        [sys.executable, "-m", "emphasis", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, _, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, metavar="N", help="runs of each command (default: 5)")
    parser.add_argument("--label", default="now", help="name of the results (default: now)")
    parser.add_argument("--tree", type=Path, default=ROOT, help="checkout to measure (default: this one)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    measured = {}
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(ROOT / "results" / "table5", Path(name) / "results" / "table5")
        for title, arguments in COMMANDS.items():
            cost(arguments, options.tree, Path(name))  # compiles the modules
            runs = [cost(arguments, options.tree, Path(name)) for _ in range(options.repeats)]
            seconds = [run[0] for run in runs]
            measured[title] = {
                "cpu_seconds_min": round(min(seconds), 3),
                "cpu_seconds_median": round(statistics.median(seconds), 3),
                "memory_mb": round(max(run[1] for run in runs)),
                "n": options.repeats,
                "goal_seconds": GOALS[title],
            }
            print(f"{title:<30} {measured[title]}", flush=True)
    results = json.loads(OUT.read_text()) if OUT.exists() else {}
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "load": os.getloadavg()[0]}
    results[options.label] = {"machine": machine, "commands": measured}
    OUT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
