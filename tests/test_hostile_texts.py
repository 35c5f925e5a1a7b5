"""Names, labels, columns and files of others: shown as they are, in the terminal, in figures and on every page."""

import dataclasses
import io
import json
import re
import shlex
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from rich.console import Console

from browser import browser, needs_chromium
from emphasis.cli.main import main
from emphasis.diagnostics.plots.canvas import literal
from emphasis.experiments.recipes.load import load_recipe, recipe_from_tables, recipe_to_tables
from emphasis.experiments.reports.report import print_report, render, write_report
from emphasis.experiments.reports.run_page import run_command
from emphasis.experiments.reports.summary import summarize
from emphasis.experiments.reports.tune_page import tune_page
from emphasis.experiments.runs.store import lines, read_rows
from emphasis.experiments.studies.search import SearchResult, Trial
from emphasis.experiments.studies.tuning_result import TuningResult
from emphasis.rich_text import PlainColumn, PlainTable, plain
from emphasis.tabular import fit_table
from emphasis.texts import encodable, visible
from hostile import ALL, CLOSING, FORMULA, HTML, OBEYED, SCRIPT, SHELL, STYLE, UNDERSCORE
from synthetic import make_rows, recipe

HOW = ["--no-progress", "--accelerator", "cpu"]
IN_A_NAME = STYLE.replace("/", "")  # of a file
ESCAPE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]")


def squeezed(text):
    """A text without what wrapping adds."""
    return re.sub(r"\s+", "", text)


@pytest.fixture(scope="module")
def summary():
    """A run whose names are all hostile."""
    methods, conditions = dict(zip(("CCE", "GCE", "DM", "Vanishing DM"), ALL, strict=False)), (OBEYED, SHELL)
    tables = recipe_to_tables(recipe())
    tables |= {
        "name": SHELL,
        "title": HTML,
        "question": SCRIPT,
        "baseline": HTML,
        "compare": [CLOSING],
        "cost": CLOSING,
    }
    for method in tables["methods"]:
        method["name"], method["group"] = methods[method["name"]], STYLE
    for condition, name in zip(tables["conditions"], conditions, strict=True):
        condition["name"] = name
    for table in tables["paper"].values():
        for old in list(table):
            table[methods[old]] = table.pop(old)
    tables["reported"][0] |= {"name": UNDERSCORE, "group": FORMULA}
    found = recipe_from_tables(tables)
    return summarize(found, make_rows(found, lambda condition, method, seed: 0.5 + 0.1 * seed))


@pytest.mark.parametrize("text", ALL)
def test_rich_shows_a_text_as_it_is(text):
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    table = PlainTable(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.print(plain(text))
    shown = console.file.getvalue()
    assert shown.count(visible(text)) == 4
    assert not ESCAPE.search(shown)


def test_a_progress_bar_shows_a_text_as_it_is():
    from rich.progress import Progress

    for text in ALL:
        console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
        with Progress(PlainColumn("{task.description}"), console=console, transient=True) as bar:
            bar.add_task(text)
        assert visible(text) in console.file.getvalue()


def test_what_a_terminal_obeys_is_written_out_and_languages_are_not():
    assert visible(OBEYED) == r"\x1b]0;title\x07\x1b[2J\x9b31m\u202eright to left"
    for text in ("Größe\tñ\n", "हिन्दी", "👨‍👩‍👧", "日本語", "עברית"):
        assert visible(text) == text
        assert encodable(text) == text
    assert encodable("a\udcff") == r"a\udcff"


def test_the_report_in_the_terminal_shows_every_name_as_it_is(summary):
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    print_report(summary, console)
    shown = console.file.getvalue()
    assert not ESCAPE.search(shown)
    for text in (HTML, SCRIPT, CLOSING, FORMULA, OBEYED, SHELL):
        assert squeezed(visible(text))[:12] in squeezed(shown)
    assert render(summary, "csv").count(CLOSING) > 0


def test_a_figure_shows_dollars_and_underscores_as_they_are():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    for text in ALL:
        figure = Figure()
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        axis.plot([0, 1], label=literal(text))
        axis.set_title(literal(text))
        legend = axis.legend()
        figure.savefig(io.BytesIO())
        assert [one.get_text().replace(r"\$", "$").strip() for one in legend.get_texts()] == [visible(text).strip()]


def test_a_command_to_be_copied_quotes_what_it_is_given():
    one = dataclasses.replace(recipe(), name=SHELL)
    assert shlex.split(run_command(one)) == ["emphasis", "run", f"{SHELL}.toml"]
    digits = load_recipe("digits")
    changed = digits.changed({"dataset.test_size": 400, "network.activation": SHELL})
    settings = shlex.split(run_command(changed))
    assert f"network.activation={SHELL}" in settings
    renamed = dataclasses.replace(
        digits, methods=(dataclasses.replace(digits.methods[0], name=SHELL),), baseline=SHELL, compare=()
    )
    assert SHELL not in run_command(renamed)  # none of the package's has it


# --- pages in a browser ----------------------------------------------------------------------------


def table_of(tmp_path):
    """A table whose name, columns, labels and values are hostile."""
    rng = np.random.default_rng(0)
    labels = [HTML, SCRIPT, STYLE]
    given = rng.integers(0, 3, 90)
    table = pd.DataFrame(
        {
            CLOSING: given + rng.normal(scale=0.6, size=90),
            FORMULA: rng.choice([HTML, SCRIPT, OBEYED], 90),
            HTML: rng.normal(size=90),
            STYLE: [labels[one] for one in given],
        }
    )
    path = tmp_path / f"{HTML}.csv"
    table.to_csv(path, index=False)
    return path


def images_of(tmp_path):
    """A folder of images whose name, classes and files are hostile."""
    base = tmp_path / HTML
    rng = np.random.default_rng(0)
    for k, name in enumerate((HTML, IN_A_NAME, FORMULA)):
        (base / name).mkdir(parents=True)
        for number in range(14):
            pixels = (rng.normal(100 + 60 * k, 30, (8, 8, 3))).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(base / name / f"{CLOSING.replace('/', '')}{number}.png")
    return base


def audit_page_of_a_table(tmp_path):
    out = tmp_path / "audit"
    path = table_of(tmp_path)
    assert main(["audit", str(path), "--label", STYLE, *HOW, "--iterations", "30", "--out", str(out)]) == 0
    return out / "audit.html", (HTML, SCRIPT, STYLE, CLOSING, FORMULA)


def audit_page_of_images(tmp_path):
    out = tmp_path / "audit"
    assert main(["audit", str(images_of(tmp_path)), *HOW, "--size", "8", "--iterations", "20", "--out", str(out)]) == 0
    return out / "audit.html", (HTML, IN_A_NAME, FORMULA)


def fit_page(tmp_path):
    path = table_of(tmp_path)
    found = fit_table(path, label=STYLE, folder=tmp_path / SHELL, folds=2, settings={"n_estimators": 5})
    return found.folder / "report.html", (HTML, SCRIPT, STYLE, CLOSING, FORMULA)


def run_page(tmp_path, summary):
    names = write_report(tmp_path, summary)
    assert {"curves.svg", "emphasis-1.svg", "probabilities-1.svg", "ranks.svg"} <= set(names)
    return tmp_path / "report.html", (HTML, SCRIPT, CLOSING, FORMULA, STYLE, SHELL, UNDERSCORE)


def page_of_a_tuning(tmp_path):
    one = dataclasses.replace(recipe(), title=HTML, name=SCRIPT)
    best = Trial({"weighting.beta": 3.0, "normalization": "batch", "solver.name": SCRIPT}, 0.6, 0.01)
    worse = Trial({"weighting.beta": 1.0, "normalization": CLOSING}, 0.5, 0.01)
    path = tmp_path / "tune.html"
    path.write_text(
        tune_page(
            TuningResult(one, 0.3, None, 10, 0.5, SearchResult((best, worse), best, ()), worse, 0.1),
            ["emphasis", "tune", SHELL],
        ),
        encoding="utf-8",
    )
    return path, (HTML, SCRIPT, CLOSING)


@needs_chromium
@pytest.mark.parametrize("kind", [audit_page_of_a_table, audit_page_of_images, fit_page, run_page, page_of_a_tuning])
def test_a_page_shows_hostile_texts_and_obeys_none(kind, request, tmp_path, capsys):
    path, texts = kind(tmp_path, request.getfixturevalue("summary")) if kind is run_page else kind(tmp_path)
    with browser(tmp_path / "profile", 1100) as page:
        page.get(path.resolve().as_uri())
        inside = page.execute_script("return document.documentElement.textContent")
        for text in texts:
            assert squeezed(text) in squeezed(inside), text
        assert "49{% raw %}" not in inside
        assert page.execute_script("return window.hacked") is None
        assert page.execute_script("return document.querySelectorAll('script, iframe, object, embed').length") == 0
        handlers = (
            "[...document.querySelectorAll('*')].flatMap(e => [...e.attributes]).filter(a => a.name.startsWith('on'))"
        )
        assert page.execute_script(f"return {handlers}.length") == 0
        sources = page.execute_script("return [...document.images].map(e => e.src)")
        assert sources or page.execute_script("return document.querySelectorAll('svg').length")
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        links = page.execute_script("return [...document.links].map(e => e.href)")
        assert {link.partition(":")[0] for link in links} <= {"data", "file", "http", "https"}
        assert all(link.startswith("data:text/csv;charset=utf-8;base64,") for link in links if link.startswith("data:"))


@needs_chromium
def test_the_design_page_shows_hostile_names_of_a_run_and_obeys_none(summary, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(recipe_to_tables(summary.recipe)))
    (tmp_path / "results.jsonl").write_text(lines([row for entry in summary.entries for row in entry.rows]))
    command = [sys.executable, "-m", "emphasis", "design", "--no-browser", "--run", str(tmp_path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process,
        browser(tmp_path / "profile", 1100) as page,
    ):
        page.get(re.search(r"http://localhost:\d+/", process.stdout.readline()).group())
        overlay = "Bokeh.documents[0].get_model_by_name('overlay')"
        deadline = time.monotonic() + 20
        while not page.execute_script(f"return window.Bokeh && Bokeh.documents.length && {overlay} ? 1 : 0"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        options = page.execute_script(f"return {overlay}.options")
        assert f"{OBEYED}: {SCRIPT}" in options
        for option in options:
            page.execute_script(f"{overlay}.value = arguments[0]", option)
        assert page.execute_script("return window.hacked") is None
        process.terminate()


def test_the_commands_say_hostile_labels_as_they_are(tmp_path, capsys):
    audit_page_of_a_table(tmp_path)
    shown = capsys.readouterr().out
    assert not ESCAPE.search(shown)
    assert "[/bold]" in shown
    out = tmp_path / "audit"
    written = pd.read_csv(out / "suspects.csv")
    assert set(written["given"]) == {HTML, SCRIPT, STYLE}


def test_an_error_says_hostile_names_as_they_are(tmp_path, capsys):
    tables = recipe_to_tables(recipe()) | {"name": OBEYED, "network": {"name": 3}}
    (tmp_path / "run.json").write_text(json.dumps(tables))
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert visible(OBEYED) in said
    assert not ESCAPE.search(said)


def test_a_file_name_that_is_no_text_is_written_out(tmp_path):
    base = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (base / name).mkdir(parents=True)
        for number in range(12):
            path = base / name / f"\udcff{number}.png"
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(str(path))
    out = tmp_path / "audit"
    assert main(["audit", str(base), *HOW, "--size", "8", "--iterations", "10", "--out", str(out)]) == 0
    assert r"\udcff" in (out / "audit.html").read_text(encoding="utf-8")
    assert r"\udcff" in (out / "suspects.csv").read_text(encoding="utf-8")


def test_a_label_with_an_end_of_line_of_unicode_keeps_its_line(tmp_path):
    rows = make_rows(recipe(), lambda condition, method, seed: 0.5)
    rows[0]["method"] = "a\u2028b\x85c"
    (tmp_path / "a.jsonl").write_text(lines(rows), encoding="utf-8")
    assert read_rows(tmp_path / "a.jsonl") == json.loads(json.dumps(rows))
