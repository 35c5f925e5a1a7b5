"""The card of a fitted model: README.md beside the model, in Markdown with the metadata that model hubs read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from emphasis.files import write_text
from emphasis.texts import encodable

CARD = "README.md"
_MOST = 50  # classes and columns that are listed
_MARKS = re.compile(r"([\\`*_\[\]<>#!|~&])")


def write_card(
    folder: Path, context: Mapping[str, Any], *, words: Mapping[str, str], columns: Sequence[str] = ()
) -> None:
    """Write the card of a model into its folder.

    Args:
        folder: Folder of the model.
        context: Variables of the report's page, see `emphasis.tabular.report.page_context`.
        words: What differs by the kind of data: "title", "task" (the pipeline tag), "kind", "extra", "module",
            "source", "rows", and "example" and "argument" of the examples.
        columns: Columns that the model needs.
    """
    environment = Environment(
        loader=PackageLoader("emphasis.tabular"),
        autoescape=False,  # the card is Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["plain"] = plain
    escaped = {**words, "title": plain(words["title"]), "source": plain(words["source"])}
    text = environment.get_template("card.md.j2").render(context, **escaped, columns=list(columns), most=_MOST)
    write_text(folder / CARD, encodable(text) + "\n")


def plain(text: str) -> str:
    """Return a text as Markdown that shows it in one line, with marks escaped."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))
