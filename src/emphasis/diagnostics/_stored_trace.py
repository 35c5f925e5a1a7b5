"""Reading of traces, which `emphasis.diagnostics.trace` writes and describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.errors import EmphasisValueError
from emphasis.json_files import JSONFileError, read_json
from emphasis.texts import one_line

ABOUT = "trace.json"
FORMAT = 1


def _whole_number(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


_ABOUT: dict[str, Callable[[Any], bool]] = {  # validators of the entries of trace.json
    "num_examples": _whole_number(1, 2**48),
    "num_classes": _whole_number(1, 2**22),  # limited, since counts by class are kept in memory
    "rows": _whole_number(1, 10**5),
    "weighting": lambda value: isinstance(value, (str, dict)),
    "columns": lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
    "ignore_index": _whole_number(-(2**63), 2**63 - 1),
}


class TraceError(EmphasisValueError):
    """A folder holds no trace, or a trace that cannot be continued; the message says what to do."""


@dataclass(frozen=True, eq=False)
class Trace:
    """A trace read by `read_trace`; its arrays are memory-mapped, not loaded.

    Attributes:
        folder: Folder of the trace.
        about: Content of trace.json.
    """

    folder: Path
    about: dict[str, Any]

    @property
    def columns(self) -> list[str]:
        """Names of the columns of `steps`.

        effective_share: The effective sample size (sum w)^2 / sum w^2 over the batch size, in (0, 1].
        mean_weight: The mean w of the batch.
        emphasis_variance: The variance of w in the batch (Definition 2).
        share of NAME, part of NAME: The share of a subset in the emphasis, and in the examples, of the batch.
        """
        return list(self.about["columns"])

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The recorded labels, (n,)."""
        labels = self._load("labels.npy", "iu", (self.about["num_examples"],))
        wrong = (labels != self.about["ignore_index"]) & ((labels < 0) | (labels >= self.about["num_classes"]))
        if wrong.any():
            raise TraceError(f"{self.folder / 'labels.npy'} holds the label {labels[wrong][0]}; record the trace anew")
        return labels

    @cached_property
    def margins(self) -> list[NDArray[np.float16]]:
        """The margins, one array (n,) per row of the trace."""
        return self._rows("margin", "f")

    @cached_property
    def shares(self) -> list[NDArray[np.float16]]:
        """The weights over the mean weights of their batches, one array (n,) per row of the trace."""
        return self._rows("share", "f")

    @cached_property
    def predicted(self) -> list[NDArray[Any]]:
        """The predicted classes, one array (n,) per row of the trace."""
        return self._rows("predicted", "iu")

    @cached_property
    def steps(self) -> NDArray[np.float32]:
        """The numbers of every step, (T, k), with the columns `columns`."""
        return np.concatenate(self._rows("steps", "f", (None, len(self.columns))))

    def _rows(self, name: str, kinds: str, shape: tuple[int | None, ...] = ()) -> list[NDArray[Any]]:
        shape = shape or (self.about["num_examples"],)
        return [self._load(f"{name}-{row:05d}.npy", kinds, shape) for row in range(self.about["rows"])]

    def _load(self, name: str, kinds: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
        """Return a memory-mapped array after checking its kind (of `kinds`) and shape (None allows any length)."""
        path = self.folder / name
        try:
            values: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # a damaged file can fail in any way
            raise TraceError(f"{path} cannot be read ({one_line(error)}); record the trace anew") from error
        fits = len(values.shape) == len(shape) and all(b in (None, a) for a, b in zip(values.shape, shape, strict=True))
        if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds or not fits:
            raise TraceError(f"{path} does not match {ABOUT}; record the trace anew")
        return values


def read_trace(folder: str | Path) -> Trace:
    """Read the trace in `folder`.

    Raises:
        TraceError: The folder holds no trace, or the trace is damaged or of another version.
    """
    path = Path(folder) / ABOUT
    try:
        about = read_json(path)
    except FileNotFoundError:
        raise TraceError(f"{folder} holds no trace ({ABOUT} is missing); it is written with the first row") from None
    except JSONFileError as error:
        raise TraceError(f"{error}; record the trace anew") from error
    if about.get("format") != FORMAT:
        raise TraceError(
            f"{path} is of format {about.get('format')!r}, this version reads {FORMAT}; update emphasis, "
            "or record the trace anew"
        )
    for name, holds in _ABOUT.items():
        if name not in about or not holds(about[name]):
            raise TraceError(f"{path}: {name!r} is missing or invalid; record the trace anew")
    return Trace(Path(folder), about)
