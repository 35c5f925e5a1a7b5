"""How the command ends when something fails: foreseen errors are one line, everything else keeps its traceback."""

import errno
from importlib import metadata
from pathlib import Path

import pytest

from emphasis import files
from emphasis.cli.main import main
from emphasis.errors import ERROR_LOG, EmphasisOSError, EmphasisValueError
from emphasis.experiments.recipes import load

RECIPE = """
extends = "digits"
name = "faulty"
figures = []
seeds = 1
solver = { iterations = 20 }
methods = [
    { name = "CCE", weighting = { family = "CCE" } },
    { name = "Own", training = { name = "own.py:Own" } },
]
"""
OWN = """
from emphasis.baselines import Baseline

class Own(Baseline):
    def example_losses(self, logits, labels):
        return logits.sum(1) / len({}[0])
"""
HOW = ["--no-progress", "--threads", "1", "--accelerator", "cpu", "--out", "run"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_fault_in_a_job_keeps_its_traceback_and_the_other_jobs_their_results(workers, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE)
    Path("own.py").write_text(OWN)
    assert main(["run", "recipe.toml", *HOW, "--workers", workers]) == 1
    said = capfd.readouterr()
    log = Path("run", ERROR_LOG).read_text()
    for text in (said.err, log):
        assert "Own, seed 0: KeyError: 0" in text
        assert "own.py" in text
        assert "in example_losses" in text
    assert said.err.splitlines()[-1] == (
        "emphasis: this error was not foreseen: it is also written to run/error.log; report it with this file to the "
        "maintainers of emphasis"
    )
    assert "emphasis " in log.splitlines()[0]
    assert len(Path("run", "results.jsonl").read_text().splitlines()) == 1
    assert "1 of 2 networks are not trained yet" in " ".join(said.out.split())
    Path("own.py").write_text(OWN.replace("len({}[0])", "len({0: 1})"))
    Path("recipe.toml").write_text(RECIPE.replace('"Own", ', '"Own again", '))
    assert main(["run", "recipe.toml", *HOW, "--workers", "1"]) == 0  # a log beside a run does not spoil it
    assert Path("run", ERROR_LOG).exists()
    assert main(["run", "recipe.toml", *HOW, "--workers", "1", "--methods", "CCE", "--force"]) == 0
    assert not Path("run", ERROR_LOG).exists()


@pytest.mark.parametrize("kind", [ValueError, TypeError, OSError, RuntimeError, KeyError, FileNotFoundError])
def test_an_error_that_is_not_ours_is_not_taken_for_a_mistake(kind, tmp_path, monkeypatch, capsys):
    def fail():
        raise kind("of nobody's making")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(load, "recipe_names", fail)
    assert main(["recipes"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert "in fail" in said
    assert said.endswith("report it with this traceback to the maintainers of emphasis\n")
    assert not list(tmp_path.iterdir())  # there is no run


def test_faults_are_reported_to_the_address_of_the_packages_metadata(monkeypatch, capsys):
    about = metadata.metadata("emphasis-learn")
    about["Project-URL"] = "Issues, https://example.org/emphasis/issues"
    monkeypatch.setattr(metadata, "metadata", lambda _: about)
    monkeypatch.setattr(load, "recipe_names", lambda: 1 / 0)
    assert main(["recipes"]) == 1
    assert capsys.readouterr().err.endswith("to the maintainers of emphasis, https://example.org/emphasis/issues\n")


@pytest.mark.parametrize("before", [True, False])
def test_debug_shows_the_traceback_of_a_mistake_too(before, capsys):
    arguments = ["show", "DMM"]
    assert main(["--debug", *arguments] if before else [*arguments, "--debug"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback")
    assert said.splitlines()[-1].startswith("emphasis: unknown family 'DMM'")
    assert main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["--set", "n_estimators=x"], "xgboost rejects the settings or the table"),
        (["--set", "early_stopping_rounds=2"], "Must have at least 1 validation dataset"),
        (["--set", "booster=none"], "Unknown gbm type none"),
        (["--set", "weighting=DM"], "multiple values for keyword argument 'weighting'"),
        (["--model", "net", "--set", "depth=3"], "unexpected keyword argument 'depth'"),
        (["--model", "net", "--set", "class_weight=some"], "sklearn rejects the settings or the table"),
        (["--seed", "-1"], "--seed -1 is not allowed; use a whole number, 0 to 4294967295"),
    ],
)
def test_what_a_library_refuses_of_a_fits_settings_is_one_line(settings, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,y\n" + "".join(f"{row * row % 17},{row % 2}\n" for row in range(40)))
    assert main(["fit", "t.csv", "--label", "y", "--no-progress", "--folds", "2", *settings]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "digits", "--out", "file/run"], "cannot write to file/run: Not a directory"),
        (["fit", "t.csv", "--label", "y", "--out", "file"], "cannot write to file: Not a directory"),
        (["audit", "t.csv", "--label", "y", "--suspects", "folder.csv"], "cannot write folder.csv: Is a directory"),
        (["audit", "a" * 300], "cannot look at aaa"),
        (["run", "digits", "--out", "a" * 300], "File name too long"),
        (["show", "DM", "--out", "folder.svg"], "cannot write folder.svg: Is a directory"),
        (["run", "digits", "--accelerator", "cuda", "--methods", "CCE"], "accelerator='cuda', devices=1, precision="),
        (["run", "digits", "--threads", "100000"], "--threads 100000 is not allowed; use a whole number, 1 to 1,024"),
        (["search", "digits", "--method", "CCE", "--vary", "training.x=1,2", "--trials", "1"], "CCE has no training"),
        (["search", "digits", "--method", "CCE", *["--vary", "weighting.q=1,2"] * 2], "weighting.q is varied twice"),
    ],
)
def test_what_the_system_or_a_library_refuses_is_one_line(arguments, said, tmp_path, monkeypatch, capsys):
    if "cuda" in arguments:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
    if arguments[0] == "search":
        pytest.importorskip("optuna")
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_text("a,y\n" + "".join(f"{row * row % 17},{row % 2}\n" for row in range(40)))
    Path("file").write_text("in the way")
    for folder in ("folder.csv", "folder.svg"):
        Path(folder).mkdir()
    quiet = [] if arguments[0] == "show" else ["--no-progress"]
    short = ["--iterations", "3"] if arguments[0] in ("run", "audit", "search") else []
    try:
        code = main([*arguments, *quiet, *short])
    except SystemExit as exit_:  # of an argument
        code = exit_.code
    error = capsys.readouterr().err
    assert code == 2, error
    assert said in error
    assert error.count("\n") == 1


def test_replacing_names_the_file_and_the_reason_whatever_the_writer_raises(tmp_path, monkeypatch):
    with pytest.raises(EmphasisOSError, match=r"cannot write .*none/a\.txt: No such file or directory") as caught:
        files.write_text(tmp_path / "none" / "a.txt", "a")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(RuntimeError, match="of its own"), files.replacing(tmp_path / "a.txt"):
        raise RuntimeError("of its own")  # the disk takes more: this is no matter of the system's
    with pytest.raises(EmphasisValueError), files.replacing(tmp_path / "a.txt"):
        raise EmphasisValueError("foreseen")

    def says_only_that_it_failed():
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("unexpected position") from error

    with (
        pytest.raises(EmphasisOSError, match=r"a\.txt: No space left on device; free some space"),
        files.replacing(tmp_path / "a.txt"),
    ):
        says_only_that_it_failed()
    assert not list(tmp_path.iterdir())
