"""The paper's figures from runs: what each shows is the run's, and what is missing is said with the command."""

import dataclasses
import shutil
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from emphasis.cli.main import main
from emphasis.datasets.digits import load_digits_split
from emphasis.experiments.recipes.load import load_recipe, recipe_names
from emphasis.experiments.recipes.recipe import Method
from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure
from emphasis.experiments.runs.context import RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import finished_rows, probabilities

ROOT = Path(__file__).parents[2]
DRAWN_ALIKE = f"matplotlib=={metadata.version('matplotlib')}\n" in (ROOT / "constraints.txt").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of two noise rates, with cross-entropy and DM of two modes."""
    folder = tmp_path_factory.mktemp("figures") / "run"
    tiny = load_recipe(str(Path(__file__).parent / "tiny.toml"))
    methods = tuple(
        Method(f"DM {lam}", group=f"Emphasis mode of {lam}", weighting={"family": "DM", "lam": lam, "beta": 4})
        for lam in (0, 1)
    )
    columns = tuple(
        dataclasses.replace(tiny.conditions[0], name=f"r = {rate}", noise={"kind": "symmetric", "rate": rate})
        for rate in (0.2, 0.4)
    )
    recipe = dataclasses.replace(tiny, methods=(tiny.methods[0], *methods), conditions=columns, name="mine")
    run(recipe.changed({"solver.iterations": 60, "evaluation.every": 20}), folder, RunContext(threads=1))
    return str(folder)


def test_every_figure_of_the_paper_is_there_and_its_recipe_too():
    assert list(FIGURES) == ["1a", "1b", "2a", "2b", "2c", *map(str, range(3, 12))]
    assert {name for figure in FIGURES.values() for name in figure.recipes} <= set(recipe_names())


def test_figure_1b_needs_no_run():
    figure, folder = draw_figure("1b")
    assert folder is None
    assert [line.get_label() for line in figure.axes[0].lines if not line.get_label().startswith("_")] == [
        "CCE()",
        "MAE()",
        "MSE()",
        "GCE(q=0.7)",
    ]
    assert [line.get_xdata()[0] for line in figure.axes[1].lines if len(line.get_xdata()) == 1] == pytest.approx(
        [0, 1 / 3, 1 / 2, 2 / 3]
    )


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        ("2a", [f"r = {rate}: {method}" for rate in (0.2, 0.4) for method in ("CCE", "DM 0", "DM 1")]),
        ("2b", ["r = 0.2", "r = 0.4"]),
        ("6", ["Emphasis mode of 0", "Emphasis mode of 1"]),
        (
            "10",
            [
                "r = 0.2: Test",
                "r = 0.2: Training, labels as given",
                "r = 0.4: Test",
                "r = 0.4: Training, labels as given",
            ],
        ),
    ],
)
def test_a_figure_has_the_panels_of_its_run(made, name, titles):
    figure, _ = draw_figure(name, made)
    assert [axis.get_title("left") for axis in figure.axes if axis.get_visible()] == titles


def test_figure_3_has_the_examples_with_the_least_p_and_their_labels(made, tmp_path):
    folder = Path(made)
    figure, _ = draw_figure("3", made)
    row = next(
        row for row in finished_rows(folder).values() if (row["condition"], row["method"]) == ("r = 0.4", "DM 0")
    )
    arrays = probabilities(folder, row)
    least = np.argsort(arrays["p"], kind="stable")[:24]
    true = load_digits_split(folder, lambda *_: None, test_size=500).train_labels[arrays["index"][least]]
    titles = [
        str(label) if label == right else f"{label} ← {right}"
        for label, right in zip(arrays["labels"][least], true, strict=True)
    ]
    assert [axis.get_title() for axis in figure.axes] == titles
    assert ["←" in title for title in titles] == arrays["noisy"][least].tolist()


def test_figure_3_needs_the_probabilities_and_says_so(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["figure", "3", "--run", "results/figure2-scaled"]) == 2
    assert "has only the results" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["1a", "4"])
def test_drawings_without_data_need_no_run(name, tmp_path):
    figure, folder = draw_figure(name)
    assert folder is None
    assert main(["figure", name, "--out", str(tmp_path / "drawing.svg")]) == 0
    if name == "4":
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert [text for text in texts if text.isdigit()] == ["100", "8", "2"]


def test_figure_2c_is_the_mode_of_the_best_dm(made):
    from emphasis.experiments.reports.report import read_summary

    figure, _ = draw_figure("2c", made)
    paper, ours = figure.axes[0].lines
    summary = read_summary(Path(made))
    for x, y in zip(ours.get_xdata(), ours.get_ydata(), strict=True):
        entries = [one for one in summary.of(f"r = {x / 100}") if one.cell.method.startswith("DM")]
        best = max(entries, key=lambda one: one.values["final_test_accuracy"].mean)
        assert y == best.cell.objective.weighting.mode
    np.testing.assert_allclose(paper.get_ydata(), [1 / 3, 1 / 2])


def test_the_stored_runs_draw_what_the_list_says(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["figure"]) == 0
    listed = capsys.readouterr().out
    assert "2a  Mean p of clean and of noisy examples, cross-entropy and DM (results/figure2-scaled)" in listed
    for name in ("2a", "2b", "5"):
        out = tmp_path / f"{name}.svg"
        assert main(["figure", name, "--out", str(out)]) == 0
        assert "drawn to" in capsys.readouterr().out
        assert out.read_text(encoding="utf-8").startswith("<?xml")
        if DRAWN_ALIKE:
            assert out.read_bytes() == (ROOT / "docs" / "images" / f"figure-{name}.svg").read_bytes()


@pytest.mark.skipif(not DRAWN_ALIKE, reason="the committed figures are drawn by the matplotlib of constraints.txt")
@pytest.mark.parametrize("name", ["figure10-scaled", "schedules", "table9-scaled"])
def test_the_report_of_a_committed_result_is_the_committed_one_byte_for_byte(name, tmp_path, monkeypatch, capsys):
    committed = ROOT / "results" / name
    shutil.copytree(committed, tmp_path / "results" / name)
    monkeypatch.chdir(tmp_path)
    assert main(["report", f"results/{name}"]) == 0
    made = {path.name: path.read_bytes() for path in (tmp_path / "results" / name).iterdir()}
    kept = {path.name: path.read_bytes() for path in committed.iterdir()}
    assert [name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name)] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["figure", "12"], "there is no figure '12'"),
        (["figure", "6"], "'emphasis run figure6' makes one, or with --scaled a smaller one"),
        (["figure", "2a", "--run", "nowhere"], "no results of 'nowhere'"),
        (["figure", "1b", "--out", "x.jpg"], "ends in .png, .svg, .pdf"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(monkeypatch, tmp_path, capsys, arguments, said):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())
