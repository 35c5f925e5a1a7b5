"""How `emphasis fit` and `emphasis audit` grow with the table: python benchmarks/table_growth.py (extra fit).

A mixed table of 20 columns, 3 classes and 10 % wrong labels: 14 columns of numbers, one of them with gaps, 4 of
categories with 2 to 30 levels, one of booleans and one of dates. `fit` is run with all defaults: 5 folds, beside
cross-entropy, then on all rows. Each command is a process of its own; CPU seconds and the largest resident memory are
the kernel's. With one thread: two would wait for each other on a busy machine, and waiting counts as CPU time. Sizes
that are measured already (results/table_growth.json) are not measured again without `--again`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

OUT = Path(__file__).parent.parent / "results" / "table_growth.json"
COMMANDS = ("fit", "audit")
LEVELS = (2, 5, 12, 30)


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    """Return the table with `rows` rows."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(rows, 12))
    columns: dict[str, Any] = {f"number_{k}": numbers[:, k].round(4) for k in range(12)}
    columns["gaps"] = np.where(rng.random(rows) < 0.1, np.nan, rng.exponential(size=rows).round(3))
    columns["count"] = rng.integers(0, 50, rows)
    for k, levels in enumerate(LEVELS):
        columns[f"category_{k}"] = np.array([f"c{level:02d}" for level in range(levels)])[
            rng.integers(levels, size=rows)
        ]
    columns["flag"] = rng.random(rows) < 0.3
    days = rng.integers(0, 1500, rows).astype("timedelta64[D]")
    columns["date"] = (np.datetime64("2020-01-01") + days).astype(str)
    score = numbers[:, 0] + numbers[:, 1] * numbers[:, 2] + 0.5 * columns["flag"] + 0.05 * columns["count"]
    score += 0.5 * rng.normal(size=rows)
    labels = np.digitize(score, np.quantile(score, [0.5, 0.85]))
    labels = np.where(rng.random(rows) < 0.1, rng.integers(3, size=rows), labels)
    return pd.DataFrame(columns | {"class": np.array(["low", "mid", "high"])[labels]})


def measure(command: str, rows: int, folder: Path) -> dict[str, Any]:
    """Return what one command took on `rows` rows."""
    path = folder / f"{rows}.csv"
    if not path.exists():
        table(rows).to_csv(path, index=False)
    arguments = [command, str(path), "--label", "class", "--out", str(folder / f"{command}-{rows}"), "--no-progress"]
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "emphasis", *arguments],
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed on {rows} rows")
    return {
        "command": command,
        "rows": rows,
        "wall_seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gib": round(usage.ru_maxrss / 2**20, 3),
        "load": round(os.getloadavg()[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--commands", nargs="+", default=COMMANDS, choices=COMMANDS)
    parser.add_argument("--again", action="store_true", help="measure again what is measured already")
    options = parser.parse_args()
    lines = json.loads(OUT.read_text())["measured"] if OUT.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.rows:
            for command in options.commands:
                known = [line for line in lines if (line["command"], line["rows"]) == (command, rows)]
                if known and not options.again:
                    continue
                measured = measure(command, rows, Path(folder))
                lines = [line for line in lines if line not in known] + [measured]
                lines.sort(key=lambda line: (line["command"], line["rows"]))
                content = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
                OUT.write_text(json.dumps({**content, "measured": lines}, indent=1) + "\n")
                print(measured, flush=True)


if __name__ == "__main__":
    main()
