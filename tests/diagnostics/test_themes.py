"""Figures as files: their inks can be read on paper and at night, and an SVG follows the reader's setting."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from emphasis.diagnostics.plots import canvas, figures
from emphasis.diagnostics.plots.curves import Curve, CurvePanel, accuracy_curves
from emphasis.diagnostics.plots.method_ranks import rank_figure
from emphasis.diagnostics.plots.palette import ALARM, COLORS, DARK, DARK_BG, FILLS, GRAY, GRID, LIGHT_BG, contrast
from emphasis.diagnostics.plots.panels import Panel, ProbabilityPanel, emphasis_panels, probability_curves
from emphasis.diagnostics.plots.themes import save
from emphasis.weighting import CCE, DM, Beta, Uniform

WEIGHTINGS = [DM(lam=0.5, beta=12), CCE(), Beta(alpha=0, eta=0.5), Uniform()]
LINE = Curve([0, 1, 2], np.array([[0.1, 0.5, 0.9], [0.2, 0.5, 0.8]]))
FIGURES = {
    "edf": lambda: figures.edf_figure(WEIGHTINGS),
    "curves": lambda: accuracy_curves([CurvePanel("a", {"x": LINE, "y": LINE, "z": LINE}, 0.1)], gray="z"),
    "p": lambda: probability_curves([ProbabilityPanel("a", LINE, LINE, "collapsed (1 of 2 seeds)")]),
    "emphasis": lambda: emphasis_panels([Panel("a", DM(lam=0.5, beta=4), [1, 2], [2, 1], "diverged")]),
    "modes": lambda: figures.mode_by_noise([0, 0.2], [0, 1 / 3], paper=[0, 1 / 3]),
    "ranks": lambda: rank_figure({"a": [1, 2], "b": [2, 1]}, ["s", "t"], ["a"]),
}


def test_every_ink_can_be_told_from_its_ground():
    for ink in (*COLORS, GRAY, ALARM):  # labels are written in them
        assert contrast(ink, LIGHT_BG) >= 4.5, ink
        assert contrast(DARK[ink], DARK_BG) >= 4.5, ink
    for ink in FILLS:
        assert contrast(ink, LIGHT_BG) >= 3.0, ink
        assert contrast(DARK[ink], DARK_BG) >= 3.0, ink
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    assert {*COLORS, *FILLS, GRAY, ALARM, LIGHT_BG, GRID} == DARK.keys()
    assert not DARK.keys() & set(DARK.values())
    for inks in (COLORS, FILLS):
        assert len({DARK[ink] for ink in inks}) == len(inks)


def colors_of(svg):
    return {found.upper() for found in re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", svg)}


@pytest.mark.parametrize("name", list(FIGURES))
def test_an_svg_knows_the_dark_counterpart_of_every_ink_it_holds(tmp_path, name):
    path = tmp_path / "figure.svg"
    save(FIGURES[name](), path, "auto")
    svg = path.read_text(encoding="utf-8")
    style = re.search(r"<style>@media \(prefers-color-scheme: dark\) \{.*?</style>", svg).group()
    drawn = colors_of(svg.replace(style, ""))
    assert drawn
    assert drawn <= DARK.keys()
    for ink in drawn & DARK.keys():
        assert f'[style*="fill: {ink.lower()}"] {{ fill: {DARK[ink]} !important }}' in style


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_dark_figure_holds_no_ink_of_paper(tmp_path, name):
    path = tmp_path / "figure.svg"
    save(FIGURES[name](), path, "dark")
    drawn = colors_of(path.read_text(encoding="utf-8"))
    assert DARK_BG in drawn
    assert not drawn & (DARK.keys() - set(DARK.values()))
    save(FIGURES[name](), path.with_suffix(".png"), "dark")
    pixels = np.asarray(Image.open(io.BytesIO(path.with_suffix(".png").read_bytes())).convert("RGB"))
    assert pixels[0, 0].tolist() == [int(DARK_BG[start : start + 2], 16) for start in (1, 3, 5)]


def test_the_same_figure_is_the_same_svg_byte_for_byte(tmp_path):
    for name in ("a.svg", "b.svg"):
        save(FIGURES["p"](), tmp_path / name, "auto")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("suffix", canvas.FORMATS)
@pytest.mark.parametrize("theme", ["auto", "light", "dark"])
def test_a_figure_is_written_in_every_format_and_theme(tmp_path, suffix, theme):
    path = tmp_path / f"edf.{suffix}"
    save(FIGURES["edf"](), path, theme)
    assert path.stat().st_size > 1000


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.png, \.svg, \.pdf"):
        save(FIGURES["edf"](), tmp_path / "edf.jpg")
    with pytest.raises(ValueError, match="theme='blue' is not allowed; use one of auto, light, dark"):
        save(FIGURES["edf"](), tmp_path / "edf.svg", "blue")
    assert not list(tmp_path.iterdir())
