"""The design page, served by the command and moved by hand in a headless browser."""

import re
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from browser import broken_rules, browser, needs_chromium
from emphasis import DM, GCE, Spline, from_dict
from emphasis.diagnostics.plots.design import DRAWN, SHOWN, Design, python_line, tidied, toml_line
from emphasis.weighting import FAMILIES


def model(page, name):
    return f"Bokeh.documents[0].get_model_by_name('{name}')"


def read(page, name, what):
    return page.execute_script(f"return {model(page, name)}.{what}")


def wait(page, until, seconds=20):
    """Wait until the server has answered."""
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, "the page did not follow"
        time.sleep(0.05)


def curve(page, plot="weight"):
    return np.array([np.nan if y is None else y for y in read(page, plot, "data.ys[0]")], dtype=float)


def shown(page):
    """Return the weighting of the line of Python that the page shows."""
    names = {}
    exec(read(page, "python", "value"), names)
    return names["weighting"]


@pytest.fixture(scope="module")
def address():
    """The page of `emphasis design`, as a user starts it."""
    command = [sys.executable, "-m", "emphasis", "design", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        found = re.search(r"http://localhost:\d+/", process.stdout.readline())
        assert found
        yield found.group()
        process.terminate()


@needs_chromium
def test_sliders_move_the_curves_and_what_is_drawn_is_what_is_exported(address, tmp_path):
    p = np.linspace(0.0, 1.0, 401)
    with browser(tmp_path, 1100) as page:
        page.get(address)
        wait(page, lambda: page.execute_script("return window.Bokeh && Bokeh.documents.length > 0"))
        np.testing.assert_allclose(curve(page), DM(lam=0.5, beta=8)(p), rtol=1e-6)
        np.testing.assert_allclose(curve(page, "density"), DM(lam=0.5, beta=8).density(p), rtol=1e-6)
        of_bokeh = ["aria-allowed-attr", "aria-allowed-role", "aria-input-field-name"]  # in its sliders and choices
        assert broken_rules(page, but=of_bokeh) == []

        page.execute_script(f"{model(page, 'DM lam')}.value = 2; {model(page, 'DM beta')}.value = 16")
        wait(page, lambda: shown(page) == DM(lam=2, beta=16))
        np.testing.assert_allclose(curve(page), DM(lam=2, beta=16)(p), rtol=1e-6)
        margins = np.array(read(page, "loss", "data.xs[0]"))
        np.testing.assert_allclose(curve(page, "loss"), DM(lam=2, beta=16).potential(margins, "auto"), rtol=1e-6)
        assert "0.6667" in read(page, "numbers", "text")

        page.execute_script(f"{model(page, 'family')}.value = 'GCE'; {model(page, 'GCE q')}.value = 0.4")
        wait(page, lambda: shown(page) == GCE(q=0.4))
        np.testing.assert_allclose(curve(page), GCE(q=0.4)(p), rtol=1e-6)

        page.execute_script(f"{model(page, 'family')}.value = '{DRAWN}'")
        wait(page, lambda: isinstance(shown(page), Spline))
        dragged = [[1.0, 0.0, 0.3, 0.31, 0.6], [0.5, 0.0, 2.0, -1.0, 1.5]]  # as points are dropped: in any order
        page.execute_script(f"{model(page, 'points')}.data = {{x: {dragged[0]}, y: {dragged[1]}}}")
        expected = Spline(((0.0, 0.0), (0.3, 2.0), (0.31, 0.0), (0.6, 1.5), (1.0, 0.5)))
        wait(page, lambda: shown(page) == expected)
        np.testing.assert_allclose(curve(page), expected(p), rtol=1e-6, atol=1e-9)
        assert read(page, "points", "data.x") == [0.0, 0.3, 0.31, 0.6, 1.0]
        fetched = page.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert [one for one in fetched if not one.startswith((address, "data:"))] == []
        sizes = page.execute_script("return [...document.querySelectorAll('*')].filter(e => e.shadowRoot).length")
        assert sizes > 0


def test_every_family_that_is_shown_has_a_slider_for_each_parameter():
    page = Design()
    for family in SHOWN:
        page._family.value = family
        visible = {slider.name for slider in page._sliders.values() if slider.visible}
        names = [name for name in FAMILIES[family]().parameters() if name != "vanishing"]
        assert visible == {f"{family} {name}" for name in names}
        assert type(page.weighting) is type(FAMILIES[family]())
        for slider in (one for one in page._sliders.values() if one.visible):
            for end in (slider.start, slider.end):  # no place of a slider is an error
                before, slider.value = slider.value, end
                page.update()
                slider.value = before


def test_vanishing_holds_where_it_can():
    page = Design()
    page._vanishing.active = True
    assert page.weighting == DM(lam=0.5, beta=8, vanishing=True)
    page._sliders["DM", "beta"].value = -1.0
    assert page.weighting == DM(lam=0.5, beta=-1)


def test_sliders_that_weigh_nothing_are_said_and_offer_nothing_to_copy():
    page = Design()
    page._family.value = "SCE"
    page._sliders["SCE", "mu"].value = 0.0
    page._sliders["SCE", "nu"].value = 0.0
    assert "SCE" in page._numbers.text
    assert page._python.value == ""
    page._family.value = "CCE"
    assert page._python.value.endswith("CCE()")


def test_what_is_exported_is_what_is_drawn_to_the_last_digit():
    page = Design()
    page._family.value = DRAWN
    page._points.data = {"x": [0.0, 1 / 3, 1.0], "y": [0.1234567891, 1.0, 0.0]}
    names = {}
    exec(page._python.value, names)
    assert names["weighting"] == page.weighting


def test_a_curve_of_nothing_is_said_and_not_shown():
    page = Design()
    page._family.value = DRAWN
    page._points.data = {"x": [0.0, 0.5, 1.0], "y": [0.0, -1.0, 0.0]}
    assert "0 everywhere" in page._numbers.text
    assert isinstance(page.weighting, Spline)
    page._points.data = {"x": [0.0, 0.5, 1.0], "y": [0.0, 1.0, 0.0]}
    assert "0 everywhere" not in page._numbers.text
    assert page.weighting == Spline(((0, 0), (0.5, 1), (1, 0)))


def test_a_runs_p_lies_under_the_curves_as_a_density():
    page = Design({"CCE": ([6, 2], [1, 1])})
    page._overlay.value = "CCE"
    bars = page._bars.data
    assert bars["left"] == [0.0, 0.5]
    assert bars["clean"] == pytest.approx([1.2, 0.4])
    assert sum(top * 0.5 for top in bars["top"]) == pytest.approx(1.0)
    page._overlay.value = "none"
    assert page._bars.data["top"] == []


@pytest.mark.parametrize(
    "weighting", [DM(lam=0.1 + 0.2, beta=8), GCE(), Spline(((0, 1), (1 / 3, 2), (1, 0)))], ids=repr
)
def test_both_lines_make_the_weighting(weighting):
    import tomllib

    names = {}
    exec(python_line(weighting), names)
    p = np.linspace(0, 1, 50)
    np.testing.assert_allclose(names["weighting"](p), weighting(p), rtol=1e-4)
    assert from_dict(tomllib.loads(toml_line(weighting))["weighting"]) == names["weighting"]


def test_points_are_put_in_order():
    assert tidied([(1.2, 1), (-0.1, 2), (0.5, -3), (0.501, 4), (float("nan"), 1)]) == [(0.0, 2), (0.5, 0.0), (1.0, 1)]
    assert len(tidied([(0.5, 1.0)])) > 2


def test_a_port_that_is_taken_is_said(capsys):
    from emphasis.cli.main import main

    with socket.create_server(("localhost", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["design", "--no-browser", "--port", str(port)]) == 2
    assert f"cannot serve at port {port}" in capsys.readouterr().err
    assert main(["design", "--no-browser", "--port", "99999"]) == 2
    assert "cannot serve at port 99999" in capsys.readouterr().err


def ask(address, host, **headers):
    """Return the status of a request, by its first line; websockets are asked for with headers."""
    port = int(address.rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("localhost", port)) as connection:
        lines = [
            "GET {} HTTP/1.1".format("/ws" if headers else "/"),
            f"Host: {host.format(port=port)}",
            "Connection: close",
        ]
        if headers:
            lines[-1] = "Connection: Upgrade"
            lines += [
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                "Sec-WebSocket-Protocol: bokeh, token",
            ]
            lines += [f"{name}: {value.format(port=port)}" for name, value in headers.items()]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.makefile("rb").readline().split()[1])


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_the_page_answers_by_this_computers_names(address, host):
    assert ask(address, host) == 200
    # Refused for its token, which only a page has, and not for its origin.
    assert ask(address, host, Origin=f"http://{host.lower()}") != 403


@pytest.mark.parametrize(
    "host", ["evil.example:{port}", "evil.example", "localhost.evil.example:{port}", "0.0.0.0:{port}"]
)
def test_a_page_whose_name_was_made_to_lead_here_gets_nothing(address, host):
    assert ask(address, host) == 404
    assert ask(address, host, Origin=f"http://{host}") == 404
    assert ask(address, host, Origin="http://localhost:{port}") == 404


@pytest.mark.parametrize("origin", ["http://evil.example", "http://evil.example:{port}", "http://localhost:1", "null"])
def test_websockets_of_other_origins_are_refused(address, origin):
    assert ask(address, "localhost:{port}", Origin=origin) == 403
