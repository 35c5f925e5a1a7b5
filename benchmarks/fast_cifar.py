"""CIFAR-10N and CIFAR-100N with all methods and a fast network, on one GPU, in sittings of some minutes.

    python benchmarks/fast_cifar.py cifar10n-fast|cifar100n-fast --data DATA [--minutes 8] [--methods CCE ELR ...]

Runs the recipe on the GPU and stops it when the time is up: it then writes a checkpoint, and the next
sitting resumes it to the same bits. Prints how many networks are finished. Exits with 0 when all are, with 3 when time
is up before, and otherwise as the command does.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs.store import finished_rows

RECIPES, TIME_IS_UP = ("cifar10n-fast", "cifar100n-fast"), 3
TO_END = 60.0  # seconds for the last checkpoint and the report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--out", type=Path, help="folder of the results (default: results/RECIPE)")
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--scaled", action="store_true", help="the scaled form, on the CPU")
    options = parser.parse_args()
    if not 60 * options.minutes > TO_END:
        parser.error(f"--minutes {options.minutes:g}: a minute is kept for the last checkpoint; give more than 1")
    out = options.out or Path(__file__).parents[1] / "results" / options.recipe
    command = [sys.executable, "-m", "emphasis", "run", options.recipe]
    command += ["--data", str(options.data), "--out", str(out)]
    command += ["--scaled", "--accelerator", "cpu"] if options.scaled else ["--accelerator", "cuda"]
    command += ["--methods", *options.methods] if options.methods else []
    with subprocess.Popen(command) as process:
        try:
            code = process.wait(60 * options.minutes - TO_END)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            code = process.wait()
    recipe = load_recipe(options.recipe)
    recipe = (recipe.scaled_down() if options.scaled else recipe).limited([], options.methods)
    finished, asked = len(finished_rows(out)), len(list(recipe.cells()))
    print(f"{finished} of {asked} networks are finished; results in {out}")
    return 0 if finished >= asked else TIME_IS_UP if code == 128 + signal.SIGTERM else code


if __name__ == "__main__":
    sys.exit(main())
