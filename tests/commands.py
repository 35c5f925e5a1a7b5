"""Commands that fail, and what they print."""

from emphasis.cli.main import main


def mistake_of(capsys, *arguments):
    """Return the one line that a command prints about a mistake of the user."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


def error_of(capsys, arguments):
    """Return what a command that fails prints to the standard error, in one line."""
    assert main(arguments) != 0
    return " ".join(capsys.readouterr().err.split())
