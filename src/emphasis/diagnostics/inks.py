"""The house's inks, and what each becomes on a dark page. Plain data: it needs no library that draws.

Okabe and Ito's palette, told apart under the common colour blindnesses; without its yellow, and its orange and sky blue
last, since they are faint as text on white. On paper as at night every ink has a contrast of 3:1 at least to its
ground, and black, grey and the alarm 4.5:1; sky blue on paper has 2.3:1, and stands for bars beside darker ones and for
a seventh line.
"""

from __future__ import annotations

COLORS = ("#0072B2", "#D55E00", "#009E73", "#AA4499", "#000000", "#C08400", "#56B4E9")
GREY, ALARM = "#767676", "#B23C00"
PAPER, NIGHT = "#FFFFFF", "#14171B"
FAINT_LINE = "#B0B0B0"

DARK = {
    "#0072B2": "#4DA6E0", "#D55E00": "#FF8A3D", "#009E73": "#2EC79A", "#AA4499": "#DB86CC", "#000000": "#E6E9ED",
    "#C08400": "#E5B04A", "#56B4E9": "#9AD3F5", GREY: "#A5AEB9", ALARM: "#FF9563", PAPER: NIGHT, FAINT_LINE: "#6B7480",
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
