"""Results of a benchmark as JSON Lines: one line for each cell, and a cell that has a line is not computed again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

Cell = dict[str, Any]
"""What identifies a result, such as {"task": "digits", "seed": 0}; its line has the same keys and more."""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def without_line(cells: Iterable[Cell], lines: Sequence[dict[str, Any]]) -> list[Cell]:
    """Return the cells that have no line yet."""
    return [cell for cell in cells if not any(cell.items() <= line.items() for line in lines)]


def add_lines(path: Path, cells: Iterable[Cell], compute: Callable[[Cell], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Append a line to a file for every cell that has none, and yield each line when it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for cell in tqdm(without_line(cells, read_lines(path)), desc=path.stem):
        line = {**cell, **compute(cell)}
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        yield line
