"""The picture of `speed.py`: ratios of time, and memory, a group of dots for each case."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from speed_report import Row

from emphasis.diagnostics.plots.canvas import png
from emphasis.files import replacing

# Contender: color, marker, filled. Blue is DM through this library, gray and black are PyTorch's cross-entropy.
_LOOKS: dict[str, tuple[str, str, bool]] = {
    "F.cross_entropy": ("#767676", "|", True),
    "F.linear_cross_entropy": ("#767676", "|", True),
    "CCE": ("#000000", "o", False),
    "DM": ("#0072B2", "o", True),
    "linear_emphasis_loss, DM": ("#0072B2", "D", True),
    "DM, in place": ("#0072B2", "o", False),
    "Relative": ("#E69F00", "D", True),
    "DM, batch": ("#56B4E9", "s", True),
    "F.linear, then DM": ("#56B4E9", "D", True),
    "DM by autograd": ("#D55E00", "^", True),
    "DM, compiled": ("#009E73", "s", True),
    "DM, no compiler": ("#CC79A7", "v", True),
    "F.binary_cross_entropy_with_logits": ("#999999", "|", True),
    "F.cross_entropy, compiled": ("#767676", "x", True),
    "Liger, in place": ("#AA4499", "v", True),
    "the same, chunked": ("#000000", "D", False),
    "the same, chunks of 128": ("#C98A00", "D", False),
    "cross-entropy in a loop": ("#009E73", "D", False),
}
_LEGENDS = {
    "F.cross_entropy": "F.cross_entropy, F.linear_cross_entropy",
    "the same, chunked": "F.linear_cross_entropy, chunked",
    "the same, chunks of 128": "F.linear_cross_entropy, chunks of 128",
}
_STEP, _GAP = 0.115, 0.13  # inches between contenders and between cases
_TICKS = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the ratio of times, a panel for each number of threads, and the peak memory over the logits."""
    rows = [row for row in rows if row["contender"] != "copy"]
    threads = sorted({row["threads"] for row in rows})
    places, middles, breaks, depth = _layout(rows)
    figure = Figure(figsize=(4.6 + 2.8 * len(threads), depth + 1.75), layout="constrained")
    *timed, memory = figure.subplots(1, len(threads) + 1, sharey=True)

    low = min(0.45, 0.9 * min(row["ratio_min"] for row in rows))
    high = max(2.2, 1.1 * max(row["ratio_max"] for row in rows))
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    for axis, count in zip(timed, threads, strict=True):
        own = [row for row in rows if row["threads"] == count]
        for row in own:
            ends = (row["ratio_min"], row["ratio_max"])
            _dot(axis, row, row["ratio"], places, ends)
        axis.axvline(1.0, color="#767676", linewidth=1.0, zorder=1)
        axis.set_xscale("log")
        axis.set_xlim(low, high)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        on = "" if path.stem.endswith("cuda") else f", {count} thread{'s' if count > 1 else ''}"
        axis.set_title(f"Time{on}", fontsize=10, fontweight="bold", loc="left")
        axis.set_xlabel("over the reference's (left is faster)", fontsize=9)
    for row in rows:
        if row.get("extra_bytes") is not None:
            _dot(memory, row, row["extra_over_logits"], places)
    memory.set_xlim(left=-0.15)
    measured = {row["case"] for row in rows if row.get("extra_bytes") is not None}
    for case, (place, _) in middles.items():
        if case not in measured:
            memory.text(
                0.5,
                place,
                "not measured",
                color="#767676",
                fontsize=8.5,
                ha="center",
                va="center",
                transform=memory.get_yaxis_transform(),
            )
    memory.set_title("Peak extra memory", fontsize=10, fontweight="bold", loc="left")
    memory.set_xlabel("over the logits' size", fontsize=9)

    for axis in (*timed, memory):
        axis.set_ylim(depth, 0.0)
        axis.set_yticks([place for place, _ in middles.values()], [title for _, title in middles.values()], fontsize=9)
        axis.tick_params(axis="y", length=0)
        axis.tick_params(axis="x", labelsize=9)
        axis.grid(axis="x", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        axis.spines[["top", "right", "left"]].set_visible(False)
        for place, strong in breaks:
            axis.axhline(place, color="#767676" if strong else "#dddddd", linewidth=0.8 if strong else 0.6, zorder=0)
    _legend(figure, rows)
    with replacing(path) as partial:
        partial.write_bytes(png(figure, dpi=110))


def _layout(
    rows: Sequence[Row],
) -> tuple[dict[tuple[str, str], float], dict[str, tuple[float, str]], list[tuple[float, bool]], float]:
    """Return where each contender of a case is, each case's middle and title, the lines between cases, and the depth.

    A line is strong where the next case is of another kind.
    """
    places: dict[tuple[str, str], float] = {}
    middles: dict[str, tuple[float, str]] = {}
    breaks: list[tuple[float, bool]] = []
    depth, kind = 0.0, ""
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        if places:
            breaks.append((depth, own[0]["kind"] != kind))
        kind = own[0]["kind"]
        names = list(dict.fromkeys(row["contender"] for row in own))
        first = depth + _GAP
        places |= {(case, name): first + number * _STEP for number, name in enumerate(names)}
        middles[case] = (first + 0.5 * _STEP * (len(names) - 1), own[0]["title"].replace(", ", "\n", 1))
        depth = first + _STEP * (len(names) - 1) + _GAP
    return places, middles, breaks, depth


def _dot(
    axis: Any, row: Row, value: float, places: dict[tuple[str, str], float], ends: tuple[float, float] | None = None
) -> None:
    color, marker, filled = _LOOKS[row["contender"]]
    place = places[row["case"], row["contender"]]
    if ends is not None and ends[0] < ends[1]:
        axis.plot(ends, (place, place), color=color, linewidth=1.1, solid_capstyle="butt", zorder=2)
    axis.plot([value], [place], **_style(color, marker, filled), clip_on=False, zorder=3)


def _style(color: str, marker: str, filled: bool) -> dict[str, Any]:
    return {
        "color": color,
        "marker": marker,
        "markersize": 6.5 if marker == "|" else 4.6 if marker == "D" else 5.2,
        "markerfacecolor": color if filled else "white",
        "markeredgewidth": 1.2,
    }


def _legend(figure: Figure, rows: Sequence[Row]) -> None:
    present = {row["contender"] for row in rows}
    shown = [name for name in _LOOKS if name in present and name != "F.linear_cross_entropy"]
    handles = [Line2D([], [], linestyle="", **_style(*_LOOKS[name]), label=_LEGENDS.get(name, name)) for name in shown]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(figure.axes) + 1, frameon=False, fontsize=8.5)
