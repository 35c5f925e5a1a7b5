"""The commands as Python functions: `emphasis.audit`, `fit`, `export`, `tune`, `run`, `search` and `report`.

Each imports what it needs when it is called, so that importing it costs nothing. A function that trains in several
processes (`workers`) must be called under `if __name__ == "__main__":`, as Python's `multiprocessing` requires.
"""

from emphasis.api._audit import audit
from emphasis.api._runs import export, fit, fit_images, report, run
from emphasis.api._studies import search, tune

__all__ = ["audit", "export", "fit", "fit_images", "report", "run", "search", "tune"]
