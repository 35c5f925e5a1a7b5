"""The main job end to end, on a tiny recipe: results, resuming, refusals, several processes, the page in a browser."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from emphasis.cli.main import main
from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.runs import store, train_job
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import probabilities
from finished_runs import rows_of

TINY = Path(__file__).parent / "tiny.toml"
RECIPE = str(TINY)
ONE_PROCESS = ["--no-progress", "--workers", "1", "--threads", "1", "--accelerator", "cpu"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder)]) == 0
    return folder


def test_the_folder_holds_results_figures_and_page(finished):
    names = ["cells", "curves.svg", "emphasis.svg", "report.html", "results.jsonl", "run.json", "table.csv"]
    assert sorted(path.name for path in finished.iterdir()) == names
    rows = rows_of(finished)
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
    assert {rows[number]["outcome"] for number in (0, 1, 4, 5)} == {"learned"}


def test_probabilities_agree_with_curves_and_histograms(finished):
    for row in rows_of(finished):
        found = probabilities(finished, row)
        p, noisy = found["p"], found["noisy"]
        assert p.shape == (1297,)
        assert p[noisy].mean() == pytest.approx(row["final_p_noisy"], abs=1e-5)
        assert p[~noisy].mean() == pytest.approx(row["final_p_clean"], abs=1e-5)
        assert row["p_histogram"]["clean"] == np.histogram(p[~noisy], 20, (0, 1))[0].tolist()
        assert row["p_histogram"]["noisy"] == np.histogram(p[noisy], 20, (0, 1))[0].tolist()


def test_a_finished_run_is_shown_again_and_another_is_refused(finished, tmp_path, capsys):
    before = (finished / "results.jsonl").read_bytes()
    (finished / "curves.svg").unlink()
    assert main(["run", RECIPE, "--out", str(finished)]) == 0
    out = capsys.readouterr().out
    assert "already holds all" in " ".join(out.split())
    assert "Vanishing DM" in out
    assert (finished / "results.jsonl").read_bytes() == before
    assert (finished / "curves.svg").exists()
    other = tmp_path / "other.toml"
    other.write_text(TINY.read_text().replace('name = "tiny"', 'name = "other"'))
    assert main(["run", str(other), "--out", str(finished)]) == 2
    error = capsys.readouterr().err
    assert "holds runs of 'tiny'" in error
    assert "--force" in error
    assert error.count("\n") == 1


def test_more_seeds_train_the_new_seed_alone(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    trained = []
    train = train_job.train_networks
    monkeypatch.setattr(
        train_job, "train_networks", lambda job, *rest, **more: trained.append(job) or train(job, *rest, **more)
    )
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--seeds", "3"]) == 0
    assert [job.seeds for job in trained] == [(2,)]
    assert [row for row in rows_of(folder) if row["seed"] < 2] == rows_of(finished)
    assert len(rows_of(folder)) == 9
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--only", "", "--methods", "DM"]) == 0
    assert len(trained) == 1
    assert rows_of(folder) == [row for row in rows_of(finished) if row["method"] == "DM"]


def test_a_checkpoint_cut_short_is_reported_and_the_run_starts_over(finished, tmp_path, capsys):
    folder = tmp_path / "run"
    (folder / "cells").mkdir(parents=True)
    shutil.copy(finished / "run.json", folder)
    (folder / "cells" / f"{rows_of(finished)[0]['job']}.pt").write_bytes(b"PK\x03\x04 cut short")
    assert main(["run", RECIPE, *ONE_PROCESS, "--out", str(folder)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "damaged or cut short" in out
    assert "starting from the beginning" in out
    assert rows_of(folder) == rows_of(finished)


def test_a_run_killed_after_its_last_step_ends_alike(finished, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    command = ["run", RECIPE, *ONE_PROCESS, "--out", str(folder), "--checkpoint-seconds", "0"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(train_job, "write_job", killed)
        assert main(command) == 130
    assert list(folder.glob("cells/*.pt"))
    assert main(command) == 0
    assert rows_of(folder) == rows_of(finished)


def test_failures_stand_in_table_and_page(finished, tmp_path, capsys, monkeypatch):
    """A collapsed and a diverged network are said to be so, in the terminal and on the page."""
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    (lines,) = (folder / "cells").glob("*.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    rows[2].update(outcome="collapsed", final_test_accuracy=0.1)
    for number, at in ((4, 123), (5, 124)):
        rows[number].update(outcome="diverged", final_test_accuracy=None, diverged_at=at, diverged_batch=[7, 8])
        for curve in rows[number]["curves"].values():
            del curve[-3:]
    lines.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    assert main(["run", RECIPE, "--out", str(folder)]) == 0
    out, page = capsys.readouterr().out, (folder / "report.html").read_text()
    for text in (out, page):
        assert "collapsed (1 of 2 seeds)" in text
        assert "diverged (2 of 2 seeds)" in text
    assert "NaN or infinite logits from iteration 123 on" in page
    assert not re.search(r"\bnan\b", re.sub(r"base64,[^\"]*", "", page))


def test_a_job_reads_its_own_results_alone(tmp_path, monkeypatch):
    """Reading those of all jobs before it, a sweep would cost time by the square of its jobs."""
    read = []
    read_rows = store.read_rows
    monkeypatch.setattr(store, "read_rows", lambda path: (read.append(path.name), read_rows(path))[1])
    settings = {"network.dropout": 0.1, "solver.iterations": 1, "seeds": 6}
    recipe = load_recipe(RECIPE).limited([], ["CCE"]).changed(settings)
    assert len(run(recipe, tmp_path / "run", RunContext(threads=1))) == 6
    assert len(read) == len(set(read)) == 6  # once each, in the end
    read.clear()
    assert len(run(recipe, tmp_path / "run", RunContext(threads=1))) == 6
    assert len(read) == 2 * 6
