"""The page of a review in a real browser, with a real server that is killed in between."""

import json
import os
import signal
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from waiting import wait_for

from browser import broken_rules, browser, needs_chromium, not_reached, show_as
from emphasis.review.decisions import DecisionLog, Decisions
from forked import end, start

pytestmark = needs_chromium


class Server:
    """`emphasis review` in a process of its own."""

    def __init__(self, folder, decisions, port=0):
        command = ["review", str(folder), "--decisions", str(decisions)]
        log = decisions.with_suffix(".log")
        log.unlink(missing_ok=True)
        self.process = start([*command, "--no-browser", "--reviewer", "ada", "--port", str(port)], log)
        wait_for(lambda: log.exists() and "\n" in log.read_text(), self.process)
        line = log.read_text().splitlines()[0]
        assert "The page is at" in line
        self.address = line.split()[4]
        self.port = int(self.address.rstrip("/").rpartition(":")[2])

    def stop(self, number=signal.SIGKILL):
        os.kill(self.process.pid, number)
        return end(self.process)


@contextmanager
def served(folder, decisions):
    server = Server(folder, decisions)
    try:
        yield server
    finally:
        if server.process.is_alive():
            server.stop()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), 1200) as found:
        yield found


def text_of(chromium, name):
    return chromium.execute_script("return document.getElementById(arguments[0]).textContent", name)


def press(chromium, key):
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(chromium).send_keys(key).perform()


def reviewed(chromium):
    """How many decisions the page shows as saved."""
    shown = text_of(chromium, "counts").split()
    return int(shown[0]) if shown and shown[0].isdigit() else -1


def ready(chromium):
    return chromium.execute_script("return typeof state !== 'undefined' && !state.busy && state.example !== null")


def test_sixty_decisions_by_keyboard_and_ten_kills(chromium, image_audit, text_audit, table_audit, tmp_path):
    kills = {"image": {2, 5, 8, 11, 14, 17}, "text": {6, 13}, "table": {7, 15}}
    for kind, (folder, _, truth) in (("image", image_audit), ("text", text_audit), ("table", table_audit)):
        path = tmp_path / f"{kind}.jsonl"
        server = Server(folder, path)
        try:
            chromium.get(server.address)
            for number in range(20):
                wait_for(lambda: ready(chromium), server.process)
                index = chromium.execute_script("return state.example.index")
                given, suggested = (
                    chromium.execute_script(f"return state.example.{n}") for n in ("given", "suggested")
                )
                names = chromium.execute_script("return state.about.classes")
                key = chromium.execute_script("return state.example.key")
                wanted = truth[key if kind == "image" else index]
                before = reviewed(chromium)
                if names[given] == wanted:
                    press(chromium, "k")
                elif names[suggested] == wanted:
                    press(chromium, "s")
                else:
                    press(chromium, "o")
                    press(chromium, wanted + "\ue007")
                if number in kills[kind]:  # at any moment: the decision may have been saved and not yet be shown
                    server.stop()
                    shown = reviewed(chromium)
                    saved = len(Decisions.read(path).latest())
                    assert shown <= saved <= before + 1
                    server = Server(folder, path, server.port)
                    chromium.get(server.address)
                    wait_for(lambda saved=saved: reviewed(chromium) == saved, server.process)
                    if saved == before:
                        continue
                wait_for(lambda before=before: reviewed(chromium) == before + 1, server.process)
            total = reviewed(chromium)
            outcomes = Decisions.read(path).outcomes()
            assert len(outcomes) == total >= 14
            for key, outcome in outcomes.items():
                assert outcome.label == truth[key if kind == "image" else int(key)]
            assert chromium.execute_script("return window.hacked") is None
            assert chromium.execute_script("return document.querySelectorAll('#one img[src=x]').length") == 0
            log = [entry["message"] for entry in chromium.get_log("browser") if "net::ERR" not in entry["message"]]
            assert not log
            width = chromium.execute_script("return document.documentElement.scrollWidth")
            assert width <= chromium.execute_script("return innerWidth")
        finally:
            server.stop()


def test_grid_filter_back_two_reviewers_and_progress(chromium, image_audit, tmp_path):
    folder, _, _ = image_audit
    path = tmp_path / "mine.jsonl"
    with served(folder, path) as server:
        chromium.get(server.address)
        wait_for(lambda: ready(chromium), server.process)
        first = chromium.execute_script("return state.example.index")
        press(chromium, "u")
        wait_for(lambda: reviewed(chromium) == 1, server.process)
        press(chromium, "b")  # back, and decide again
        wait_for(lambda: ready(chromium) and chromium.execute_script("return state.example.index") == first)
        press(chromium, "s")
        wait_for(lambda: "1 wrong" in text_of(chromium, "counts"), server.process)
        skipped = chromium.execute_script("return state.example.index")
        press(chromium, "n")
        wait_for(lambda: ready(chromium) and chromium.execute_script("return state.example.index") != skipped)
        pair = chromium.execute_script("return state.about.pairs[0]")
        chromium.execute_script(
            "document.getElementById('pair').value = arguments[0]; document.getElementById('filter-form')"
            ".requestSubmit()", f"{pair[0]},{pair[1]}",
        )  # fmt: skip
        press(chromium, "g")
        tiles = "return state.view === 'grid' && !state.busy && state.tiles.map((t) => [t.given, t.suggested, t.index])"
        wait_for(lambda: chromium.execute_script(tiles), server.process)
        shown = chromium.execute_script(tiles)
        assert {(given, suggested) for given, suggested, _ in shown} == {(pair[0], pair[1])}
        before = reviewed(chromium)
        chromium.execute_script("document.querySelector('#tiles li').click()")  # all but the first
        chromium.execute_script("document.getElementById('grid-suggestion').click()")
        wait_for(lambda: reviewed(chromium) == before + len(shown) - 1, server.process)
        # A second reviewer, in a process of its own, disagrees about the first example.
        decision = Decisions.read(path)[-1]
        other = decision.__class__(**{**vars(decision), "reviewer": "bob", "action": "keep", "after": decision.before})
        DecisionLog(path).append([other])
        press(chromium, "p")
        wait_for(lambda: "1 disputed" in text_of(chromium, "summary"), server.process)
        assert "ada and bob: 1 example in common" in text_of(chromium, "summary")
        chromium.execute_script("document.querySelector('#summary button').click()")
        wait_for(lambda: ready(chromium) and chromium.execute_script("return state.view") == "one", server.process)
        assert "bob" in text_of(chromium, "votes")
        press(chromium, "s")
        wait_for(lambda: Decisions.read(path)[-1].settles, server.process)
        assert Decisions.read(path).outcomes()[decision.example].status == "corrected"


def test_a_phone_dark_and_light_pages_accessibility_and_no_network(chromium, image_audit, text_audit, tmp_path):
    run = chromium.execute_script
    for (folder, _, _), theme in ((text_audit, "dark"), (image_audit, "light")):
        with served(folder, tmp_path / f"{theme}.jsonl") as server:
            show_as(chromium, 390, theme)
            chromium.get(server.address)
            wait_for(lambda: ready(chromium), server.process)
            run("document.getElementById('filters').open = true")
            for view in ("one", "grid", "summary"):
                run("document.getElementById(arguments[0]).click()", f"tab-{view}")
                wait_for(lambda view=view: run("return !state.busy && state.view") == view)
                widths = run(
                    "return [...document.querySelectorAll('body *')].filter((e) => e.getBoundingClientRect().right >"
                    " innerWidth + 1 && !e.closest('[hidden]')).map((e) => e.tagName + '#' + e.id)"
                )
                assert widths == []
                if view == "grid":
                    run("document.querySelector('#tiles li').click()")  # which then is paler
                assert broken_rules(chromium) == [], (view, theme)
                assert not_reached(chromium) == [], (view, theme)
            run("goTo('one'); document.activeElement.blur()")
            wait_for(lambda: ready(chromium), server.process)
            press(chromium, "o")
            assert run("return document.getElementById('classes').open")
            assert broken_rules(chromium) == [], ("another class", theme)
            background = run("return getComputedStyle(document.body).backgroundColor")
            assert background == {"dark": "rgb(20, 23, 27)", "light": "rgb(255, 255, 255)"}[theme]
            loaded = run("return performance.getEntriesByType('resource').map((e) => e.name)")
            assert all(name.startswith((server.address, "data:")) for name in loaded)
    show_as(chromium, 1200)


def ask(server, path, values=None, **headers):
    """Return status and content of a request with these headers."""
    data = None if values is None else (values if isinstance(values, bytes) else json.dumps(values).encode())
    request = urllib.request.Request(
        server.address + path, data, {name.replace("_", "-"): v for name, v in headers.items()}
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_foreign_hosts_and_origins_are_refused_and_bad_requests_named(image_audit, tmp_path):
    folder, _, _ = image_audit
    path = tmp_path / "mine.jsonl"
    with served(folder, path) as server:
        own = server.address.rstrip("/")
        json_type = {"content_type": "application/json"}
        decision = {"examples": [0], "action": "keep"}
        for host in ("evil.example", f"evil.example:{server.port}", "localhost.evil.example", "localhost:1:2", ""):
            assert ask(server, "", host=host)[0] in (400, 403), host
            assert ask(server, "api/decide", decision, host=host, origin=f"http://{host}", **json_type)[0] in (400, 403)
        for origin in ("http://evil.example", "null", f"http://localhost:{server.port + 1}", f"https{own[4:]}"):
            assert ask(server, "api/decide", decision, origin=origin, **json_type)[0] == 403, origin
        assert ask(server, "api/decide", decision, **json_type)[0] == 403  # without an origin
        assert ask(server, "api/decide", decision, origin=own, content_type="text/plain")[0] == 403
        assert ask(server, "picture/0", sec_fetch_site="cross-site")[0] == 403
        assert not path.exists()
        wrong_fields = [
            {"examples": []}, {"examples": [0] * 501}, {"examples": [60]}, {"examples": ["0"]}, {"examples": [True]},
            {"action": "burn"}, {"action": "other", "label": 3}, {"comment": "x" * 3000}, {"reviewer": 3},
            {"status": "burnt"}, {"given": "x"}, {"least": "x"},
        ]  # fmt: skip
        bad = [b"{", b"[1]", b"[" * 100_000, {}, *(decision | values for values in wrong_fields)]
        for values in bad:
            status, content = ask(server, "api/decide", values, origin=own, **json_type)
            assert status == 400, values
            assert json.loads(content)["error"]
        assert ask(server, "picture/60")[0] == 404
        status, content = ask(server, "picture/0")
        assert (status, content[:4]) == (200, b"\x89PNG")
        for name in ("../../etc/passwd", "static/review.js", "docs", "openapi.json"):
            assert ask(server, name)[0] == 404
        assert ask(server, "api/decide", decision, origin=own, **json_type)[0] == 200
        assert len(Decisions.read(path)) == 1
        assert server.stop(signal.SIGINT) in (0, 130)
