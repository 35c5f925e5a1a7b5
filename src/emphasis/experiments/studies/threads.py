"""The number of threads of an audit or a fit, chosen once and kept with its results."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from emphasis.experiments.recipes.settings import Cell
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.jobs import is_stackable
from emphasis.files import naming_refusals, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.process import idle_cores

THREADS = "threads.json"
"""Name of the file of the number of threads."""


def with_idle_threads(context: RunContext, cell: Cell, folder: Path) -> RunContext:
    """Return the context with as many threads as there are idle cores, if the network of a cell uses several.

    Sums of several threads are rounded differently from those of one, so the number is stored in `folder`: what is
    resumed there computes the same bits, however busy the machine has become.
    """
    if context.threads is not None or is_stackable(cell):
        return context
    file = folder / THREADS
    try:
        threads = read_json(file).get("threads")
    except (FileNotFoundError, JSONFileError):
        threads = None
    if type(threads) is not int or threads < 1:
        threads = idle_cores()
        with naming_refusals("write to", file):
            write_text(file, json.dumps({"threads": threads}) + "\n")
    return replace(context, threads=threads)
