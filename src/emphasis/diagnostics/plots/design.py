"""The design page: a local Bokeh server on which a weighting is chosen with sliders or drawn by hand.

All values are computed by `emphasis.weighting`; the page contains no mathematics. The extra `design` is required.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emphasis.diagnostics.plots.palette import COLORS, FILLS, GRAY
from emphasis.extras import missing_extra
from emphasis.texts import inline_table
from emphasis.weighting import FAMILIES, Spline, Weighting

try:
    from bokeh.layouts import column, row
    from bokeh.models import (
        Button,
        ColumnDataSource,
        CustomJS,
        Div,
        MultiChoice,
        PointDrawTool,
        RangeSlider,
        Select,
        Slider,
        TextAreaInput,
        Toggle,
    )
    from bokeh.plotting import figure
    from jinja2 import Template

    from emphasis.diagnostics.plots.local_server import LocalServer
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.diagnostics.plots.design", "design", error) from None

DRAWN = "by hand"
_PAGE = "{% extends base %}{% block contents %}<main>{{ super() }}</main>{% endblock %}"
SHOWN = ("DM", "Normal", "Exponential", "Beta", "GCE", "CCE", "MAE", "MSE", "SCE", "Focal")
_RANGES = {  # sliders: minimum, maximum, step, initial value
    ("DM", "lam"): (0.0, 4.0, 0.05, 0.5),
    ("DM", "beta"): (-4.0, 30.0, 0.25, 8.0),
    ("Normal", "psi"): (0.0, 1.0, 0.01, 0.3),
    ("Normal", "beta"): (0.0, 40.0, 0.25, 8.0),
    ("Exponential", "beta"): (-10.0, 20.0, 0.25, 2.0),
    ("Beta", "alpha"): (0.1, 10.0, 0.05, 2.0),
    ("Beta", "eta"): (0.1, 10.0, 0.05, 2.0),
    ("GCE", "q"): (0.0, 1.0, 0.01, 0.7),
    ("SCE", "mu"): (0.0, 6.0, 0.05, 0.1),
    ("SCE", "nu"): (0.0, 6.0, 0.05, 1.0),
    ("SCE", "A"): (-8.0, 0.0, 0.25, -4.0),
    ("Focal", "gamma"): (0.0, 6.0, 0.05, 2.0),
}
_FIRST_POINTS = ((0.0, 0.2), (0.2, 0.6), (0.45, 1.0), (0.75, 0.5), (1.0, 0.0))
_P = np.linspace(0.0, 1.0, 401)
_MARGINS = np.linspace(-8.0, 12.0, 401)
_COLORS = (COLORS[0], GRAY, *COLORS[1:4], *COLORS[5:], COLORS[4])
_TWO = _COLORS[2]

Histograms = Mapping[str, tuple[Sequence[int], Sequence[int]]]
"""Counts of correctly and of wrongly labeled examples in equal bins of p in [0, 1], by name."""


class Design:
    """A design page: its widgets and their callbacks.

    Args:
        histograms: Histograms of p to show behind the curves, such as those of a run.

    Attributes:
        layout: Root of the Bokeh document.
        error: Message about invalid points; empty if they are valid.
    """

    def __init__(self, histograms: Histograms | None = None) -> None:
        self.error = ""
        self._histograms = dict(histograms or {})
        self._family = Select(title="Weighting", value="DM", options=[*SHOWN, DRAWN], name="family")
        self._vanishing = Toggle(label="vanishing: w(p) - w(1)", name="vanishing")
        self._sliders = {
            key: Slider(title=key[1], start=low, end=high, step=step, value=first, name=" ".join(key))
            for key, (low, high, step, first) in _RANGES.items()
        }
        self._versus = MultiChoice(title="Compare with", value=["CCE"], options=list(SHOWN), name="versus")
        self._interval = RangeSlider(
            title="Mass between", start=0.0, end=1.0, step=0.01, value=(0.2, 0.6), name="interval"
        )
        self._overlay = Select(
            title="p of a run, under the curves", value="none", options=["none", *self._histograms], name="overlay"
        )
        self._numbers = Div(name="numbers", width=330)
        self._python = TextAreaInput(title="Python", rows=3, width=330, name="python")
        self._toml = TextAreaInput(title="Line for a recipe", rows=3, width=330, name="toml")
        self._points = ColumnDataSource({"x": [], "y": []}, name="points")
        self._sources = {
            name: ColumnDataSource({"xs": [], "ys": [], "color": [], "label": [], "width": []}, name=name)
            for name in ("weight", "density", "loss")
        }
        self._bars = ColumnDataSource({"left": [], "right": [], "clean": [], "top": []}, name="bars")
        self._drawing = False
        self._set_points(_FIRST_POINTS)
        self.layout = self._arranged()
        for widget in (self._family, self._versus, self._interval, self._overlay, *self._sliders.values()):
            widget.on_change("value", self._moved)
        self._vanishing.on_change("active", self._moved)
        self._points.on_change("data", self._drawn)
        self.update()

    def _arranged(self) -> Any:
        plots = {
            name: figure(
                title=title,
                x_axis_label=x,
                y_axis_label=y,
                height=280,
                width=560,
                name=f"plot {name}",
                tools="pan,wheel_zoom,box_zoom,reset,save",
                active_scroll=None,
            )
            for name, title, x, y in (
                ("weight", "Weight: the size of the derivative", "p, the probability of the label", "w(p)"),
                ("density", "Emphasis density: the share of the emphasis", "p, the probability of the label", "h(p)"),
                ("loss", "Loss with this derivative", "margin log(p / (1 - p))", "loss"),
            )
        }
        under = plots["density"]
        under.quad(left="left", right="right", bottom=0, top="clean", source=self._bars, color=FILLS[0], alpha=0.45)
        under.quad(left="left", right="right", bottom="clean", top="top", source=self._bars, color=_TWO, alpha=0.45)
        for name, plot in plots.items():
            plot.multi_line(
                xs="xs",
                ys="ys",
                line_color="color",
                line_width="width",
                legend_field="label",
                source=self._sources[name],
            )
            plot.legend.background_fill_alpha = 0.6
            plot.legend.label_text_font_size = "9pt"
            plot.title.text_font_size = "10.5pt"
        for name in ("weight", "density"):
            plots[name].y_range.start = 0
        handles = plots["weight"].scatter("x", "y", size=13, color=_TWO, line_color="white", source=self._points)
        tool = PointDrawTool(renderers=[handles], num_objects=12)
        plots["weight"].add_tools(tool)
        plots["weight"].toolbar.active_tap = tool
        copies = [_copy_button(area) for area in (self._python, self._toml)]
        side = column(
            Div(text="<h1 style='margin:0;font-size:1.5em'>Emphasis by design</h1>", width=330),
            self._family,
            *self._sliders.values(),
            self._vanishing,
            self._versus,
            *([self._overlay] if self._histograms else []),
            self._interval,
            self._numbers,
            self._python,
            copies[0],
            self._toml,
            copies[1],
            width=350,
        )
        hint = Div(
            width=560,
            text="<small>By hand: drag a point, click to add a point, or select a point and press backspace "
            "to remove it. The end points stay at p = 0 and p = 1.</small>",
        )
        return row(side, column(plots["weight"], hint, plots["density"], plots["loss"]), name="design")

    @property
    def weighting(self) -> Weighting:
        """The weighting that the page shows."""
        family = self._family.value
        if family == DRAWN:
            return Spline(tuple(zip(self._points.data["x"], self._points.data["y"], strict=True)))
        options = {name: slider.value for (owner, name), slider in self._sliders.items() if owner == family}
        if family == "DM" and self._vanishing.active and options["beta"] > 0.0:
            options["vanishing"] = True
        return FAMILIES[family](**options)

    def update(self) -> None:
        """Update curves and texts from the widgets."""
        family = self._family.value
        for (owner, _), slider in self._sliders.items():
            slider.visible = owner == family
        self._vanishing.visible = family == "DM"
        if family != DRAWN:
            self._set_points(())
        elif not self._points.data["x"]:
            self._set_points(_FIRST_POINTS)
        try:
            weighting = self.weighting
        except ValueError as error:  # some slider positions make all weights 0
            self.error = str(error)
            for source in self._sources.values():
                source.data = {name: [] for name in ("xs", "ys", "color", "label", "width")}
            self._numbers.text = f"<p style='color:#b23c00'>{html.escape(self.error)}</p>"
            self._python.value = self._toml.value = ""
            return
        others = [FAMILIES[name]() for name in self._versus.value]
        drawn = [(weighting, _COLORS[0], 3.0), *((other, _COLORS[1 + k % 7], 1.5) for k, other in enumerate(others))]
        for name, curve in (("weight", _weight), ("density", _density), ("loss", _loss)):
            curves = [curve(shown_weighting) for shown_weighting, _, _ in drawn]
            self._sources[name].data = {
                "xs": [x.tolist() for x, _ in curves],
                "ys": [y.tolist() for _, y in curves],
                "color": [color for _, color, _ in drawn],
                "width": [width for _, _, width in drawn],
                "label": [_label(shown_weighting) for shown_weighting, _, _ in drawn],
            }
        self._bars.data = self._histogram()
        self._numbers.text = self._describe(weighting)
        self._python.value, self._toml.value = python_line(weighting), toml_line(weighting)

    def _describe(self, weighting: Weighting) -> str:
        low, high = self._interval.value
        mode = "none: flat" if weighting.mode is None else ", ".join(f"{value:.4g}" for value in weighting.modes)
        finite = weighting.log_integral < math.inf
        lines = [
            ("emphasis mode", mode),
            ("integral of w", f"{weighting.integral:.4g}"),
            ("w(1)", f"{float(weighting(1.0)):.4g}"),
            (
                f"mass in {low:.2f} to {high:.2f}",
                f"{100 * weighting.mass(low, high):.1f} %" if finite else "no density",
            ),
            ("spread of the density", f"{math.sqrt(weighting.edf_variance):.3f}" if finite else "no density"),
        ]
        warning = f"<p style='color:#b23c00'>{html.escape(self.error)}</p>" if self.error else ""
        return warning + "<br>".join(f"{name}: <b>{value}</b>" for name, value in lines)

    def _histogram(self) -> dict[str, list[float]]:
        """Return the bars of the chosen run, scaled to a density like the curves."""
        clean, noisy = (np.asarray(part, float) for part in self._histograms.get(self._overlay.value, ((), ())))
        total = clean.sum() + noisy.sum()
        if not total:
            return {"left": [], "right": [], "clean": [], "top": []}
        edges = np.linspace(0.0, 1.0, len(clean) + 1)
        scale = len(clean) / total
        return {
            "left": edges[:-1].tolist(),
            "right": edges[1:].tolist(),
            "clean": (clean * scale).tolist(),
            "top": ((clean + noisy) * scale).tolist(),
        }

    def _moved(self, _name: str, _old: Any, _new: Any) -> None:
        self.error = ""
        self.update()

    def _drawn(self, _name: str, _old: Any, _new: Any) -> None:
        """Update the curve after points were moved: sorted, non-negative, and with ends at p = 0 and 1."""
        if self._drawing:
            return
        x, y = self._points.data["x"], self._points.data["y"]
        if self._family.value != DRAWN:
            if len(x):  # a click on the curve of a family
                self._set_points(())
            return
        self._set_points(tidied(list(zip(x, y, strict=True))))
        self.error = "" if any(self._points.data["y"]) else "The curve is 0 everywhere; raise a point."
        if self.error:
            self._set_points(_FIRST_POINTS)
        self.update()

    def _set_points(self, points: Sequence[tuple[float, float]]) -> None:
        self._drawing = True
        self._points.data = {"x": [p for p, _ in points], "y": [w for _, w in points]}
        self._drawing = False


def tidied(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return points that a spline can interpolate: sorted, 0.005 apart, w >= 0, from p = 0 to p = 1.

    The numbers are rounded as in the exported line, so that the curve on the page is the exported one.
    """
    near = ((min(max(float(p), 0.0), 1.0), max(float(w), 0.0)) for p, w in points if p == p and w == w)
    rising = sorted(_rounded(point) for point in near)
    if len(rising) < 2:
        return list(_FIRST_POINTS)
    inner = [(0.0, rising[0][1])]
    for p, w in rising[1:-1]:
        if inner[-1][0] + 0.005 <= p <= 0.995:
            inner.append((p, w))
    return [*inner, (1.0, rising[-1][1])]


def python_line(weighting: Weighting) -> str:
    """Return the Python code that creates the weighting."""
    return f"from emphasis import {type(weighting).__name__}\nweighting = {_code(weighting, 6)}"


def toml_line(weighting: Weighting) -> str:
    """Return the line of a recipe that specifies the weighting."""
    rounded = {key: _rounded(value) for key, value in weighting.to_dict().items()}
    return f"weighting = {inline_table(rounded)}"


def _label(weighting: Weighting) -> str:
    """Return the weighting's label in a legend."""
    return DRAWN if isinstance(weighting, Spline) else _code(weighting, 3)


def _code(weighting: Weighting, digits: int) -> str:
    inside = ", ".join(f"{name}={_rounded(value, digits)!r}" for name, value in weighting.parameters().items())
    return f"{type(weighting).__name__}({inside})"


def _rounded(value: Any, digits: int = 6) -> Any:
    """Return a parameter rounded to a few digits: sliders give values such as 0.30000000000000004."""
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded(item, digits) for item in value)
    return float(f"{value:.{digits}g}") if isinstance(value, float) else value


def _finite(values: Any) -> Any:
    return np.where(np.isfinite(values), values, np.nan)


def _weight(weighting: Weighting) -> tuple[Any, Any]:
    return _P, _finite(weighting(_P))


def _density(weighting: Weighting) -> tuple[Any, Any]:
    return _P, _finite(weighting.density(_P)) if weighting.log_integral < math.inf else np.full_like(_P, np.nan)


def _loss(weighting: Weighting) -> tuple[Any, Any]:
    return _MARGINS, _finite(weighting.potential(_MARGINS, "auto"))


def _copy_button(area: TextAreaInput) -> Button:
    button = Button(label="copy", width=80, name=f"copy {area.name}")
    button.js_on_click(CustomJS(args={"area": area}, code="navigator.clipboard.writeText(area.value)"))
    return button


def serve(histograms: Histograms | None = None, port: int = 0) -> LocalServer:
    """Return a running server of design pages, one per visitor; its port is `server.port`.

    All resources of the page are served locally, so that no network access is needed.

    Args:
        histograms: Histograms of p to offer, by name.
        port: Port to listen at; 0 chooses a free one.

    Raises:
        OSError: The port is taken.
    """

    def make(document: Any) -> None:
        document.title = "Emphasis by design"
        document.template = Template(_PAGE)
        document.add_root(Design(histograms).layout)

    server = LocalServer(make, port)
    server.start()
    return server
