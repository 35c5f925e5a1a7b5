"""Settings of the command line from a file: `emphasis.toml`, or `[tool.emphasis]` of `pyproject.toml`.

A key is the name of an option without its dashes. Keys outside of any table hold for every command that has the option;
a table such as `[fit]` holds for one command and comes first. Options on the command line take precedence over both.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from emphasis.cli.options import Parser, UsageError, path_argument
from emphasis.texts import did_you_mean

NAME, PYPROJECT = "emphasis.toml", "pyproject.toml"
_NOT_SETTINGS = ("--help", "--version", "--debug", "--config", "--no-config")


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add `--config` and `--no-config`."""
    group = parser.add_argument_group("configuration")
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--config",
        metavar="FILE",
        help=f"take settings from this file (default: {NAME} or [tool.emphasis] of {PYPROJECT}, here or in a folder "
        "above)",
    )
    choice.add_argument("--no-config", action="store_true", help="ignore configuration files")


def add_file_settings(
    arguments: Sequence[str], command: str, parsers: Mapping[str, Parser]
) -> tuple[list[str], dict[str, str]]:
    """Return the command line with the settings of the configuration file, and their sources by destination.

    Args:
        arguments: The command line after `emphasis`.
        command: The command in it.
        parsers: The parsers of all commands.

    Raises:
        UsageError: The file cannot be read, has an unknown key, or a value of the wrong kind.
    """
    path, settings = _read(arguments)
    if path is None:
        return list(arguments), {}
    _check_keys(path, settings, parsers)
    of_command = settings.get(command)
    shared = {key: value for key, value in settings.items() if not (isinstance(value, dict) and key in parsers)}
    actions = _actions(parsers[command])
    tokens: list[str] = []
    sources = {}
    for key, value in (shared | (of_command if isinstance(of_command, dict) else {})).items():
        action = actions.get(key)
        if action is not None and not _is_given(action, arguments):
            tokens += _tokens(path, key, value, action)
            sources[action.dest] = str(path)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], *tokens, *arguments[end:]], sources


def _read(arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """Return the configuration file and its settings; None if there is none."""
    if "--no-config" in arguments:
        return None, {}
    for position, argument in enumerate(arguments):
        if argument == "--config" and position + 1 < len(arguments):
            return _read_file(Path(arguments[position + 1]), is_required=True)
        if argument.startswith("--config="):
            return _read_file(Path(argument.partition("=")[2]), is_required=True)
    try:
        here = Path.cwd()
    except OSError:  # the folder was removed
        return None, {}
    for folder in (here, *here.parents):
        for name in (NAME, PYPROJECT):
            path, settings = _read_file(folder / name, is_required=False)
            if path is not None:
                return path, settings
    return None, {}


def _read_file(path: Path, *, is_required: bool) -> tuple[Path | None, dict[str, Any]]:
    """Return a file and its settings; None if it is a pyproject.toml without [tool.emphasis]."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        if is_required:
            raise UsageError(f"--config {path}: {error.strerror}") from error
        return None, {}
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text in UTF-8") from error
    is_pyproject = path.name == PYPROJECT
    if is_pyproject and not is_required and "tool.emphasis" not in text:
        return None, {}
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path} is not valid TOML: {error}") from error
    if not is_pyproject:
        return path, settings
    table = settings.get("tool", {}).get("emphasis")
    if table is None and is_required:
        raise UsageError(f"{path} has no table [tool.emphasis]")
    return (None, {}) if table is None else (path, table)


def _check_keys(path: Path, settings: Mapping[str, Any], parsers: Mapping[str, Parser]) -> None:
    """Check that each key is an option, of the command in whose table it is, or of any command."""
    every = {key for parser in parsers.values() for key in _actions(parser)}
    for key, value in settings.items():
        if isinstance(value, dict) and key in parsers:
            known = _actions(parsers[key])
            for name in value:
                if name not in known:
                    hint = did_you_mean(name, known) or f"; see emphasis {key} --help"
                    raise UsageError(f"{path}: [{key}] has an unknown key {name!r}{hint}")
        elif key not in every:
            hint = did_you_mean(key, [*every, *parsers]) or "; keys are names of options, and tables of commands"
            raise UsageError(f"{path}: unknown key {key!r}{hint}")


def _actions(parser: Parser) -> dict[str, argparse.Action]:
    """Return the options that a file can set, by key."""
    return {
        option.removeprefix("--"): action
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option not in _NOT_SETTINGS
    }


def _is_given(action: argparse.Action, arguments: Sequence[str]) -> bool:
    return any(
        argument == option or argument.startswith(f"{option}=")
        for argument in arguments
        for option in action.option_strings
    )


def _tokens(path: Path, key: str, value: Any, action: argparse.Action) -> list[str]:
    """Return a setting as arguments of the command line."""
    option = f"--{key}"
    if action.nargs == 0:
        if not isinstance(value, bool):
            raise UsageError(f"{path}: {key} = {_shown(value)} is not allowed; use true or false")
        return [option] if value else []
    takes_several = action.nargs in ("+", "*") or isinstance(action, argparse._AppendAction)
    if isinstance(value, dict) and key == "set":
        value = [f"{name}={json.dumps(item, ensure_ascii=False)}" for name, item in _flat(value).items()]
    if isinstance(value, dict) or (isinstance(value, list) and not takes_several):
        raise UsageError(f"{path}: {key} = {_shown(value)} is not allowed; use one value")
    texts = [_text(path, item, action) for item in (value if isinstance(value, list) else [value])]
    if action.nargs in ("+", "*"):
        return [option, *texts]
    return [f"{option}={text}" for text in texts]


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one with dotted names: TOML reads `solver.momentum = 0.9` as a table in a table."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _text(path: Path, value: Any, action: argparse.Action) -> str:
    """Return a value as text; a path is relative to the folder of the file."""
    if action.type is path_argument and isinstance(value, str) and value != "-":
        return str(path.parent / Path(value).expanduser())
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
