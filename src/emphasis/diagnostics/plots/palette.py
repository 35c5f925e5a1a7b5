"""The house's inks, and what each becomes on a dark page. Plain data: it needs no library that draws.

After Okabe and Ito's palette, told apart under the common colour blindnesses, with line styles and labels beside them.
Labels are written in the colours, so that on paper as at night each has a contrast of 4.5:1 at least to its ground (of
their orange, green and sky blue, which have 3.9, 3.4 and 2.3 to 1, darker ones); fills, which carry no text, 3:1.
"""

from __future__ import annotations

COLORS = ("#0072B2", "#B23C00", "#00785A", "#AA4499", "#000000", "#8A6100", "#5B5BD6")
FILLS = ("#3A8FC8", "#D55E00")
GREY, ALARM = "#767676", COLORS[1]
PAPER, NIGHT = "#FFFFFF", "#14171B"
FAINT_LINE = "#B0B0B0"

DARK = {
    "#0072B2": "#5CB8F0", "#B23C00": "#FF9563", "#00785A": "#4FD1A5", "#AA4499": "#E58FD6", "#000000": "#E6E9ED",
    "#8A6100": "#E5B84B", "#5B5BD6": "#A9A9FF", "#3A8FC8": "#3D8FC6", "#D55E00": "#D9701A", GREY: "#A5AEB9",
    PAPER: NIGHT, FAINT_LINE: "#6B7480",
}  # fmt: skip
"""By the ink on paper, the ink at night."""


def contrast(one: str, other: str) -> float:
    """Return the contrast ratio of two colours "#RRGGBB", in [1, 21] (WCAG 2.2)."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
