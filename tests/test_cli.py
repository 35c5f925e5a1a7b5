import subprocess
import sys

import pytest

import emphasis
from emphasis.cli import main
from emphasis.weighting import FAMILIES


def _fails(capsys, *arguments):
    """The one line of a mistake."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["show", "--help"]])
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


@pytest.mark.parametrize("family", FAMILIES)
def test_show_draws_every_family_in_any_case(family, capsys):
    assert main(["show", family.lower()]) == 0
    assert "emphasis mode" in capsys.readouterr().out


def test_show_takes_parameters_and_comparisons(capsys):
    assert main(["show", "DM", "--lam", "1", "--beta", "16", "--vanishing", "--vs", "GCE", "CCE"]) == 0
    out = capsys.readouterr().out
    assert all(text in out for text in ("DM(lam=1.0, beta=16.0, vanishing=True)", "GCE(q=0.7)", "CCE()"))


def test_show_takes_negative_numbers(capsys):
    assert main(["show", "SCE", "--A", "-6"]) == 0
    assert "A=-6.0" in capsys.readouterr().out


def test_show_draws_to_a_file(tmp_path, capsys):
    assert main(["show", "DM", "--lam", "0.5", "--out", str(tmp_path / "edf.svg")]) == 0
    assert (tmp_path / "edf.svg").exists()
    assert "drawn to" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "GEC"], "did you mean GCE"),
        (["show", "DM", "--lamb", "3"], "did you mean --lam?"),
        (["show", "CCE", "--q", "3"], "it takes no parameters"),
        (["show", "GCE", "--q", "3"], "q must be in [0, 1]"),
        (["show", "GCE", "--q", "x"], "invalid float value"),
        (["show", "DM", "--beta", "-1", "--vanishing"], "use beta > 0"),
        (["show", "DM", "--out", "edf.jpg"], ".png, .svg, .pdf"),
        (["show", "DM", "--out", "/nonexistent/edf.png"], "No such file"),
        (["run", "digit"], "did you mean 'digits'"),
        (["run", "digits", "--noise-rate", "2"], "use a number in [0, 1]"),
        (["run", "digits", "--seeds", "0"], "seeds=0 is not allowed"),
        (["run", "digits", "--threads", "0"], "--threads 0 is not allowed"),
        (["run", "digits", "--checkpoint-seconds", "nan"], "--checkpoint-seconds nan"),
        (["run", "digits", "--bogus"], "unknown option --bogus"),
        (["rnu"], "invalid choice: 'rnu'"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    assert message in _fails(capsys, *arguments)


@pytest.mark.parametrize(
    ("missing", "arguments", "message"),
    [
        ("rich", ["run", "digits"], "emphasis run needs the extra 'experiments'"),
        ("torch", ["run", "digits"], "pip install 'emphasis-learn[experiments]'"),
        ("plotext", ["show", "DM"], "emphasis show needs the extra 'plot'"),
        ("matplotlib", ["show", "DM", "--out", "a.png"], "pip install 'emphasis-learn[plot]'"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(missing, arguments, message):
    program = (
        f"import sys; sys.modules[{missing!r}] = None; from emphasis.cli import main; sys.exit(main({arguments!r}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_nothing_heavy_is_imported_for_the_help():
    program = "import sys, emphasis, emphasis.cli; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()}
    assert not loaded & {"torch", "sklearn", "scipy", "matplotlib", "rich", "plotext", "jinja2"}


def test_python_m_emphasis():
    done = subprocess.run([sys.executable, "-m", "emphasis", "show", "DM"], capture_output=True, text=True, check=True)
    assert "emphasis mode" in done.stdout


def test_negative_numbers_in_scientific_notation_are_values(capsys):
    assert main(["show", "DM", "--lam", "0", "--beta", "-5e-1"]) == 0
    assert "DM(lam=0.0, beta=-0.5)" in capsys.readouterr().out


def test_an_unusable_folder_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert main(["run", "digits", "--out", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
