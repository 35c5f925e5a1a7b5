"""Every page in a browser: nothing is wider than the window, and readers who do not see or point can use it.

One browser opens all pages, those of the documentation included if it is built. The rules of accessibility are those of
axe-core.
"""

import base64
import csv
import io
import itertools
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import emphasis
from browser import broken_rules, browser, needs_chromium, not_reached, show_as
from emphasis.diagnostics.plots.document import csv_text, finish
from emphasis.diagnostics.suspects import find_suspects
from emphasis.experiments.reports.audit_page import audit_page
from emphasis.experiments.reports.recipe_figures import draw
from emphasis.experiments.reports.run_page import page
from emphasis.experiments.reports.summary import summarize
from emphasis.experiments.reports.tune_page import tune_page
from emphasis.experiments.studies.audit_result import Audit
from emphasis.experiments.studies.search import SearchResult, Trial
from emphasis.experiments.studies.tuning_result import TuningResult
from emphasis.tabular.fit import fit_table
from emphasis.weighting import DM
from synthetic import make_rows, plain, recipe

WIDTHS = (390, 1200)


def audited(pictures):
    rng = np.random.default_rng(0)
    labels, true = rng.integers(0, 3, 90), rng.integers(0, 3, 90)
    predicted = np.stack([true] * 4)
    margins = [np.where(labels == true, step, -step) + rng.normal(size=90) for step in range(1, 5)]
    suspects = find_suspects(margins, predicted, labels, 3)
    images = rng.integers(0, 256, (90, 1, 8, 8)).astype(np.uint8) if pictures else None
    return Audit(
        "Letters", labels, ("a", "b", "c"), np.arange(90), suspects, range(10, 50, 10), "iteration", margins,
        DM(lam=0.5, beta=4), wrong=labels != true, pictures=images, notes=("3 rows are empty",),
    )  # fmt: skip


def tuned():
    best = Trial({"weighting.beta": 3.0, "normalization": "batch"}, 0.6, 0.01)
    worse = Trial({"weighting.beta": 1.0, "normalization": "integral"}, 0.5, 0.01)
    search = SearchResult((best, worse), best, ())
    return TuningResult(recipe(), 0.3, audited(pictures=False), 3, 0.5, search, worse, 0.1)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The path of every page by its name."""
    pytest.importorskip("xgboost")
    base = tmp_path_factory.mktemp("pages")
    rows = {name: [rng_value(name, row) for row in range(60)] for name in ("weight", "a rather long name of a column")}
    table = pd.DataFrame(rows | {"kind": np.where(np.arange(60) % 3, "large", "small")})
    fit = fit_table(table, label="kind", folder=base / "fit", folds=2, settings={"n_estimators": 3})
    ranked = summarize(recipe(), make_rows(recipe(), plain))
    scaled = summarize(recipe(scaled=True), make_rows(recipe(scaled=True), plain))
    texts = {
        "run": page(ranked, draw(ranked), ["table.csv", "curves-1.svg"]),
        "scaled": page(scaled, draw(scaled)),
        "audit-table": audit_page(
            audited(False), ["emphasis", "audit"], {"height": np.arange(90) / 7, "name": ["x" * 40] * 90}
        ),
        "audit-images": audit_page(audited(True)),
        "tune": tune_page(tuned(), ["emphasis", "tune"]),
    }
    for name, text in texts.items():
        (base / f"{name}.html").write_text(text, encoding="utf-8")
    photos = base / "photos"
    for number in range(12):
        (photos / ("cat", "dog")[number % 2]).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(256, size=(16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photos / ("cat", "dog")[number % 2] / f"{number}.png")
    images = emphasis.fit(photos, folder=base / "images", folds=2, iterations=2, accelerator="cpu")
    folders = {"fit": fit.folder, "images": images.folder}
    return {
        **{name: base / f"{name}.html" for name in texts},
        **{name: folder / "report.html" for name, folder in folders.items()},
    }


def rng_value(name, row):
    return round(float(np.sin(len(name) * row)), 4)


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile"), 390) as driver:
        yield SimpleNamespace(driver=driver, run=driver.execute_script, command=driver.execute_cdp_cmd)


def open_page(window, path, width, theme):
    show_as(window.driver, width, theme)
    window.driver.get(path.as_uri())


WIDE = """
const most = document.documentElement.clientWidth + 1;
const inBox = e => e.parentElement?.closest('.scroll, pre, .hidden, .skip, svg') || e.matches('.skip');
return [...document.body.querySelectorAll('*')].filter(e => !inBox(e) && e.getBoundingClientRect().right > most)
    .map(e => e.outerHTML.slice(0, 200)).concat(document.documentElement.scrollWidth > most ? ['the page'] : []);
"""
CHARTS = """
return [...document.querySelectorAll('.chart svg')].filter(e => e.getBoundingClientRect().width).map(e => {
    const size = parseFloat(getComputedStyle(e.querySelector('text')).fontSize);
    const box = e.getBoundingClientRect();
    return [box.width, size * box.width / e.viewBox.baseVal.width, e.getAttribute('aria-label'),
            getComputedStyle(e.querySelector('text')).fill];
});
"""


@needs_chromium
def test_no_page_is_wider_than_the_window_and_charts_are_legible(pages, window):
    for name, path in pages.items():
        for width in WIDTHS:
            open_page(window, path, width, "light")
            assert window.run(WIDE) == [], f"{name} at {width}"
            charts = window.run(CHARTS)
            assert charts, name
            for drawn, letters, description, fill in charts:
                assert drawn <= width
                assert letters >= 8.0, f"{name} at {width}: {description}"
                assert len(description) > 30
                assert fill == "rgb(0, 0, 0)"
            open_page(window, path, width, "dark")
            assert {fill for *_, fill in window.run(CHARTS)} == {"rgb(230, 233, 237)"}
            assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"


@needs_chromium
def test_pages_keep_the_rules_of_accessibility(pages, window):
    for name, path in pages.items():
        for theme, only in (("light", None), ("dark", "color-contrast")):
            open_page(window, path, 390, theme)
            assert broken_rules(window.driver, only, outside=[".chart svg"]) == [], (name, theme)


DOCS = Path(__file__).parent.parent / "docs" / "_build" / "html"


@needs_chromium
@pytest.mark.skipif(not DOCS.is_dir(), reason="the documentation is not built")
def test_the_documentation_can_be_read_by_everyone(window):
    for name in ("index", "tutorials/tables", "search"):
        for theme, only in (("light", None), ("dark", "color-contrast")):
            open_page(window, DOCS / f"{name}.html", 390, theme)
            theirs = ["region"] + ["page-has-heading-one"] * (name == "search")  # of the theme
            assert broken_rules(window.driver, only, but=theirs) == [], (name, theme)
        assert window.run("return document.documentElement.scrollWidth") <= 390, name
        assert not_reached(window.driver) == [], name
    open_page(window, DOCS / "api.html", 390, "light")
    # All rules take minutes on so long a page.
    assert [broken_rules(window.driver, rule) for rule in ("definition-list", "dlitem")] == [[], []]
    assert window.run("return document.documentElement.scrollWidth") <= 390


@needs_chromium
def test_pages_can_be_read_by_keyboard(pages, window):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    for name, path in pages.items():
        open_page(window, path, 390, "light")
        body = window.driver.find_element(By.TAG_NAME, "body")
        body.send_keys(Keys.TAB)
        active = window.driver.switch_to.active_element
        assert active.text == "Skip to the content", name
        outline = window.run("return getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        active.send_keys(Keys.ENTER)
        assert window.run("return location.hash") == "#main"
        levels = window.run("return [...document.querySelectorAll('h1,h2,h3,h4')].map(e => Number(e.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
        broken = "return [...document.querySelectorAll('nav a')].filter(a => !document.querySelector(a.hash)).length"
        assert window.run(broken) == 0
        headings = window.run("return document.querySelectorAll('h2').length")
        assert window.run("return document.querySelectorAll('nav a').length") == headings > 2
        assert not_reached(window.driver) == [], name
        unreachable = """return [...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1
            && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).length"""
        assert window.run(unreachable) == 0


def test_every_table_can_be_downloaded(pages):
    for name, path in pages.items():
        text = path.read_text(encoding="utf-8")
        tables = re.findall(r"<table>(.*?)</table>", text, re.DOTALL)
        files = re.findall(r'download="([\w-]+\.csv)" href="data:text/csv;charset=utf-8;base64,([^"]*)"', text)
        assert len(tables) == len(files) == len({file for file, _ in files}) > 0, name
        for table, (_, content) in zip(tables, files, strict=True):
            rows = list(csv.reader(io.StringIO(base64.b64decode(content).decode("utf-8-sig"))))
            assert len(rows) == table.count("<tr") - table.count('<tr class="group"')
            assert len({len(row) for row in rows}) == 1, name


def test_a_table_as_csv():
    table = """<thead><tr><th>Method</th><th>a &amp; b<small>ours</small></th></tr></thead>
    <tbody><tr class="group"><th colspan="2">Losses</th></tr>
    <tr><td>CCE, "hard"</td><td data-value="0.12345">0.12</td></tr>
    <tr class="group"><th colspan="2">Other</th></tr>
    <tr><td><b>&lt;DM&gt;</b></td><td><span>1.0 &plusmn; 0.1</span><small>2.0</small></td></tr></tbody>"""
    assert list(csv.reader(io.StringIO(csv_text(table)))) == [
        ["Group", "Method", "a & b; ours"],
        ["Losses", 'CCE, "hard"', "0.12345"],
        ["Other", "<DM>", "1.0 ± 0.1; 2.0"],
    ]


def test_headings_have_identifiers_that_differ():
    document = finish(
        '<h2>Same</h2><h2>Same</h2><h3>Same <span class="badge">scaled</span></h3><h2 id="own">&lt;b&gt;</h2>'
    )
    assert document.contents == (("same", "Same"), ("same-2", "Same"), ("own", "<b>"))
    assert 'h3 id="same-3"' in document.body
