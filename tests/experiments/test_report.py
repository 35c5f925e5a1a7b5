"""Reports from synthetic rows: numbers, their agreement over the three forms, and what must be said."""

import csv
import html
import io
import json
import math
import re
import shutil

import numpy as np
import pytest
from rich.console import Console

from controls import share_of_the_way
from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe, recipe_to_tables
from emphasis.experiments.reports.recipe_figures import curve, draw, modes_by_rate
from emphasis.experiments.reports.report import print_report, read_summary, render, write_report
from emphasis.experiments.reports.run_page import page, run_command
from emphasis.experiments.reports.summary import findings, paired, percent, signed, summarize
from emphasis.experiments.reports.table import caption
from emphasis.experiments.runs.data import forget_loaded
from emphasis.experiments.runs.store import FolderError, lines, read_rows
from synthetic import make_rows, plain, recipe

FULL = "paper (full scale; this run is scaled down)"


@pytest.fixture(scope="module")
def summary():
    return summarize(recipe(), make_rows(recipe(), plain))


def _csv(summary):
    return list(csv.DictReader(io.StringIO(render(summary, "csv"))))


def _folder(tmp_path, recipe_, rows):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(recipe_to_tables(recipe_)))
    (folder / "results.jsonl").write_text(lines(rows))
    return folder


def test_differences_are_ours_minus_the_papers(summary):
    entry = summary.find("r = 0", "CCE")
    assert entry.values["final_test_accuracy"].mean == pytest.approx(0.81)
    assert entry.values["final_test_accuracy"].std == pytest.approx(0.02 / math.sqrt(2))
    assert summary.difference(entry, "final_test_accuracy") == pytest.approx(81.0 - 90.0)
    assert summary.difference(entry, "final_fit_true") == pytest.approx(81.0 - 99.0)
    assert math.isnan(summary.difference(summary.find("r = 0.4", "GCE"), "final_test_accuracy"))
    assert math.isnan(summary.difference(summary.find("r = 0", "Vanishing DM"), "final_test_accuracy"))


def test_the_caption_says_which_condition_has_how_many_examples():
    rows = make_rows(recipe(), plain)
    n = rows[0]["n_train"], rows[0]["n_test"]
    assert caption(summarize(recipe(), rows)).endswith(f"; {n[0]:,} training examples, {n[1]:,} test.")
    for row in rows:
        if row["condition"] == "r = 0.4":
            row["n_train"] = 77
    said = caption(summarize(recipe(), rows))
    assert f"{n[0]:,} training examples, {n[1]:,} test (r = 0); 77 training examples, {n[1]:,} test (r = 0.4)" in said


def test_text_csv_and_page_show_the_same_numbers(summary):
    text, document = (
        render(summary, "text"),
        html.unescape(render(summary, "html").split('<h2 id="how-the-settings')[0]),
    )
    for row in _csv(summary):
        if row["outcome"] == "not run":
            shown = f"{float(row['paper']):.1f}"
            assert shown in text
            assert shown in document
            continue
        ours = f"{float(row['ours_mean']):.1f} ± {float(row['ours_std']):.1f}"
        assert ours in document
        if row["metric"] == "final_test_accuracy" or row["paper"]:
            assert ours in text
        if row["paper"]:
            shown = f"{float(row['paper']):.1f} ({float(row['difference']):+.1f})"
            assert shown in text
            assert shown in document


def test_the_csv_has_a_line_for_every_condition_method_and_metric(summary):
    rows = _csv(summary)
    run = [row for row in rows if row["outcome"] != "not run"]
    assert len({(row["condition"], row["method"], row["metric"]) for row in run}) == len(run) == 2 * 4 * 4
    (quoted,) = [row for row in rows if row["outcome"] == "not run"]
    assert (quoted["method"], quoted["condition"], quoted["paper"], quoted["n"]) == (
        "Boot [hard]",
        "r = 0",
        "63.700",
        "0",
    )


def test_a_scaled_run_says_so_wherever_it_is_shown():
    small = recipe(scaled=True)
    scaled = summarize(small, make_rows(small, plain))
    text, document = render(scaled, "text"), render(scaled, "html")
    assert "A synthetic table, scaled" in text
    assert re.sub(r"\s+", " ", text).count("Final test accuracy (%), scaled") == 1
    for heading in re.findall(r"<h[12][^>]*>(.*?)</h[12]>", document):
        if not re.match(r"How|Files", heading):
            assert '<span class="badge">scaled</span>' in heading
    assert all("Scaled run." in caption for caption in re.findall(r"<figcaption>(.*?)</figcaption>", document))
    assert "(scaled)" in re.search(r"<title>(.*?)</title>", document)[1]
    for heading in re.findall(r"<small>ours<br>(.*?)</small>", document):
        assert heading == FULL
    header = render(scaled, "csv").splitlines()[0]
    assert FULL in header
    rows = _csv(scaled)
    assert {row["status"] for row in rows} == {"scaled"}
    assert {row["difference"] for row in rows} == {""}
    assert "(-9.0)" not in text + document
    assert findings(scaled)[0].startswith("Scaled run")


def test_null_is_no_number(tmp_path):
    gone = {("r = 0.4", "DM", 0), ("r = 0", "GCE", 0), ("r = 0", "GCE", 1)}
    broken = summarize(recipe(), make_rows(recipe(), plain, gone))
    one, none = broken.find("r = 0.4", "DM"), broken.find("r = 0", "GCE")
    assert (one.values["final_test_accuracy"].n, one.outcome) == (1, "diverged (1 of 2 seeds)")
    assert str(one.values["final_test_accuracy"]) == "68.0"
    assert str(none.values["final_test_accuracy"]) == "-"
    assert broken.best("r = 0.4").cell.method == "GCE"  # one with a seed that failed cannot be the best
    text, document = render(broken, "text"), render(broken, "html")
    assert "diverged 2/2" in text
    assert "n = 1" in text
    assert "diverged (2 of 2 seeds)" in document
    assert "from iteration 73 on, on the batch of training examples 40, 41, 42, 43, 44" in document
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", document).split("Configuration")[0] + text)
    values = {(row["condition"], row["method"], row["metric"]): row for row in _csv(broken)}
    row = values["r = 0", "GCE", "final_test_accuracy"]
    assert (row["ours_mean"], row["ours_std"], row["n"], row["difference"]) == ("", "", "0", "")
    curves = curve(one.rows, "test_accuracy")
    assert np.isnan(curves.values[0]).tolist() == [False, False, True]
    assert curves.iterations == [0, 50, 100]


def test_what_is_not_trained_yet_is_a_dash_and_counted():
    rows = [row for row in make_rows(recipe(), plain) if row["condition"] == "r = 0" and row["method"] != "DM"]
    partial = summarize(recipe(), rows)
    assert partial.missing == 10
    text = " ".join(render(partial, "text").split())
    assert "10 of 16 networks are not trained yet; '-' stands for them." in text
    assert "10 of 16 networks" in html.unescape(render(partial, "html"))
    assert partial.find("r = 0.4", "CCE").status == "-"
    empty = summarize(recipe(), [])
    assert draw(empty) == {}
    assert "16 of 16 networks" in html.unescape(page(empty, {}))


def test_the_finding_compares_dm_with_the_best_other_seed_by_seed(summary):
    first, second = findings(summary)
    assert first.startswith("r = 0: DM is best in final test accuracy, 87.0 ± 1.4 %, 6.0 ± 0.0 points above CCE; ")
    assert "1.0 ± 0.0 points above the best method without DM, GCE (DM ahead in 2 of 2 seeds)" in first
    assert second.startswith("r = 0.4: DM is best in final test accuracy, 67.0 ± 1.4 %")

    def vanishing_wins(condition, method, seed):
        return {"CCE": 0.9, "GCE": 0.7, "DM": 0.5, "Vanishing DM": 0.8 + 0.15 * seed}[method]

    first, _ = findings(summarize(recipe(), make_rows(recipe(), vanishing_wins)))
    assert "CCE is best in final test accuracy, 90.0 ± 0.0 %" in first
    assert "the best method with DM, Vanishing DM, is 2.5 ± 10.6 points below it" in first
    assert "no clear difference (DM ahead in 1 of 2 seeds)" in first
    assert "the DM of the paper reaches 50.0 ± 0.0 %, 40.0 ± 0.0 points below CCE" in first


def test_gains_are_paired_by_seed():
    def uneven(condition, method, seed):
        return {"CCE": (0.6, 0.7), "GCE": (0.8, 0.9)}.get(method, (0.9, 0.5))[seed]

    uneven_summary = summarize(recipe(), make_rows(recipe(), uneven))
    even = uneven_summary.gain(uneven_summary.find("r = 0", "GCE"))
    assert (even.mean, even.std, even.n, even.ahead) == pytest.approx((0.2, 0.0, 2, 2))
    mixed = uneven_summary.gain(uneven_summary.find("r = 0", "DM"))
    assert (mixed.mean, mixed.n, mixed.ahead) == pytest.approx((0.05, 2, 1))
    assert uneven_summary.gain(uneven_summary.find("r = 0", "CCE")) is None
    missing = paired(
        uneven_summary.find("r = 0", "GCE"), summarize(recipe(), []).find("r = 0", "DM"), "final_test_accuracy"
    )
    assert (missing.n, str(missing)) == (0, "")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_no_number_is_cut_in_a_narrow_terminal(width, summary):
    console = Console(width=width, no_color=True)
    with console.capture() as captured:
        print_report(summary, console)
    text = captured.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for row in _csv(summary):
        if row["metric"] == "final_test_accuracy" and row["ours_mean"]:
            assert f"{float(row['ours_mean']):.1f} ± {float(row['ours_std']):.1f}" in text
    assert "Boot [hard]" in text


def test_committed_results_are_enough_for_every_figure_and_table(tmp_path, capsys):
    rows = make_rows(recipe(), plain)
    folder = _folder(tmp_path, recipe(), rows)
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "r = 0.4: DM is best" in " ".join(out.split())
    made = sorted(path.name for path in folder.iterdir())
    assert made == [
        "curves.svg",
        "emphasis-1.svg",
        "emphasis-2.svg",
        "modes.svg",
        "probabilities-1.svg",
        "probabilities-2.svg",
        "report.html",
        "results.jsonl",
        "run.json",
        "table.csv",
    ]
    assert (folder / "report.html").read_text().count('<div class="chart">') == 6
    assert read_rows(folder / "results.jsonl") == rows
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_report(folder, read_summary(folder))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_page_of_a_run_leads_to_its_files_and_to_the_labels_that_look_wrong(tmp_path):
    """As the main job's does: the record of the best DM's first network, ranked."""
    from emphasis.experiments.runs.context import RunContext
    from emphasis.experiments.runs.runner import run

    folder = tmp_path / "run"
    one = load_recipe("digits").limited([], ["CCE", "DM 0.5/8 integral"])
    run(one.changed({"seeds": 1, "solver.iterations": 200}), folder, RunContext(threads=1))
    names = write_report(folder, read_summary(folder))
    assert names[-1] == "suspects/audit.html"
    page = (folder / "report.html").read_text(encoding="utf-8")
    links = {link for link in re.findall(r'href="([^"#]+)', page) if not link.startswith("data:")}
    assert links == {"table.csv", "curves.svg", "emphasis.svg", "results.jsonl", "suspects/audit.html"}
    assert all((folder / link).is_file() for link in links)
    assert 'href="suspects/audit.html#training"' in page
    assert 'id="training"' in (folder / "suspects" / "audit.html").read_text(encoding="utf-8")
    numbers = json.loads((folder / "suspects" / "audit.json").read_text(encoding="utf-8"))
    assert share_of_the_way(numbers["auroc"], 0.5) > 0.5
    shutil.rmtree(folder / "cells")  # results kept apart from their run have no record
    assert "suspects/audit.html" not in write_report(folder, read_summary(folder))


def test_a_report_goes_to_standard_output_or_a_file_and_then_nothing_else_is_written(tmp_path, capsys):
    folder = _folder(tmp_path, recipe(), make_rows(recipe(), plain))
    for kind, start in (("csv", "condition,method"), ("html", "<!doctype html>"), ("text", "A synthetic table")):
        assert main(["report", str(folder), "--format", kind]) == 0
        assert capsys.readouterr().out.startswith(start)
        assert main(["report", str(folder), "--format", kind, "--out", str(tmp_path / "out")]) == 0
        assert (tmp_path / "out").read_text().startswith(start)
        capsys.readouterr()
    assert sorted(path.name for path in folder.iterdir()) == ["results.jsonl", "run.json"]


def test_a_run_is_found_by_name_in_runs_then_in_results(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["report", "synthetic"]) == 2
    assert "looked for run.json in synthetic, runs/synthetic, results/synthetic" in capsys.readouterr().err
    for place, value in (("results", 0.5), ("runs", 0.25)):
        (tmp_path / place).mkdir()
        folder = _folder(tmp_path, recipe(), make_rows(recipe(), lambda *_, value=value: value))
        folder.rename(tmp_path / place / "synthetic")
        assert main(["report", "synthetic", "--format", "csv"]) == 0
        assert f"{100 * value:.3f}" in capsys.readouterr().out


def test_damaged_results_are_named(tmp_path):
    folder = _folder(tmp_path, recipe(), make_rows(recipe(), plain))
    (folder / "results.jsonl").write_text(lines(make_rows(recipe(), plain)) + '{"key": ')
    with pytest.raises(FolderError, match=r"results\.jsonl, line 17: not valid JSON"):
        read_summary(folder)


def test_the_command_on_the_page_makes_the_same_cells():
    digits = load_recipe("digits")
    assert run_command(digits) == "emphasis run digits"
    changed = digits.limited(methods=["CCE", "MAE"]).changed(
        {"seeds": 2, "solver.iterations": 300, "noise.rate": 0.6, "solver.schedule.policy": "constant"}
    )
    assert run_command(changed) == (
        "emphasis run digits --methods CCE MAE --seeds 2 --set noise.rate=0.6 --set solver.iterations=300 "
        "--set solver.schedule.policy=constant"
    )
    assert run_command(load_recipe("table9").scaled_down()) == "emphasis run table9 --scaled"
    assert run_command(recipe()) == "emphasis run synthetic.toml"


def test_numbers_as_text():
    assert percent(0.5, math.nan) == "50.0"
    assert percent(math.nan, math.nan) == "-"
    assert signed(-0.01) == "+0.0"
    assert signed(-1.25) == "-1.2"


def test_a_report_leads_to_suspect_labels_if_it_is_told_where_the_data_is(tmp_path, monkeypatch, capsys):
    data, folder = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal(3.0 * kind)},{rng.normal(-3.0 * kind)},{kind}" for kind in (0, 1) for _ in range(40)]
    (data / "points.csv").write_text("a,b,label\n" + "\n".join(rows) + "\n")
    recipe = tmp_path / "points.toml"
    recipe.write_text(
        'extends = "digits"\nname = "points"\nfigures = []\nseeds = 1\n'
        '[dataset]\nname = "table"\nfile = "points.csv"\nlabel = "label"\n'
        "[solver]\niterations = 40\nbatch_size = 16\n[evaluation]\nevery = 10\ntrace = true\n"
    )
    how = ["--methods", "CCE", "DM 0.5/8 integral", "--no-progress", "--workers", "1", "--out", str(folder)]
    assert main(["run", str(recipe), "--data", str(data), *how]) == 0
    link = 'href="suspects/audit.html'
    assert link in (folder / "report.html").read_text(encoding="utf-8")
    monkeypatch.setenv("EMPHASIS_DATA", str(tmp_path / "elsewhere"))
    capsys.readouterr()
    for more, leads in (([], False), (["--data", str(data)], True)):
        forget_loaded()
        assert main(["report", str(folder), *more]) == 0
        assert ("suspects/audit.html" in " ".join(capsys.readouterr().out.split())) == leads
        assert (link in (folder / "report.html").read_text(encoding="utf-8")) == leads


def test_each_emphasis_mode_of_table9_is_that_of_one_method():
    """Vanishing DM and the released arithmetic would give their mode further chances to be the best."""
    found = load_recipe("table9")
    final = {"DM lam=1": 0.7, "DM lam=0.5": 0.6, "DM lam=0.5, released": 0.9, "Vanishing DM lam=0.5": 0.8}
    rows = make_rows(found, lambda condition, method, seed: final.get(method, 0.4))
    rates, ours, _ = modes_by_rate(summarize(found, rows))
    assert rates == [0.0, 0.2, 0.4, 0.6, 0.8]
    assert ours == [0.5] * 5
