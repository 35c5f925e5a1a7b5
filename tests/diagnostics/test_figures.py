import itertools
import sys

import numpy as np
import pytest
from matplotlib.text import Text

from emphasis.diagnostics import figures, terminal
from emphasis.weighting import CCE, DM, GCE, Beta, Uniform


@pytest.mark.parametrize("suffix", figures.FORMATS)
def test_an_edf_is_drawn_to_a_file(tmp_path, suffix):
    path = tmp_path / f"edf.{suffix}"
    figures.save(figures.edf_figure([DM(lam=0.5, beta=12), CCE(), Beta(alpha=0, eta=0.5), Uniform()]), path)
    assert path.stat().st_size > 1000


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.pdf"):
        figures.save(figures.edf_figure([CCE()]), tmp_path / "edf.jpg")


def test_curves_and_labels_do_not_overlap():
    values = np.linspace(0.1, 0.9, 5) * np.ones((2, 1))
    groups = {"A": {f"m{n}": values for n in range(7)}, "B": {"broken": np.full((2, 5), np.nan)}}
    figure = figures.accuracy_curves([0, 1, 2, 3, 4], groups, chance=0.1, reference=("m0", values))
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axis.texts if text.get_text() != "chance"]
        boxes.sort(key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_panels_leave_out_nan_and_say_what_failed():
    p = np.array([0.1, np.nan, 0.9])
    panels = [figures.Panel(f"m{n}", GCE(0.7), p, np.full(2, np.nan), "collapsed (1 of 2 seeds)") for n in range(5)]
    figure = figures.emphasis_panels(panels)
    figure.draw_without_rendering()
    assert sum("collapsed" in text.get_text() for axis in figure.axes for text in axis.texts) == 5
    assert "matplotlib.pyplot" not in sys.modules


def test_the_terminal_drawing_fits_and_has_no_escape_codes():
    text = terminal.draw([DM(lam=0.5, beta=12), CCE()], 70, 18, color=False)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 70
    assert len(lines) <= 18
    assert "\x1b" not in text
    assert "DM(lam=0.5, beta=12.0)" in text


def test_the_description_says_the_numbers():
    text = terminal.describe(DM(lam=0.5, beta=12))
    for part in ("0.3333", "44.36", 'max_margin="auto"', "of the emphasis lies in p = 0.233 to 0.433"):
        assert part in text
    assert "stops pushing" in terminal.describe(CCE())
    assert "counts alike" in terminal.describe(Uniform())
    assert "no density" in terminal.describe(Beta(alpha=0, eta=2))
