"""Folders that a kill, a full disk or a hand has damaged: every command ends in one line that names file and line."""

import dataclasses
import json
import re
import shutil

import numpy as np
import pytest

from emphasis.cli.main import main
from emphasis.experiments.recipes.load import recipe_to_tables
from emphasis.experiments.runs.store import acquire, lines, stored_recipe, write_job
from synthetic import make_rows, plain, recipe

HOW = ["--no-progress", "--accelerator", "cpu"]


def changed_row(change):
    """Damage to the third line of results: `change` is done to its object."""

    def damage(text):
        rows = [json.loads(line) for line in text.splitlines()]
        row = change(rows[2])
        return "".join(json.dumps(one) + "\n" for one in [*rows[:2], rows[2] if row is None else row, *rows[3:]])

    return damage


def without(*names):
    def change(row):
        inner = row
        for name in names[:-1]:
            inner = inner[name]
        del inner[names[-1]]

    return change


ROWS = {
    "a row without a field": (changed_row(without("curves")), "line 3: it has no 'curves'"),
    "a row without a curve": (changed_row(without("curves", "p_clean")), "line 3: 'curves' must be"),
    "a row that is no object": (changed_row(lambda row: [row]), "line 3: not a JSON object"),
    "a row of text": (changed_row(lambda row: "abc"), "line 3: not a JSON object"),
    "a number of text": (changed_row(lambda row: row.update(seed="0")), "line 3: 'seed' must be a whole number"),
    "a huge number": (changed_row(lambda row: row.update(n_train=10**400)), "line 3: 'n_train' must be"),
    "a share of 7": (changed_row(lambda row: row.update(final_fit_true=7)), "line 3: 'final_fit_true' must be"),
    "an accuracy of text": (changed_row(lambda row: row.update(final_cmc_1="x")), "line 3: 'final_cmc_1' must be"),
    "bins that lack": (changed_row(without("p_histogram", "clean", 0)), "line 3: 'p_histogram' must be"),
    "a curve that lacks an end": (changed_row(without("curves", "fit_true", -1)), "line 3: 'curves' must"),
    "no networks at once": (changed_row(lambda row: row.update(networks_at_once=0)), "'networks_at_once' must be"),
    "half a line": (lambda text: text[:-100], "line 16: not valid JSON"),
    "an empty line": (lambda text: text.replace("\n", "\n\n", 1), "line 2: not valid JSON"),
    "deep lists": (lambda text: text + "[" * 100_000, "line 17: its lists and tables are nested too deep"),
    "lists of some depth": (
        lambda text: text + '{"a":' * 300 + "0" + "}" * 300,
        "line 17: its lists and tables are nes",
    ),
    "half a character": (changed_row(lambda row: row.update(method="\ud800")), "line 3: a text in it holds half a ch"),
    "no text": (lambda text: b"\xff\xfe" + text.encode(), "it is not UTF-8"),
}
RUNS = {
    "half a file": (lambda tables: json.dumps(tables)[:-50], "not valid JSON"),
    "a list": (lambda tables: json.dumps([tables]), "not a JSON object"),
    "deep lists": (lambda tables: "[" * 100_000, "nested too deep"),
    "ten million seeds": (lambda tables: json.dumps({**tables, "seeds": 10**7}), "80,000,000 networks, and 100,000"),
    "a later version": (lambda tables: json.dumps({**tables, "warmth": 3}), "unknown setting 'warmth'.*later version"),
    "no methods": (lambda tables: json.dumps({**tables, "methods": []}), "methods"),
    "a number for a table": (lambda tables: json.dumps({**tables, "solver": 3}), "solver must be a table"),
    "a metric of none": (lambda tables: json.dumps({**tables, "metric": "device"}), "metric='device' is not allowed"),
    "a weighting of none": (
        lambda tables: json.dumps(tables).replace('"family": "GCE"', '"family": 3'),
        "unknown family 3",
    ),
}


@pytest.fixture
def folder(tmp_path):
    """A run whose results are kept apart from it."""
    (tmp_path / "run.json").write_text(json.dumps(recipe_to_tables(recipe())))
    (tmp_path / "results.jsonl").write_text(lines(make_rows(recipe(), plain)))
    return tmp_path


def damage(path, how):
    text = how(path.read_text())
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def refused(capsys, arguments, file, said):
    """Whether a command ends in one line that names the file and says what is wrong."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert str(file) in error
    assert re.search(said, error), error


READERS = [["report"], ["figure", "2b", "--run"], ["design", "--no-browser", "--run"]]


@pytest.mark.parametrize(("how", "said"), ROWS.values(), ids=ROWS)
def test_damaged_results_are_named_by_file_and_line(how, said, folder, capsys):
    damage(folder / "results.jsonl", how)
    for command in READERS:
        refused(capsys, [*command, str(folder)], folder / "results.jsonl", said)


@pytest.mark.parametrize(("how", "said"), RUNS.values(), ids=RUNS)
def test_a_damaged_recipe_of_a_run_is_named(how, said, folder, capsys):
    damage(folder / "run.json", lambda text: how(json.loads(text)))
    for command in READERS:
        refused(capsys, [*command, str(folder)], folder / "run.json", said)


def test_a_line_cut_short_is_named_by_run_search_audit_and_tune(tmp_path, capsys):
    toml = tmp_path / "tiny.toml"
    toml.write_text('extends = "digits"\nname = "tiny"\n[solver]\niterations = 5\n')
    commands = {
        "run": ["run", str(toml), *HOW],
        "search": ["search", str(toml), "--method", "DM 0.5/8 integral", "--trials", "1", *HOW],
        "audit": ["audit", str(toml), *HOW],
        "tune": ["tune", str(toml), "--trials", "1", "--folds", "1", *HOW],
    }
    assert main([*commands["audit"], "--out", str(tmp_path / "audit")]) == 0
    shutil.copytree(tmp_path / "audit", tmp_path / "tune" / "audit")
    acquire(tmp_path / "run", dataclasses.replace(recipe(), name="tiny"))
    acquire(tmp_path / "search", dataclasses.replace(recipe(), name="tiny-search"))
    for name, arguments in commands.items():
        folder = tmp_path / name
        inner = folder / "audit" if name == "tune" else folder
        file = inner / "cells" / "abc.jsonl"
        file.write_text(lines(make_rows(recipe(), plain))[:-7])
        refused(capsys, [*arguments, "--out", str(folder)], file, "line 16: not valid JSON")
        file.unlink()
        if name in ("audit", "tune"):
            (inner / "run.json").write_text("[" * 100_000)
            refused(capsys, [*arguments, "--out", str(folder)], inner / "run.json", "nested too deep")


def test_damaged_probabilities_are_named_or_passed_over(tmp_path, capsys):
    """A run that kept a record of its training, of which a report reads the arrays."""
    toml = tmp_path / "tiny.toml"
    settings = "seeds = 1\n[solver]\niterations = 10\n[evaluation]\nevery = 5\ntrace = true\n"
    toml.write_text(f'extends = "digits"\nname = "tiny"\n{settings}')
    folder = tmp_path / "run"
    assert main(["run", str(toml), "--methods", "CCE", "DM 0.5/8 integral", *HOW, "--out", str(folder)]) == 0
    assert (folder / "suspects" / "audit.html").exists()
    (file,) = (folder / "cells").glob("*.npz")
    with np.load(file) as arrays:
        whole = dict(arrays)
    content = file.read_bytes()

    def arrays_with(**changes):
        np.savez(file, **{name: value for name, value in (whole | changes).items() if value is not None})

    for change, said in (
        (lambda: file.write_bytes(content[:500]), "cannot be read"),
        (lambda: arrays_with(keys=None), "cannot be read"),
        (lambda: arrays_with(seeds=np.array([7])), "cannot be read"),
        (lambda: arrays_with(p=whole["p"].astype(str)), "p is of shape"),
        (lambda: arrays_with(noisy=whole["noisy"][:, :5]), "noisy is of shape"),
        (lambda: arrays_with(trace=whole["trace"][:1], predicted=whole["predicted"][:1]), "another number of eval"),
        (lambda: arrays_with(trace=whole["trace"][:2]), "2 evaluations, but 3 of predictions"),
        (lambda: arrays_with(index=whole["index"].astype(object)), "is of type object"),
        (lambda: arrays_with(predicted=whole["predicted"] + 1000), "was predicted; classes are in"),
    ):
        change()
        assert main(["report", str(folder)]) == 2
        error = capsys.readouterr().err
        assert len(error.splitlines()) == 1
        assert said in error
    # Labels of other data than is there now: the report is as without the record.
    arrays_with(noisy=~whole["noisy"])
    shutil.rmtree(folder / "suspects")
    assert main(["report", str(folder)]) == 0
    assert not (folder / "suspects").exists()


def test_an_own_recipe_that_is_no_toml_is_named(tmp_path, capsys):
    for name, content in {
        "bytes": b"\xff\xfe",
        "deep": b"a = " + b"[" * 100_000,
        "dotted": b".".join([b"a"] * 2000) + b" = 1",
        "digits": b"seeds = " + b"9" * 5000,
        "half": b'name = "a',
        "date": b'extends = "digits"\n[dataset]\nx = 2020-01-01\n',
    }.items():
        path = tmp_path / f"{name}.toml"
        path.write_bytes(content)
        for command in (["run"], ["audit"], ["tune"], ["search", "--method", "DM 0.5/8 integral"]):
            refused(capsys, [command[0], str(path), *command[1:]], path, "")


def test_a_damaged_model_is_named_by_predict(tmp_path, capsys):
    import pandas as pd

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"x": rng.normal(size=60), "class": rng.choice(["u", "v"], 60)})
    table.to_csv(tmp_path / "t.csv", index=False)
    fit = [
        "fit",
        str(tmp_path / "t.csv"),
        "--label",
        "class",
        "--set",
        "n_estimators=2",
        "--folds",
        "2",
        "--no-progress",
    ]
    assert main([*fit, "--out", str(tmp_path / "fit")]) == 0
    capsys.readouterr()
    manifest = tmp_path / "fit" / "model" / "manifest.json"
    text = manifest.read_text()
    for content, said in (
        (text[:-20], "not valid JSON"),
        ("[1]", "not a JSON object"),
        ("[" * 100_000, "nested too deep"),
        (text.replace('"u"', '"w"'), "its checksum"),
        (re.sub(r'"format": \d+', '"format": 99', text), "is of format 99"),
    ):
        manifest.write_text(content)
        refused(capsys, ["predict", str(tmp_path / "fit"), str(tmp_path / "t.csv")], manifest, said)


def test_a_job_that_was_written_comes_back(tmp_path):
    """That what is written passes the checks of those who read it."""
    acquire(tmp_path, recipe())
    rows = make_rows(recipe(), plain)
    write_job(tmp_path, "a", rows, {})
    assert stored_recipe(tmp_path).name == "synthetic"
    assert main(["report", str(tmp_path), "--format", "csv"]) == 0
