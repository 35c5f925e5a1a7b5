"""The colors of all figures and pages, and their counterparts on a dark background. Imports no plotting library.

The colors follow the palette of Okabe and Ito, which is distinguishable under the common forms of color blindness;
line styles and labels tell curves apart as well. Labels are written in these colors, so each has a contrast of at least
4.5:1 with its background, light and dark. (Okabe and Ito's orange, green and sky blue, with 3.9, 3.4 and 2.3 to 1, are
darkened for that.) Fills carry no text and have a contrast of at least 3:1.
"""

from __future__ import annotations

COLORS = ("#0072B2", "#B23C00", "#00785A", "#AA4499", "#000000", "#8A6100", "#5B5BD6")
FILLS = ("#3A8FC8", "#D55E00")
GRAY, ALARM = "#767676", COLORS[1]
LIGHT_BG, DARK_BG = "#FFFFFF", "#14171B"
GRID = "#B0B0B0"
LINE_STYLES = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)))

DARK = {
    "#0072B2": "#5CB8F0",
    "#B23C00": "#FF9563",
    "#00785A": "#4FD1A5",
    "#AA4499": "#E58FD6",
    "#000000": "#E6E9ED",
    "#8A6100": "#E5B84B",
    "#5B5BD6": "#A9A9FF",
    "#3A8FC8": "#3D8FC6",
    "#D55E00": "#D9701A",
    GRAY: "#A5AEB9",
    LIGHT_BG: DARK_BG,
    GRID: "#6B7480",
}
"""The dark counterpart of each color."""


def contrast(color: str, other: str) -> float:
    """Return the contrast ratio of two colors "#RRGGBB", in [1, 21] (WCAG 2.2)."""
    high, low = sorted((_luminance(color), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
