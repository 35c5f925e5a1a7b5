"""Review of suspect labels on a local page, with decisions on disk, estimates of remaining errors and corrections.

    from emphasis.review import Decisions, review

    review("runs/photos-audit")
    labels, weights = Decisions.read("runs/photos-audit").apply(files, labels)

Reading and applying decisions requires numpy only; the page requires the extra `review`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.errors import EmphasisTypeError
from emphasis.extras import missing_extra
from emphasis.review.decisions import Agreement, Decision, Decisions, Outcome

if TYPE_CHECKING:
    from emphasis.review.examples import Examples
    from emphasis.review.views import Views

__all__ = ["Agreement", "Decision", "Decisions", "Outcome", "review"]


def review(
    audit: Any,
    *,
    texts: Sequence[str] | None = None,
    images: Any = None,
    table: Any = None,
    decisions: str | os.PathLike[str] | None = None,
    reviewer: str = "",
    port: int = 0,
    relearn_every: int = 25,
    show: Callable[[str], Any] | None = None,
) -> Decisions:
    """Open a page that shows the examples of an audit, the most suspicious first, and return the decisions.

    The page is served until Ctrl-C (in a notebook: until the cell is interrupted). Each decision is saved before the
    next example is shown. The page can be opened on this computer only.

    Args:
        audit: Folder of an audit, or the result of `emphasis.audit`.
        texts: n texts to show, for an audit of labels in memory.
        images: n images to show, uint8 of shape (n, channels, height, width), for an audit of labels in memory.
        table: Table of n rows to show, for an audit of labels in memory.
        decisions: File of the decisions; None for decisions.jsonl in the audit's folder. It is required for an audit of
            labels in memory.
        reviewer: Name of the reviewer.
        port: Port of the page; 0 chooses a free one.
        relearn_every: Number of decisions after which the order is learned again; 0 keeps the audit's order.
        show: Called with the address of the page; None opens it in a browser.

    Raises:
        TypeError: Arguments exclude each other.
        ValueError: The audit or the decisions cannot be read.
        ModuleNotFoundError: The extra `review` is not installed.

    Examples:
        >>> import emphasis
        >>> from emphasis.review import review
        >>> texts = ["a fine film", "a dull film", "a dull play"]
        >>> result = emphasis.audit([1, 0, 1], [[0.1, 0.9], [0.8, 0.2], [0.7, 0.3]])
        >>> decisions = review(result, texts=texts, decisions="decisions.jsonl")  # doctest: +SKIP
        >>> labels, weights = decisions.apply(range(3), [1, 0, 1])  # doctest: +SKIP
    """
    from emphasis.review.examples import read_examples

    try:
        from emphasis.review.server import serve
    except ModuleNotFoundError as error:
        raise missing_extra("emphasis.review.review", "review", error) from None
    import webbrowser

    on_disk = isinstance(audit, (str, os.PathLike))
    if decisions is None and not on_disk:
        raise EmphasisTypeError('an audit in memory has no folder: name the file of its decisions, decisions="FILE"')
    examples = read_examples(Path(audit)) if on_disk else audit.to_examples()
    path = Path(audit if decisions is None else decisions)
    with contextlib.suppress(KeyboardInterrupt):
        serve(
            examples,
            path,
            views=_views(examples, texts, images, table),
            reviewer=reviewer,
            port=port,
            relearn_every=relearn_every,
            show=webbrowser.open if show is None else show,
        )
    from emphasis.review.decisions import DECISIONS

    path = path / DECISIONS if path.is_dir() else path
    return Decisions.read(path) if path.is_file() else Decisions()


def _views(examples: Examples, texts: Sequence[str] | None, images: Any, table: Any) -> Views | None:
    """Return the views of the given content; None if the audit's folder refers to the content."""
    import dataclasses

    from emphasis.review.views import ImageViews, TableViews, TextViews

    contents = {
        name: value for name, value in (("texts", texts), ("images", images), ("table", table)) if value is not None
    }
    if len(contents) > 1:
        raise EmphasisTypeError(f"give one of texts, images and table, not {' and '.join(contents)}")
    for name, value in contents.items():
        if len(value) != len(examples):
            raise EmphasisTypeError(f"there are {len(value)} {name} of {len(examples)} examples")
    if texts is not None:
        return TextViews(texts)
    if images is not None:
        return ImageViews(dataclasses.replace(examples, pictures=images, data={"kind": "pictures"}))
    if table is None:
        return None
    from emphasis.datasets.table_source import open_table

    return TableViews(open_table(table).frame, examples.labels)
