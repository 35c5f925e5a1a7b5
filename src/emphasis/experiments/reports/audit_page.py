"""The page of an audit: the most suspicious labels, the distribution of scores, and the course of training."""

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
from emphasis.diagnostics.plots.pages import chart, page_environment, png_uri, shown
from emphasis.experiments.studies.audit_result import SUSPECTS, Audit

_PICTURES, _ROWS, _SWAPS = 60, 40, 10


def audit_page(audit: Audit, command: Sequence[str] = (), values: Mapping[str, Sequence[Any]] | None = None) -> str:
    """Return the page as self-contained HTML.

    Args:
        audit: The audit.
        command: The command that repeats the audit.
        values: Columns to show of each example, by name, indexed by `Audit.rows`.
    """
    s = audit.suspects
    groups = (
        {"label right": ~audit.wrong, "label wrong": audit.wrong}
        if audit.wrong is not None
        else {"others": ~s.suspect, "suspects": s.suspect}
    )
    first = s.order[: _PICTURES if audit.pictures is not None else _ROWS]
    return (
        page_environment("emphasis.experiments.reports")
        .get_template("audit.html.j2")
        .render(
            audit=audit,
            lowest=float(s.score.min()),
            highest=float(s.score.max()),
            numbers=audit.numbers,
            scores=chart(lambda narrow: score_figure(s.score, groups, narrow=narrow)),
            training=chart(
                lambda narrow: training_figure(
                    audit.at, audit.margins, s.suspect, audit.weighting, audit.unit, narrow=narrow
                )
            )
            if len(audit.margins) > 1
            else None,
            rows=[_row(audit, int(index), values or {}) for index in first],
            swaps=_swaps(audit),
            columns=list(values or {}),
            notes=[in_shell(note) for note in audit.notes],
            command=shlex.join(command),
            suspects_name=SUSPECTS,
        )
    )


def _row(audit: Audit, index: int, values: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    s, row = audit.suspects, int(audit.rows[index])
    return {
        "row": row,
        "source": audit.sources[index] if audit.sources else "",
        "given": audit.name_of(audit.labels[index]),
        "suggested": audit.name_of(s.suggested[index]) if s.suggested[index] != audit.labels[index] else "",
        "score": float(s.score[index]),
        "suspect": bool(s.suspect[index]),
        "wrong": None if audit.wrong is None else bool(audit.wrong[index]),
        "picture": "" if audit.pictures is None else _picture(audit.pictures[index]),
        "values": [shown(values[name][row]) for name in values],
    }


def _swaps(audit: Audit) -> list[tuple[str, str, int]]:
    """Return the most frequent pairs of given and suggested label among the suspects."""
    s = audit.suspects
    pairs = Counter(zip(audit.labels[s.suspect].tolist(), s.suggested[s.suspect].tolist(), strict=True))
    return [(audit.name_of(a), audit.name_of(b), count) for (a, b), count in pairs.most_common(_SWAPS)]


def _picture(pixels: NDArray[np.uint8]) -> str:
    """Return an image (1 or 3, height, width) as a data URI for <img>."""
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return png_uri(file.getvalue())
