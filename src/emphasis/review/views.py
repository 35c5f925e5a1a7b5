"""Views of examples: a picture, a text, or the row of a table with its unusual values marked."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.image_files import FORMATS
from emphasis.datasets.table_source import ReadOptions, open_table
from emphasis.errors import EmphasisFileNotFoundError, EmphasisValueError
from emphasis.review.examples import Examples, ReviewError
from emphasis.texts import encodable

_LONG_TEXT = 30  # mean number of characters above which a column is shown as text
_ODD_DEVIATIONS = 3.5  # deviation of an unusual number from the median of its class, in robust standard deviations
_ODD_SHARE = 0.01  # share of an unusual category within its class
_RANKED_ROWS = 3000  # rows from which columns are ranked
_MAX_SHOWN = 20_000  # characters of a text
_BRIEF_TEXT, _BRIEF_COLUMNS = 240, 4  # characters of a text, and columns, among neighbors and in the grid
_GROUPED = 10_000  # numbers from here on have thousands separators; years have none
_MAX_PIXELS = 50_000_000


class Views(Protocol):
    """Views of the examples of an audit."""

    def content(self, index: int) -> dict[str, Any]:
        """Return the content of an example for the page: "kind" and, for rows and texts, "text" and "columns"."""

    def text(self, index: int) -> str:
        """Return an example as one text, for other tools."""

    def brief(self, index: int) -> str:
        """Return the most informative part of an example as a short text; "" for a picture."""

    def search(self, query: str) -> NDArray[np.bool_]:
        """Return which examples contain a text, (n,), ignoring case."""


def views_of(examples: Examples) -> Views:
    """Return the views for the location of the examples."""
    kind = examples.data.get("kind")
    if kind == "images":
        return ImageViews(examples)
    if kind == "pictures" and examples.pictures is not None:
        return ImageViews(examples)
    if kind == "table":
        return TableViews.of(examples)
    return TextViews([f"Example {key}" for key in examples.keys])


class ImageViews:
    """Images, from files or from an array."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self._folder = Path(str(examples.data["folder"])) if examples.data.get("kind") == "images" else None

    def content(self, index: int) -> dict[str, Any]:  # noqa: ARG002
        """Return the kind of content, a picture."""
        return {"kind": "image"}

    def text(self, index: int) -> str:
        """Return the name of the file, or the number of the row."""
        return self._examples.keys[index]

    def brief(self, index: int) -> str:  # noqa: ARG002
        """Return an empty text, since the picture is shown."""
        return ""

    def search(self, query: str) -> NDArray[np.bool_]:
        """Return which files have a name that contains the query."""
        return _contains(self._examples.keys, query)

    def picture(self, index: int, size: int) -> bytes:
        """Return the image as a PNG file of at most `size` pixels per side; small ones are not enlarged.

        Raises:
            EmphasisFileNotFoundError: The image is missing or cannot be decoded.
        """
        from PIL import Image, ImageOps

        if self._folder is None:
            assert self._examples.pictures is not None
            pixels = np.asarray(self._examples.pictures[index]).transpose(1, 2, 0)
            return _png(Image.fromarray(np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)), size)
        path = self._folder / self._examples.sources[index]
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise EmphasisFileNotFoundError(f"{path} lies outside of {self._folder}")
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > _MAX_PIXELS:
                    raise EmphasisValueError(f"it has more than {_MAX_PIXELS:,} pixels")
                image.draft("RGB", (size, size))  # decodes large JPEG files at a fraction of their size
                return _png(ImageOps.exif_transpose(image), size)
        except Exception as error:  # decoders can raise any error
            raise EmphasisFileNotFoundError(f"image {path} cannot be read ({error})") from error


def _png(image: Any, size: int) -> bytes:
    shown = image.convert("L" if image.mode in ("1", "L") else "RGB")
    shown.thumbnail((size, size))
    file = io.BytesIO()
    shown.save(file, "PNG")
    return file.getvalue()


class TextViews:
    """Texts, one for each example."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def content(self, index: int) -> dict[str, Any]:
        """Return the text."""
        return {"kind": "text", "text": _shown(self._texts[index]), "columns": []}

    def text(self, index: int) -> str:
        """Return the text."""
        return str(self._texts[index])

    def brief(self, index: int) -> str:
        """Return the beginning of the text."""
        return _beginning(self.text(index))

    def search(self, query: str) -> NDArray[np.bool_]:
        """Return which texts contain the query."""
        return _contains(self._texts, query)


class TableViews:
    """Rows of a table: texts in full, then the other columns, the most informative about the classes first.

    Args:
        frame: A pandas DataFrame of the n examples, without the label.
        labels: (n,) labels of the examples.
    """

    def __init__(self, frame: Any, labels: NDArray[np.int64]) -> None:
        from pandas.api import types

        self._frame, self._labels = frame, labels
        self._numbers = {
            name
            for name in frame.columns
            if types.is_numeric_dtype(frame[name].dtype) and not types.is_bool_dtype(frame[name].dtype)
        }
        self._texts = [name for name in frame.columns if name not in self._numbers and _is_text(frame[name])]
        self._columns = _by_importance([n for n in frame.columns if n not in self._texts], frame, labels, self._numbers)
        self._usual: dict[tuple[str, int], Any] = {}

    @classmethod
    def of(cls, examples: Examples) -> TableViews:
        """Read an audited table again, and return its views.

        Raises:
            DataError: The table can no longer be read.
            ReviewError: The table has fewer rows than when it was audited.
        """
        table = open_table(Path(str(examples.data["file"])), ReadOptions(**examples.data.get("read", {})))
        positions = np.searchsorted(table.rows, examples.rows)
        if positions.max(initial=0) >= len(table.rows) or not np.array_equal(table.rows[positions], examples.rows):
            raise ReviewError(f"{table.name} has fewer rows than when it was audited; run the audit again")
        frame = table.frame.drop(columns=[examples.data["label"]], errors="ignore").iloc[positions]
        return cls(frame.reset_index(drop=True), examples.labels)

    def content(self, index: int) -> dict[str, Any]:
        """Return the texts, and the other columns with the usual values in the example's class."""
        row, label = self._frame.iloc[index], int(self._labels[index])
        texts = [_shown(row[name]) for name in self._texts]
        if len(self._texts) > 1:
            texts = [f"{name}: {text}" for name, text in zip(self._texts, texts, strict=True)]
        columns = [self._cell(name, row[name], label) for name in self._columns]
        return {"kind": "text" if texts else "row", "text": "\n\n".join(texts), "columns": columns}

    def text(self, index: int) -> str:
        """Return the row as text."""
        row = self._frame.iloc[index]
        if self._texts and not self._columns and len(self._texts) == 1:
            return _shown(row[self._texts[0]])
        return "\n".join(f"{name}: {_shown(row[name])}" for name in [*self._texts, *self._columns])

    def brief(self, index: int) -> str:
        """Return the beginning of the texts, or else the columns that say most about the classes."""
        row = self._frame.iloc[index]
        if self._texts:
            return _beginning("\n".join(_shown(row[name]) for name in self._texts))
        return "\n".join(_beginning(f"{name}: {_grouped(row[name])}") for name in self._columns[:_BRIEF_COLUMNS])

    def search(self, query: str) -> NDArray[np.bool_]:
        """Return which rows contain the query in a column."""
        matches = np.zeros(len(self._frame), dtype=bool)
        for name in [*self._texts, *self._columns]:
            column = self._frame[name].astype(str).str
            matches |= column.contains(query, case=False, regex=False).to_numpy(dtype=bool, na_value=False)
        return matches

    def _cell(self, name: str, value: Any, label: int) -> dict[str, Any]:
        if (name, label) not in self._usual:
            of_class = self._frame[name][self._labels == label].dropna()
            self._usual[name, label] = _usual(of_class, name in self._numbers)
        usual = self._usual[name, label]
        cell = {"name": encodable(str(name)), "value": _grouped(value), "odd": False, "usual": ""}
        if usual is None or value is None or value != value:
            return cell
        if name in self._numbers:
            median, spread, low, high = usual
            odd = spread > 0 and abs(float(value) - median) > _ODD_DEVIATIONS * spread
            return cell | {"odd": bool(odd), "usual": f"usually {_grouped(low)} to {_grouped(high)}"}
        share = usual.get(value, 0.0)
        most = max(usual, key=usual.__getitem__)
        common = sum(part for part in usual.values() if part >= _ODD_SHARE)
        odd = share < _ODD_SHARE and common > 0.5  # where most values are rare, as in a column of names, none is odd
        return cell | {"odd": bool(odd), "usual": f"mostly {_grouped(most)}" if usual[most] > 0.5 else ""}


def _is_text(column: Any) -> bool:
    lengths = column.dropna().head(_RANKED_ROWS).map(lambda value: len(value) if isinstance(value, str) else 0)
    return bool(len(lengths) and lengths.mean() > _LONG_TEXT)


def _by_importance(names: list[str], frame: Any, labels: NDArray[np.int64], numbers: set[str]) -> list[str]:
    """Return columns ordered by their mutual information with the labels beyond that of chance, the largest first."""
    import pandas as pd
    from sklearn.feature_selection import mutual_info_classif
    from sklearn.metrics.cluster import contingency_matrix, expected_mutual_information

    if len(names) < 2 or len(np.unique(labels)) < 2 or len(labels) < 20:
        return names
    sample = np.random.default_rng(0).permutation(len(labels))[:_RANKED_ROWS]
    values = np.empty((len(sample), len(names)))
    for position, name in enumerate(names):
        column = frame[name].iloc[sample]
        if name in numbers:
            filled = column.astype(float).replace([np.inf, -np.inf], np.nan)
            values[:, position] = filled.fillna(filled.median() if filled.notna().any() else 0.0)
        else:
            values[:, position] = pd.factorize(column.astype(str))[0]
    discrete = np.array([name not in numbers for name in names])
    information = mutual_info_classif(values, labels[sample], discrete_features=discrete, random_state=0)
    for position in np.flatnonzero(discrete).tolist():  # minus what chance gives: all that a column of names has
        table = contingency_matrix(labels[sample], values[:, position], sparse=True, dtype=np.int64)
        information[position] -= expected_mutual_information(table, len(sample))
    return [names[position] for position in np.argsort(-information, kind="stable")]


def _usual(values: Any, is_number: bool) -> Any:
    """Return the usual values of a column within a class; None if there are fewer than 10 values."""
    if len(values) < 10:
        return None
    if not is_number:
        return values.value_counts(normalize=True).to_dict()
    numbers = values.to_numpy(dtype=float)
    low, median, high = np.quantile(numbers, (0.05, 0.5, 0.95))
    spread = 1.4826 * float(np.median(np.abs(numbers - median))) or float(numbers.std())
    return float(median), spread, float(low), float(high)


def _shown(value: Any) -> str:
    """Return a value as text that JSON and UTF-8 can represent."""
    if value is None or value != value:
        return "missing"
    if isinstance(value, (float, np.floating)):
        is_large = 1e5 <= abs(float(value)) < 1e15
        return f"{value:.2f}".removesuffix(".00") if is_large else f"{value:.6g}"
    return encodable(str(value)[:_MAX_SHOWN])


def _grouped(value: Any) -> str:
    """Return a value as text, large numbers with thousands separators."""
    text = _shown(value)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return text
    size = abs(float(value))
    if not _GROUPED <= size < 1e15:
        return text
    whole, point, fraction = text.partition(".")
    return f"{int(whole):,}{point}{fraction}"


def _beginning(text: str) -> str:
    return text if len(text) <= _BRIEF_TEXT else f"{text[: _BRIEF_TEXT - 1]}\u2026"


def _contains(texts: Sequence[str], query: str) -> NDArray[np.bool_]:
    pattern = query.casefold()
    return np.fromiter((pattern in str(text).casefold() for text in texts), dtype=bool, count=len(texts))
