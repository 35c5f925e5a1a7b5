"""The main job end to end, on a tiny recipe: results, resuming, refusals, and the page in a browser."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from emphasis.cli import main

RECIPE = str(Path(__file__).parent / "tiny.toml")
COMMAND = [sys.executable, "-m", "emphasis", "run", RECIPE, "--no-progress"]


def _results(folder):
    """The lines of results.jsonl without what may differ between two runs: timings, and the checkout's state."""
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    for row in rows:
        del row["seconds"], row["revision"]
    return rows


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", RECIPE, "--no-progress", "--out", str(folder)]) == 0
    return folder


def test_the_folder_holds_results_figures_and_page(finished):
    assert sorted(path.name for path in finished.iterdir()) == [
        "curves.png", "emphasis.png", "probabilities.npz", "report.html", "results.jsonl", "run.json",
    ]  # fmt: skip
    rows = _results(finished)
    assert [(row["method"], row["seed"]) for row in rows] == [
        (method, seed) for method in ("CCE", "DM", "Vanishing DM") for seed in (0, 1)
    ]
    for row in rows:
        curve = row["curves"]["test_accuracy"]
        assert row["curves"]["iteration"] == list(range(0, 401, 50))
        assert row["best_test_accuracy"] == pytest.approx(max(curve))
        assert row["final_test_accuracy"] == pytest.approx(curve[-1])
        assert row["realised_noise_rate"] == pytest.approx(0.4, abs=0.01)
        assert row["outcome"] in ("learned", "collapsed", "never learned")
    assert rows[0]["weighting"] == {"family": "CCE"}
    assert rows[2]["max_margin"] is None
    assert min(rows[number]["final_test_accuracy"] for number in (0, 1, 4, 5)) > 0.6


def test_probabilities_agree_with_the_curves(finished):
    rows = _results(finished)
    with np.load(finished / "probabilities.npz") as arrays:
        p, noisy = arrays["p"], arrays["noisy"]
    assert p.shape == (6, 1297)
    for number, row in enumerate(rows):
        mask = noisy[number % 2]
        assert p[number][mask].mean() == pytest.approx(row["final_p_noisy"], abs=1e-5)
        assert p[number][~mask].mean() == pytest.approx(row["final_p_clean"], abs=1e-5)


def test_a_finished_run_is_shown_again_and_another_is_refused(finished, capsys):
    before = (finished / "results.jsonl").stat().st_mtime_ns
    (finished / "curves.png").unlink()
    assert main(["run", RECIPE, "--out", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "holds this run already" in out
    assert "Vanishing DM" in out
    assert (finished / "results.jsonl").stat().st_mtime_ns == before
    assert (finished / "curves.png").exists()
    assert main(["run", RECIPE, "--out", str(finished), "--seeds", "3"]) == 2
    error = capsys.readouterr().err
    assert "evaluation.seeds is 2 there and 3 here" in error
    assert "--force" in error
    assert error.count("\n") == 1


def test_a_killed_run_goes_on_and_ends_alike(finished, tmp_path):
    folder = tmp_path / "run"
    command = [*COMMAND, "--out", str(folder), "--checkpoint-seconds", "0.01"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint.pt").exists():
        assert process.poll() is None, process.stderr.read().decode()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    time.sleep(random.uniform(0.0, 0.4))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (folder / "results.jsonl").exists(), "killed too late to test anything"
    resumed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "going on from iteration" in resumed.stdout
    assert _results(folder) == _results(finished)
    assert not list(folder.glob("*partial*"))


def test_a_checkpoint_cut_short_is_reported_and_the_run_starts_over(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.json", folder)
    (folder / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    assert main(["run", RECIPE, "--no-progress", "--out", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "damaged or cut short" in out
    assert "starting from the beginning" in out
    assert _results(folder) == _results(finished)


def test_failures_stand_in_table_and_page(finished, tmp_path, capsys, monkeypatch):
    """A collapsed and a diverged network are said to be so, in the terminal and on the page."""
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    rows[2].update(outcome="collapsed", final_test_accuracy=0.1)
    rows[4].update(outcome="diverged", final_test_accuracy=None, diverged_at=123)
    rows[4]["curves"]["test_accuracy"][-3:] = [None] * 3
    rows[5].update(outcome="diverged", final_test_accuracy=None, diverged_at=124)
    rows[5]["curves"]["test_accuracy"][-3:] = [None] * 3
    (folder / "results.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    (folder / "report.html").unlink()
    assert main(["run", RECIPE, "--out", str(folder)]) == 0
    out, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (out, page):
        assert "collapsed (1 of 2 seeds)" in text
        assert "diverged (2 of 2 seeds)" in text
    assert "NaN or infinite logits from iteration 123 on" in page
    assert "nan" not in page.split("base64")[0]


def test_no_seed_has_a_spread():
    from emphasis.experiments.summary import percent

    assert percent(0.5, math.nan) == "50.0"
    assert percent(math.nan, math.nan) == "-"


CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium or chromedriver is not installed")
@pytest.mark.parametrize("width", [390, 1100])
def test_the_page_shows_its_figures_in_a_browser(finished, tmp_path, width):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", f"--user-data-dir={tmp_path}",
    ):  # fmt: skip
        options.add_argument(flag)
    service = Service(executable_path=CHROMEDRIVER, log_output=os.devnull)
    browser = webdriver.Chrome(options=options, service=service)
    try:
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get((finished / "report.html").as_uri())
        sizes = browser.execute_script("return [...document.images].map(i => i.naturalWidth)")
        fetched = browser.execute_script(
            "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
        )
        overflow = browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")
    finally:
        browser.quit()
    assert len(sizes) == 2
    assert min(sizes) > 500
    assert fetched == []
    assert overflow <= 0


def test_a_method_is_clearly_better_only_if_it_is_so_in_every_seed():
    from emphasis.experiments.summary import finding, summarise

    def row(method, seed, final):
        keys = ("best_test_accuracy", "final_test_accuracy", "final_fit_noisy", "final_fit_true")
        about = {"method": method, "group": "", "seed": seed, "outcome": "learned", "diverged_at": None}
        return {**about, **dict.fromkeys(keys, final)}

    finals = {"CCE": (0.6, 0.6), "steady": (0.8, 0.8), "uneven": (0.95, 0.62)}
    rows = [row(method, seed, value) for method, values in finals.items() for seed, value in enumerate(values)]
    summaries = summarise(rows, "CCE")
    assert [summary.clearly_better for summary in summaries] == [False, True, False]
    assert summaries[1].gain == pytest.approx((0.2, 0.0))
    assert "1 of 2 methods end 10 points or more above CCE" in finding(summaries, "CCE")
    assert "steady highest (80.0 ± 0.0 %)" in finding(summaries, "CCE")
