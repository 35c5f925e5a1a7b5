"""What all commands share: results as JSON, how much is printed, settings from a file, and completion."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from emphasis.cli.main import load_commands, main
from emphasis.cli.output import json_text

ROOT = Path(__file__).parents[1]
TABLE5 = str(ROOT / "results" / "table5")
TINY = str(Path(__file__).parent / "experiments" / "tiny.toml")


def results(arguments, capsys):
    """The JSON object that a command prints, with the keys that its definition documents, and its messages."""
    assert main([*arguments, "--json"]) == 0
    printed = capsys.readouterr()
    result = json.loads(printed.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert result.pop("command") == arguments[0]
    assert set(result) <= set(load_commands()[arguments[0]].json_keys)
    return result, printed.err


@pytest.fixture
def customers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    age = rng.integers(18, 80, 120)
    table = pd.DataFrame({"age": age, "empty": "", "churned": np.where(age + rng.normal(0, 5, 120) > 50, "yes", "no")})
    table.to_csv("customers.csv", index=False)


def test_results_as_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    dm, cce = results(["show", "DM", "--vs", "CCE"], capsys)[0]["weightings"]
    assert dm["modes"] == [pytest.approx(1 / 3)]
    assert (cce["integral"], cce["vanishes"], dm["vanishes"]) == (1.0, True, False)
    names = [recipe["name"] for recipe in results(["recipes"], capsys)[0]["recipes"]]
    assert {"digits", "table5"} <= set(names)
    assert [figure["name"] for figure in results(["figure"], capsys)[0]["figures"]][:2] == ["1a", "1b"]
    assert results(["figure", "1b"], capsys)[0] == {"file": "figure-1b.svg", "run": None}
    report, _ = results(["report", TABLE5, "--format", "text"], capsys)
    assert report["missing"] == 0
    first = report["results"][0]
    assert (first["method"], first["n"], first["metrics"]["final_test_accuracy"]["n"]) == ("CCE", 5, 5)
    assert 0.5 < first["metrics"]["final_test_accuracy"]["mean"] < 1


def test_results_of_training_as_json(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    quick = ["--iterations", "20", "--accelerator", "cpu"]
    run = ["run", TINY, "--seeds", "1", "--methods", "CCE", *quick]
    result, messages = results(run, capsys)
    assert [entry["method"] for entry in result["results"]] == ["CCE"]
    assert result["results"][0]["metrics"]["final_test_accuracy"]["std"] is None  # of one seed
    assert result["seconds"] >= 0
    assert "report.html" in result["files"]
    assert "preparing" not in messages  # bars need a terminal
    result, messages = results(run, capsys)
    assert "already holds all 1 networks" in messages
    assert "already holds" not in results([*run, "--quiet"], capsys)[1]
    result, _ = results(["audit", "digits", "--noise-rate", "0.4", *quick], capsys)
    assert 0 < result["recall"] <= 1
    assert len(result["most_suspicious"]) == 100
    assert set(result["most_suspicious"][0]) == {"row", "source", "given", "suggested", "score"}


def test_results_of_a_table_as_json(customers, capsys):
    pytest.importorskip("xgboost")
    fit = ["fit", "customers.csv", "--label", "churned", "--folds", "2", "--set", "n_estimators=5"]
    result, messages = results(fit, capsys)
    assert result["rows"] == 120
    assert result["classes"] == ["no", "yes"]
    assert 0.5 < next(iter(result["scores"]["methods"].values()))["accuracy"]["value"] <= 1
    assert "note: " in messages
    assert any("empty" in note for note in result["notes"])
    assert main([*fit, "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "note: " not in printed.out + printed.err
    assert "Accuracy" in printed.out
    result, _ = results(["predict", "runs/customers", "customers.csv"], capsys)
    assert result["rows"] == result["labeled"] == 120
    assert len(pd.read_csv(result["file"])) == 120
    assert main(["predict", "runs/customers", "customers.csv", "--out", "-", "--json"]) == 2
    assert "both ask for the standard output" in capsys.readouterr().err


def test_json_has_no_nan_and_takes_the_types_of_numpy():
    value = {"a": np.float32("nan"), "b": [np.inf, 1.5], "c": np.arange(2), "d": Path("x"), 3: "\udcff"}
    assert json.loads(json_text(value)) == {"a": None, "b": [None, 1.5], "c": [0, 1], "d": "x", "3": "\udcff"}


def test_verbose_names_the_source_of_each_setting(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("emphasis.toml").write_text("theme = 'dark'\n[show]\nvs = []\n[figure]\nout = 'drawn.svg'\n")
    assert main(["figure", "1b", "--verbose"]) == 0
    messages = capsys.readouterr().err
    assert f"theme = dark ({tmp_path / 'emphasis.toml'})" in messages
    assert f"out = {tmp_path / 'drawn.svg'} ({tmp_path / 'emphasis.toml'})" in messages
    assert "emphasis figure took " in messages
    assert Path("drawn.svg").exists()


@pytest.mark.parametrize("name", ["emphasis.toml", "pyproject.toml"])
def test_settings_from_a_file(name, customers, tmp_path, monkeypatch, capsys):
    pytest.importorskip("xgboost")
    tables = {"": "folds = 2", "fit": 'label = "churned"\nset.n_estimators = 4\nout = "here"\nno-compare = true'}
    prefix = "tool.emphasis" if name == "pyproject.toml" else ""
    lines = [
        (f"[{'.'.join(filter(None, (prefix, key)))}]" if prefix or key else "") + f"\n{text}"
        for key, text in tables.items()
    ]
    Path(name).write_text("\n".join(lines))
    Path("below").mkdir()
    monkeypatch.chdir("below")  # the file is found in a folder above, and its paths are relative to it
    result, _ = results(["fit", "../customers.csv"], capsys)
    assert Path(result["folder"]) == tmp_path / "here"
    assert len(result["scores"]["methods"]) == 1  # no comparison
    request = json.loads((tmp_path / "here" / "fit.json").read_text())
    assert (request["folds"], request["settings"]["n_estimators"]) == (2, 4)
    result, _ = results(["fit", "../customers.csv", "--folds", "3", "--out", "there"], capsys)  # precedence
    assert Path(result["folder"]) == Path("there")
    assert json.loads(Path("there", "fit.json").read_text())["folds"] == 3
    assert main(["fit", "../customers.csv", "--no-config"]) == 2
    assert "--label" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flods = 3", "unknown key 'flods' (did you mean 'folds'?)"),
        ("[fit]\nlabl = 'x'", "[fit] has an unknown key 'labl' (did you mean 'label'?)"),
        ("[fti]\nlabel = 'x'", "unknown key 'fti' (did you mean 'fit'?)"),
        ("[fit]\nvs = ['CCE']", "[fit] has an unknown key 'vs'"),
        ("folds = [3]", "folds = [3] is not allowed; use one value"),
        ("folds = 'many'", "invalid int value: 'many' (set in settings.toml)"),
        ("no-compare = 1", "no-compare = 1 is not allowed; use true or false"),
        ("folds = ", "settings.toml is not valid TOML"),
        (None, "--config settings.toml: No such file or directory"),
    ],
)
def test_mistakes_in_a_file_are_one_line(text, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("settings.toml").write_text(text)
    with pytest.raises(SystemExit) as exit_:
        main(["fit", "customers.csv", "--label", "churned", "--config", "settings.toml"])
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_shell_completes_commands_and_options(tmp_path):
    pytest.importorskip("shtab")
    script = subprocess.run(
        [sys.executable, "-m", "emphasis", "completion", "bash"], capture_output=True, text=True, check=True
    ).stdout
    program = f"""
{script}
complete_() {{ COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=(); _shtab_emphasis; echo "${{COMPREPLY[@]}}"; }}
complete_ emphasis f
complete_ emphasis fit --fol
"""
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["fit figure", "--folds"]


def test_the_page_lists_the_keys_of_every_command():
    page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
    for command in load_commands().values():
        for key, meaning in command.json_keys.items():
            assert f"| `{key}` | {meaning} |" in page, f"{command.name}: {key}"
