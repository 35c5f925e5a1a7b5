"""The page of an audit: the labels to look at first, where the scores lie, and what happened during training."""

from __future__ import annotations

import io
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from emphasis.datasets.table_report import in_shell
from emphasis.diagnostics.plots.audit import score_figure, training_figure
from emphasis.diagnostics.plots.canvas import png
from emphasis.diagnostics.plots.pages import page_environment, png_uri, shown
from emphasis.experiments.studies.audit_result import SUSPECTS, Audit

_PICTURES, _ROWS, _SWAPS = 60, 40, 10


def audit_page(found: Audit, command: Sequence[str] = (), values: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Return the page as one HTML text that needs no other file.

    Args:
        found: What was found.
        command: By which it is found again.
        values: Columns to show of each example, by name, indexed by `Audit.rows`.
    """
    s = found.suspects
    groups = (
        {"label right": ~found.wrong, "label wrong": found.wrong}
        if found.wrong is not None
        else {"others": ~s.suspect, "suspects": s.suspect}
    )
    first = s.order[: _PICTURES if found.pictures is not None else _ROWS]
    return page_environment("emphasis.experiments.reports").get_template("audit.html.j2").render(
        found=found,
        numbers=found.numbers,
        scores=png_uri(png(score_figure(s.score, groups))),
        training=png_uri(png(training_figure(found.at, found.margins, s.suspect, found.weighting, found.unit))),
        rows=[_row(found, int(place), values or {}) for place in first],
        swaps=_swaps(found),
        columns=list(values or {}),
        notes=[in_shell(note) for note in found.notes],
        command=shlex.join(command),
        suspects_name=SUSPECTS,
    )  # fmt: skip


def _row(found: Audit, place: int, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    s, row = found.suspects, int(found.rows[place])
    return {
        "row": row,
        "source": found.sources[place] if found.sources else "",
        "given": found.name_of(found.labels[place]),
        "suggested": found.name_of(s.suggested[place]) if s.suggested[place] != found.labels[place] else "",
        "score": float(s.score[place]),
        "suspect": bool(s.suspect[place]),
        "wrong": None if found.wrong is None else bool(found.wrong[place]),
        "picture": "" if found.pictures is None else _picture(found.pictures[place]),
        "values": [shown(values[name][row]) for name in values],
    }


def _swaps(found: Audit) -> list[tuple[str, str, int]]:
    """Return the commonest pairs of given and suggested label among the suspects."""
    s = found.suspects
    pairs = Counter(zip(found.labels[s.suspect].tolist(), s.suggested[s.suspect].tolist(), strict=True))
    return [(found.name_of(a), found.name_of(b), count) for (a, b), count in pairs.most_common(_SWAPS)]


def _picture(pixels: NDArray[np.uint8]) -> str:
    """Return an image (1 or 3, height, width) as an address for <img>."""
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return png_uri(file.getvalue())
