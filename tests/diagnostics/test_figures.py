import io
import itertools
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from emphasis.diagnostics.plots import canvas, figures, terminal
from emphasis.diagnostics.plots.curves import Curve, CurvePanel, accuracy_curves, curve_layouts
from emphasis.diagnostics.plots.panels import (
    Panel,
    ProbabilityPanel,
    emphasis_layouts,
    emphasis_panels,
    probability_curves,
    probability_layouts,
)
from emphasis.diagnostics.plots.themes import svg_text
from emphasis.weighting import CCE, DM, GCE, Beta, Uniform


def _panels(count, methods=7):
    values = np.linspace(0.1, 0.9, 5) * np.ones((2, 1))
    curves = {f"m{n}": Curve([0, 1, 2, 3, 4], values) for n in range(methods)}
    broken = {"broken": Curve([0, 1, 2], np.full((2, 3), np.nan)), "m0": curves["m0"]}
    return [CurvePanel(f"p{n}", curves if n % 2 == 0 else broken, 0.1) for n in range(count)]


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("count", [1, 2, 4, 6])
def test_curves_and_labels_do_not_overlap(count, narrow):
    figure = curve_layouts(_panels(count), gray="m0")(narrow=narrow)
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [Text.get_window_extent(text) for text in axis.texts if text.get_text() != "chance"]
        boxes.sort(key=lambda box: box.y0)
        assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_a_method_has_one_colour_in_all_panels_and_the_grey_one_is_grey():
    figure = accuracy_curves(_panels(3, methods=4), gray="m0")
    colors = [{text.get_text(): text.get_color() for text in axis.texts} for axis in figure.axes if axis.get_visible()]
    assert colors[0]["m3"] == colors[2]["m3"]
    assert colors[0]["m0"] == colors[1]["m0"] == "#767676"
    assert len({colors[0][f"m{n}"] for n in range(4)}) == 4


def test_the_mean_of_a_curve_leaves_out_what_diverged_and_its_end_is_marked():
    values = np.array([[0.1, 0.5, np.nan, np.nan], [0.1, 0.7, 0.8, np.nan]])
    panel = CurvePanel("p", {"m": Curve([0, 10, 20, 30], values)}, 0.1)
    (axis,) = accuracy_curves([panel]).axes
    mean = axis.lines[0].get_ydata()
    assert mean[:3] == pytest.approx([10, 60, 80])
    assert np.isnan(mean[3])
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if line.get_marker() == "x"] == [(20, 80)]


def test_probability_curves_show_clean_and_noisy_and_say_what_failed():
    clean = Curve([0, 50, 100], np.array([[0.1, 0.5, 0.9]]))
    noisy = Curve([0, 50, 100], np.array([[0.1, 0.2, 0.05]]))
    none = Curve([0, 50, 100], np.full((1, 3), np.nan))
    figure = probability_curves(
        [
            ProbabilityPanel("a", clean, noisy),
            ProbabilityPanel("b", clean, none, "diverged (1 of 1 seed)"),
        ]
    )
    figure.draw_without_rendering()
    first, second = figure.axes
    assert [line.get_ydata().tolist() for line in first.lines] == [[0.1, 0.5, 0.9], [0.1, 0.2, 0.05]]
    assert len(second.lines) == 1
    assert ["diverged" in text.get_text() for text in second.texts] == [True]


def test_panels_show_the_shares_of_the_counts_and_say_what_failed():
    clean, noisy = [0] * 15 + [30, 0, 0, 0, 90], [0] * 20
    panels = [Panel(f"m{n}", GCE(0.7), clean, noisy, "collapsed (1 of 2 seeds)") for n in range(5)]
    figure = emphasis_panels(panels)
    figure.draw_without_rendering()
    assert sum("collapsed" in text.get_text() for axis in figure.axes for text in axis.texts) == 5
    heights = [np.ptp(bar.vertices[:, 1]) for bars in figure.axes[0].collections for bar in bars.get_paths()]
    assert heights[15] == 0.25
    assert heights[19] == 0.75
    assert sum(heights) == 1.0


def test_figures_leave_pyplots_state_alone():
    program = (
        "import sys; from emphasis import GCE; from emphasis.diagnostics.plots import figures; "
        "figures.edf_figure([GCE(0.7)]); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_modes_stand_at_their_noise_rates_in_order():
    figure = figures.mode_by_noise([0.4, 0.2], [0.5, 1 / 3], paper=[0.5, np.nan], paper_label="theirs")
    figure.draw_without_rendering()
    theirs, ours = figure.axes[0].lines
    assert ours.get_xdata().tolist() == [20, 40]
    assert ours.get_ydata().tolist() == [1 / 3, 0.5]
    assert theirs.get_ydata()[1] == 0.5
    assert len(figures.mode_by_noise([0.4, 0.2], [0.5, 1 / 3]).axes[0].lines) == 1


def test_a_png_is_the_same_each_time():
    first, second = (canvas.png(figures.edf_figure([CCE()])) for _ in range(2))
    assert first.startswith(b"\x89PNG")
    assert first == second


def test_a_png_is_drawn_once_and_its_background_is_white():
    figure = accuracy_curves(_panels(1), gray="m0")
    (axis,) = figure.axes
    draw, draws = axis.draw, []
    axis.draw = lambda renderer: draws.append(renderer) or draw(renderer)
    content = canvas.png(figure)
    assert len(draws) == 1
    assert Image.open(io.BytesIO(content)).convert("RGB").getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: curve_layouts(_panels(3), gray="m0"),
        lambda: probability_layouts([ProbabilityPanel("a", *[Curve([0, 1], np.array([[0.1, 0.5]]))] * 2)] * 3),
        lambda: emphasis_layouts([Panel("a", GCE(0.7), [1, 2], [2, 1])] * 3),
    ],
)
def test_a_layout_is_the_same_whether_the_other_one_was_asked_for_before_it(draw):
    layouts = draw()
    wide, narrow, wide_again = (svg_text(layouts(narrow=narrow)) for narrow in (False, True, False))
    assert wide == wide_again != narrow
    assert narrow == svg_text(draw()(narrow=True))


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_small_multiples_and_their_labels_do_not_overlap(count, narrow):
    figure = emphasis_layouts([Panel(f"m{n}", GCE(0.7), [1] * 20, [2] * 20) for n in range(count)])(narrow=narrow)
    figure.draw_without_rendering()
    shown = [axis.get_tightbbox() for axis in figure.axes if axis.get_visible()]
    boxes = [*shown, *(text.get_window_extent() for text in figure.texts), figure.legends[0].get_window_extent()]
    boxes += [label.get_window_extent() for label in (figure._supxlabel, figure._supylabel)]
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1 + 1
        assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1
    for one, other in itertools.combinations({tuple(box.extents): box for box in boxes}.values(), 2):
        width = min(one.x1, other.x1) - max(one.x0, other.x0)
        height = min(one.y1, other.y1) - max(one.y0, other.y0)
        assert width <= 1 or height <= 1


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
    assert "learned examples vanishes" in terminal.describe(CCE())
    assert "counts alike" in terminal.describe(Uniform())
    assert "no density" in terminal.describe(Beta(alpha=0, eta=2))
