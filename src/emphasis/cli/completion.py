"""`emphasis completion`: a script with which a shell completes commands, options and file names."""

from __future__ import annotations

import argparse

from emphasis.cli.options import Command, name_or_path_argument, path_argument

_DESCRIPTION = """\
Print a script that lets the shell complete the commands and options of emphasis, and file names.
Print it again after an update of emphasis."""

_EXAMPLES = """\
examples:
  emphasis completion bash > ~/.local/share/bash-completion/completions/emphasis
  emphasis completion zsh > ~/.zfunc/_emphasis
  emphasis completion tcsh > ~/.emphasis-completion.tcsh"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")


def _completion(options: argparse.Namespace) -> None:
    import shtab

    from emphasis.cli.main import load_commands, make_parsers

    parser, parsers = make_parsers(load_commands())
    for action in [action for each in parsers.values() for action in each._actions]:
        if action.type in (path_argument, name_or_path_argument) or action.dest == "config":
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, options.shell))


COMMANDS = [
    Command(
        name="completion",
        summary="print a script for completion in the shell",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_completion,
        extras=("completion",),
    )
]
