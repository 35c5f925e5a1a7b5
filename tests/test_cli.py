import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import emphasis
from commands import mistake_of
from controls import right_beyond_chance
from emphasis.cli.main import main
from emphasis.errors import EmphasisError
from emphasis.executors import ExecutorOptions
from emphasis.tabular import load_model
from emphasis.texts import named_value


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *(
            [name, "--help"]
            for name in (
                "run",
                "report",
                "recipes",
                "search",
                "show",
                "fit",
                "predict",
                "export",
                "audit",
                "labels",
                "review",
                "tune",
                "design",
                "figure",
            )
        ),
    ],
)
def test_help_reads_well(arguments, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert max(map(len, out.splitlines())) <= 100


def test_no_command_shows_the_help(capsys):
    assert main([]) == 0
    assert "emphasis run digits" in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"emphasis {emphasis.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "GEC"], "did you mean GCE"),
        (["show", "DM", "--lamb", "3"], "did you mean --lam?"),
        (["show", "CCE", "--q", "3"], "it takes no parameters"),
        (["show", "GCE", "--q", "3"], "q must be in [0, 1]"),
        (["show", "GCE", "--q", "x"], "invalid float value"),
        (["show", "DM", "--beta", "-1", "--vanishing"], "use beta > 0"),
        (["show", "label-smoothing", "--epsilon", "2"], "--epsilon 2.0 is not allowed"),
        (["show", "label-smoothing", "--epsilom", "0.1"], "did you mean --epsilon?"),
        (["show", "co-teaching"], "co-teaching has no derivative view"),
        (["show", "DM", "--out", "edf.jpg"], ".png, .svg, .pdf"),
        (["show", "DM", "--out", "/nonexistent/edf.png"], "No such file"),
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "digits", "--noise-rate", "2"], "use a number in [0, 1]"),
        (["run", "table5", "--noise-rate", "0.2"], "its conditions differ in noise"),
        (
            ["run", "table5", "--only", "10:1", "--noise-rate", "0.2"],
            "rate=0.2 is not allowed; it needs a kind of symmetric",
        ),
        (["run", "digits", "--seeds", "0"], "digits: --seeds 0 is not allowed"),
        (["run", "digits", "--threads", "0"], "--threads 0 is not allowed"),
        (["run", "digits", "--workers", "0"], "--workers 0 is not allowed"),
        (["run", "digits", "--address", "auto"], "--address is for --executor ray"),
        (["run", "digits", "--executor", "slurm", "--time", "soon"], "--time soon is not allowed"),
        (["run", "digits", "--accelerator", "tpu"], "--accelerator 'tpu' is not allowed; use one of auto, cpu"),
        (["run", "digits", "--precision", "8"], "--precision '8' is not allowed; use one of 32-true"),
        (["run", "digits", "--set", "solver"], "write PART.KEY=VALUE"),
        (["run", "digits", "--set", "solvr.batch_size=2"], "unknown setting 'solvr.batch_size'"),
        (["run", "digits", "--set", "solver.batch=2"], "did you mean 'batch_size'"),
        (["run", "digits", "--set", "solver.batch_size=many"], "batch_size must be a whole number, got 'many'"),
        (["run", "digits", "--only", "r = 0.4"], "digits has no condition 'r = 0.4'"),
        (["run", "digits", "--methods", "GCE q=.7"], "did you mean 'GCE q=0.7'"),
        (["run", "digits", "--scaled"], "digits has no scaled form"),
        (["run", "table3"], "looked for clothing1m/noisy_train_key_list.txt, noisy_train_key_list.txt: put one there"),
        (["run", "table4"], "MARS, all of its lists of tracklets, is not in"),
        (["report", "digitz"], "no results of 'digitz'"),
        (["report", "digits", "--out", "a.csv"], "--out needs --format"),
        (["report", "digits", "--format", "pdf"], "invalid choice: 'pdf'"),
        (["run", "digits", "--checkpoint-seconds", "nan"], "--checkpoint-seconds nan"),
        (["run", "digits", "--xyzzy"], "unknown option --xyzzy; see emphasis run --help"),
        (["run", "digits", "--sed", "3"], "unknown option --sed (did you mean --seeds?)"),
        (["run", "digits", "table5"], "unknown argument table5"),
        (["quux"], "unknown command 'quux'; known: fit, predict"),
        (["rnu"], "unknown command 'rnu' (did you mean 'run'?)"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert message in mistake_of(capsys, *arguments)


def test_data_that_is_not_there_is_one_line(tmp_path, capsys):
    message = mistake_of(capsys, "run", "table9", "--data", str(tmp_path), "--out", str(tmp_path / "run"))
    assert str(tmp_path) in message


def test_recipes_lists_every_recipe_with_its_command(capsys):
    from emphasis.experiments.recipes.load import load_recipe, recipe_names

    assert main(["recipes"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    for name in recipe_names():
        assert f"emphasis run {name}" in words
        if load_recipe(name).scaled is not None:
            assert f"emphasis run {name} --scaled" in words
    assert "data-unavailable" in words


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=3", 3),
        ("a.b=0.5", 0.5),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ('a.b="3"', "3"),
        ("a.b=adam", "adam"),
        ("a.b={ x = 1 }", {"x": 1}),
        ("a.b=x=y", "x=y"),
        ("a.b=", ""),
    ],
)
def test_a_setting_is_toml_or_else_text(text, value):
    assert named_value(text, "PART.KEY=VALUE", "a.b=1") == ("a.b", value)


def test_options_of_run_reach_the_recipe_and_the_runner(tmp_path, monkeypatch):
    from emphasis.experiments.runs import runner

    seen = {}

    def see(recipe, folder, context, reporter, **rest):
        seen.update(rest, recipe=recipe, folder=folder, context=context)
        raise EmphasisError("seen")

    monkeypatch.setattr(runner, "run", see)
    monkeypatch.chdir(tmp_path)
    options = (
        "--scaled --methods CCE GCE --seeds 1 --iterations 9 --noise-rate 0.3 --set network.name=resnet20 "
        "--precision bf16-mixed --accelerator cpu --compile --workers 3 --threads 2 --data there"
    )
    assert main(["run", "table9", *options.split(), "--set", "solver.schedule.at=[3, 6]"]) == 2
    cells = list(seen["recipe"].cells())
    assert [cell.method for cell in cells] == ["CCE", "GCE"]
    for cell in cells:
        assert (cell.network.name, cell.solver.iterations, cell.solver.schedule.at) == ("resnet20", 9, (3, 6))
        assert (cell.noise.rate, cell.precision) == (0.3, "bf16-mixed")
    assert str(seen["folder"]) == "runs/table9-scaled"
    context = seen["context"]
    assert (context.execution.accelerator, context.execution.compile) == ("cpu", True)
    assert (context.workers, context.threads, str(context.root)) == (3, 2, "there")
    on_slurm = ["--executor", "slurm", "--partition", "short", "--time", "1:29:30", "--workers", "7"]
    assert main(["run", "table9", *on_slurm]) == 2
    assert seen["context"].executor == ExecutorOptions("slurm", partition="short", minutes=90, jobs=7)


def test_nothing_heavy_is_imported_for_the_help():
    program = "import sys, emphasis.cli.main as m; m.load_commands(); print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "sklearn", "scipy", "matplotlib", "rich", "plotext", "jinja2", "http", "pandas"}


def test_python_m_emphasis():
    done = subprocess.run([sys.executable, "-m", "emphasis", "show", "DM"], capture_output=True, text=True, check=True)
    assert "emphasis mode" in done.stdout


def test_an_unusable_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["run", "digits", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_search_tries_settings_and_tests_the_best(tmp_path, capsys):
    pytest.importorskip("optuna")
    recipe = str(Path(__file__).parent / "experiments" / "tiny.toml")
    folder = tmp_path / "run"
    command = [
        "search",
        recipe,
        "--method",
        "CCE",
        "--vary",
        "solver.learning_rate=0.01:0.2:log",
        "--trials",
        "3",
        "--batch",
        "3",
        "--iterations",
        "60",
        "--seeds",
        "1",
        "--out",
        str(folder),
        "--no-progress",
    ]
    assert main(command) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "3 of 3 trials; best so far" in out
    assert "trained on all training data: test accuracy" in out
    assert len(json.loads((folder / "search.json").read_text())["trials"]) == 3
    assert main([*command, "--vary", "beta=3"]) == 2
    assert "use PART.KEY=A,B,C" in capsys.readouterr().err


@pytest.fixture
def customers(tmp_path, monkeypatch):
    """A table of customers in the working folder, a tenth of its labels wrong."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    age, plan = rng.integers(18, 80, 300), rng.choice(["basic", "full"], 300)
    churned = np.where((age + 20 * (plan == "full") > 55) != (rng.random(300) < 0.1), "yes", "no")
    table = pd.DataFrame({"id": [f"c{i}" for i in range(300)], "age": age, "plan": plan, "churned": churned})
    table.to_csv("customers.csv", index=False)
    table.to_parquet("customers.parquet")
    return table


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_is_fitted_and_predicted(suffix, customers, tmp_path, capsys):
    command = ["fit", f"customers.{suffix}", "--label", "churned", "--drop", "id", "--set", "n_estimators=20"]
    assert main([*command, "--folds", "3", "--no-progress"]) == 0
    out = capsys.readouterr().out
    assert "cross-entropy" in out
    assert f"Written to runs/customers: report.html, predictions.{suffix}, metrics.json, model" in " ".join(out.split())
    assert "Predict others with: emphasis predict runs/customers NEW" in out
    assert main(["predict", "runs/customers", f"customers.{suffix}"]) == 0
    out = capsys.readouterr().out
    assert "(n = 300)" in out
    assert f"300 rows predicted: customers-predicted.{suffix}" in out
    read = pd.read_parquet if suffix == "parquet" else pd.read_csv
    lines = read(f"customers-predicted.{suffix}")
    np.testing.assert_array_equal(lines["predicted"], load_model(Path("runs/customers")).predict(customers))
    assert right_beyond_chance(lines["predicted"], customers["churned"])
    np.testing.assert_allclose(lines["p_no"] + lines["p_yes"], 1.0, atol=1e-6)

    customers.drop(columns=["churned", "id"]).replace("full", "gold").to_csv("new.csv", index=False)
    assert main(["predict", "runs/customers", "new.csv", "--out", "said.parquet"]) == 0
    out = capsys.readouterr().out
    assert f"note: the column 'plan' holds values in {(customers['plan'] == 'full').sum()} rows" in out
    assert "accuracy" not in out
    assert len(pd.read_parquet("said.parquet")) == 300


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.csv", "--label", "y"], "'none.csv' does not exist"),
        (["fit", "customers.csv", "--label", "churn"], "no column 'churn' (did you mean 'churned'"),
        (["fit", "customers.csv", "--label", "id"], "column 'id' has 300 distinct values"),
        (["fit", "customers.csv", "--label", "churned", "--model", "forest"], "unknown model 'forest'"),
        (["fit", "customers.csv", "--label", "churned", "--weighting", "DMM lam=1"], "unknown family 'DMM'"),
        (["fit", "customers.csv", "--label", "churned", "--weighting", "GCE k=1"], "GCE has no option --k"),
        (["fit", "customers.csv", "--label", "churned", "--set", "depth"], "--set 'depth' is not allowed"),
        (["fit", "customers.csv", "--label", "churned", "--drop", "id", "--set", "max_depth='x'"], "max_depth"),
        (
            [
                "fit",
                "customers.csv",
                "--label",
                "churned",
                "--drop",
                "id",
                "--model",
                "lightgbm",
                "--set",
                "num_leaves=1",
            ],
            "num_leaves",
        ),
        (["predict", "runs/none", "customers.csv"], "holds no model"),
        (["predict", "runs/none", "customers.csv", "--out", "x.txt"], "ends in .csv or .parquet"),
        (["predict", "runs/none", "customers.csv", "--out", "customers.csv"], "is the table itself"),
    ],
)
def test_mistakes_with_tables_are_one_line(arguments, message, customers, capsys):
    said = mistake_of(capsys, *arguments, *(["--no-progress"] if arguments[0] == "fit" else []))
    assert message in said


def test_a_column_that_new_rows_lack_is_named(customers, capsys):
    options = ["--drop", "id", "--no-progress", "--no-compare", "--folds", "2", "--set", "n_estimators=2"]
    assert main(["fit", "customers.csv", "--label", "churned", *options]) == 0
    capsys.readouterr()
    customers[["plan"]].to_csv("new.csv", index=False)
    message = mistake_of(capsys, "predict", "runs/customers", "new.csv")
    assert "the table lacks the column 'age'" in message
    assert "add it, or fit again without" in message


def test_a_fit_that_is_interrupted_says_how_to_go_on(customers, monkeypatch, capsys):
    from emphasis.tabular import fit

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "save_model", interrupted)
    options = ["--drop", "id", "--no-progress", "--no-compare", "--folds", "2", "--set", "n_estimators=2"]
    assert main(["fit", "customers.csv", "--label", "churned", *options]) == 130
    assert "the same command resumes" in capsys.readouterr().err


def test_torchrun_is_for_run_alone(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["search", "digits", "--method", "CCE", "--set", "solver.momentum=0.9"]) == 2
    assert capsys.readouterr().err == "emphasis: torchrun is for emphasis run; start emphasis search without it\n"


GREET = """
from emphasis.cli.options import Command

COMMANDS = [
    Command(
        name="greet",
        summary="greet somebody",
        description="Greet somebody by name.",
        examples="examples:\\n  emphasis greet Ada",
        add_options=lambda parser: parser.add_argument("person", help="whom to greet"),
        handler=lambda options: print(f"Hello {options.person}!"),
    )
]
"""


def test_a_new_command_is_one_file_and_one_line(tmp_path):
    package = tmp_path / "emphasis"
    shutil.copytree(Path(emphasis.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "cli" / "greet.py").write_text(GREET)
    table = package / "cli" / "main.py"
    table.write_text(table.read_text().replace("MODULES = (\n", 'MODULES = (\n    "greet",\n'))

    def run(*arguments):
        command = [sys.executable, "-m", "emphasis", *arguments]
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert run("greet", "Ada").stdout == "Hello Ada!\n"
    assert "greet somebody" in run("--help").stdout
    assert "whom to greet" in run("greet", "--help").stdout
    assert "did you mean 'greet'?" in run("gret").stderr
    assert run("greet", "Ada", "--loud").stderr == "emphasis: unknown option --loud; see emphasis greet --help\n"
