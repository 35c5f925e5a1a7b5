"""Observations about a table with the actions taken, and an error that lists all problems of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from emphasis.errors import EmphasisValueError

_ARGUMENTS = (
    "categorical|decimal|drop|encoding|id_column|keep|max_levels|merge_spellings|missing|missing_labels|rare_classes|sep|text|"
    "unlabeled"
)
_MARK = re.compile(rf"`({_ARGUMENTS})`(=?)")
_OPTIONS = {"id_column": "--id"}  # the other options are spelled like the arguments, with hyphens
ROWS_SHOWN = 5


def argument(name: str) -> str:
    """Return the marked name of an argument for messages: name=... in Python, --name on the command line."""
    return f"`{name}`"


def in_python(text: str) -> str:
    """Return a message with its arguments named as in Python."""
    return _MARK.sub(lambda match: match[1] + match[2] if match[2] else f"{match[1]}=...", text)


def in_shell(text: str) -> str:
    """Return a message with its arguments named as the command's options."""
    options = {name: _OPTIONS.get(name, f"--{name.replace('_', '-')}") for name in _ARGUMENTS.split("|")}
    return _MARK.sub(lambda match: options[match[1]] + (" " if match[2] else ""), text)


@dataclass(frozen=True)
class Finding:
    """An observation about a table that can be used.

    Attributes:
        kind: Short name, such as "unlabeled", "spellings", "rare class", "ragged rows", "identifier" or "dialect".
        column: Name of the column; None for findings about rows or the file.
        count: Number of affected rows or values.
        observation: Description of the observation.
        action: Description of the action taken; "" for none.
    """

    kind: str
    column: str | None
    count: int
    observation: str
    action: str

    @property
    def text(self) -> str:
        """The finding as a sentence, with arguments marked by `argument`."""
        return f"{self.observation}: {self.action}" if self.action else self.observation

    def __str__(self) -> str:
        return in_python(self.text)


@dataclass(frozen=True)
class TableReport:
    """Report on how a table was read.

    Attributes:
        source: Name of the table.
        rows: Number of rows in the table.
        used: Number of rows that are used.
        dialect: Separator, encoding and decimal mark of a text file; "" for other tables.
        findings: Observations with the actions taken.
    """

    source: str
    rows: int
    used: int
    dialect: str
    findings: tuple[Finding, ...] = ()

    def lines(self, render: Callable[[str], str] = in_python) -> list[str]:
        """Return one line for each finding.

        Args:
            render: `in_python` or `in_shell`, which renders the names of arguments.
        """
        lines = [render(finding.text) for finding in self.findings]
        if self.used < self.rows:
            lines.append(f"{self.used:,} of {self.rows:,} rows are used")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary that can be written as JSON."""
        findings = [{**asdict(finding), "action": in_python(finding.action)} for finding in self.findings]
        return {**asdict(self), "findings": findings}


class TableError(EmphasisValueError):
    """A table cannot be used; the message lists all problems, and what to do.

    Attributes:
        problems: Text of each problem.
    """

    def __init__(self, problems: Sequence[str], source: str = "") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(in_python(self._text()))

    def for_command(self) -> str:
        """Return the message in the words of the command line."""
        return in_shell(self._text())

    def command_lines(self) -> list[str]:
        """Return the lines that the command prints: a heading if there are several problems, and each problem."""
        return self.for_command().split("\n- ")

    def __reduce__(self) -> tuple[type[TableError], tuple[tuple[str, ...], str]]:
        return type(self), (self.problems, self.source)

    def _text(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        heading = f"{len(self.problems)} problems in {self.source or 'the table'}:"
        return "\n- ".join([heading, *self.problems])


def rows_text(rows: Sequence[int]) -> str:
    """Return the first of a list of row numbers as a text, such as "rows 3, 8 and 2 more"."""
    listed = ", ".join(f"{row}" for row in list(rows)[:ROWS_SHOWN])
    more = f" and {len(rows) - ROWS_SHOWN:,} more" if len(rows) > ROWS_SHOWN else ""
    return f"{'row' if len(rows) == 1 else 'rows'} {listed}{more}"


def counted(count: int, noun: str) -> str:
    """Return "1 row" or "1,234 rows"."""
    return f"{count:,} {noun if count == 1 else noun + 's'}"
