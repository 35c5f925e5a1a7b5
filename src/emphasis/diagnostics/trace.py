"""Recording of the emphasis during training, in two lines of any training loop.

    trace = EmphasisTrace("runs/trace", len(data), criterion)
    for inputs, labels, indices in loader:               # indices of the examples
        logits = network(inputs)
        ...
        trace.record(indices, logits, labels)
    trace.close()

A trace is a folder. Whenever n examples have been recorded, of a data set of n, a row is written. It has the margin,
the share of its batch's emphasis and the predicted class of every example (6 to 8 bytes per example), and a few numbers
for each step. If an epoch does not show each example exactly once (drop_last, samplers), call `end_row` at its end.
Only one row is held in memory; written rows are memory-mapped.

    trace.json           description of the data and the weighting, and the number of complete rows
    labels.npy           (n,) recorded labels
    margin-R.npy         (n,) float16, u = z_y - logsumexp_{j != y} z_j, NaN if the example was not recorded
    share-R.npy          (n,) float16, weight over the mean weight of the batch
    predicted-R.npy      (n,) int16 or int32
    steps-R.npy          (T, k) float32, the quantities of `Trace.columns` for each step
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emphasis.diagnostics._stored_trace import ABOUT, FORMAT, Trace, TraceError, read_trace
from emphasis.errors import EmphasisError, EmphasisValueError
from emphasis.files import naming_refusals, replacing, write_text
from emphasis.torch import EmphasisLoss
from emphasis.torch._autograd import lead_of, log_weight_of, margin_and_others
from emphasis.torch.functional import resolve
from emphasis.weighting import MaxMargin, WeightingLike

__all__ = ["ABOUT", "EmphasisTrace", "Trace", "TraceError", "read_trace"]

_STEP = ("effective_share", "mean_weight", "emphasis_variance")
_LARGEST = 65504.0  # largest finite float16


class EmphasisTrace:
    """Records a training; the module's documentation shows the loop, and `read_trace` reads the result.

    Args:
        folder: Folder of the trace, created if it does not exist.
        num_examples: Number of examples n; indices are in [0, n).
        weighting: The criterion, an `EmphasisLoss`, or a weighting as accepted by `emphasis_loss`.
        max_margin: As in `emphasis_loss`. If `weighting` is an `EmphasisLoss`, its max_margin, class_weight and
            ignore_index are used.
        subsets: Names and masks (n,) of examples whose share of the emphasis is recorded for each step, such as
            {"flagged": mask}.
        ignore_index: Label of examples that are ignored.
        resume: Whether to continue after the existing rows. If False, the folder must not hold a trace.

    Raises:
        TraceError: The folder holds a trace and `resume` is False, or the trace is of another number of examples, other
            subsets or another weighting.
        ValueError: A mask has another shape.

    Examples:
        >>> import torch
        >>> from emphasis.diagnostics.trace import EmphasisTrace, read_trace
        >>> from emphasis.torch import EmphasisLoss
        >>> criterion, labels = EmphasisLoss(), torch.arange(6) % 3
        >>> with EmphasisTrace("trace", 6, criterion) as trace:
        ...     for indices in torch.arange(6).split(2):  # one epoch in three batches
        ...         trace.record(indices, torch.zeros(2, 3), labels[indices])
        >>> read = read_trace("trace")
        >>> len(read.margins), read.labels.tolist()
        (1, [0, 1, 2, 0, 1, 2])
    """

    def __init__(
        self,
        folder: str | Path,
        num_examples: int,
        weighting: WeightingLike | EmphasisLoss,
        *,
        max_margin: MaxMargin = "auto",
        subsets: Mapping[str, Any] | None = None,
        ignore_index: int = -100,
        resume: bool = False,
    ) -> None:
        if isinstance(num_examples, bool) or not hasattr(num_examples, "__index__") or num_examples < 1:
            raise EmphasisValueError(f"num_examples={num_examples!r} is not allowed; use a whole number >= 1")
        num_examples = int(num_examples)
        self.folder = Path(folder)
        self.num_examples = num_examples
        self.ignore_index = ignore_index
        self._class_weight: Tensor | None = None
        if isinstance(weighting, EmphasisLoss):
            self._options, self._class_weight = weighting.options, weighting.class_weight
            self.ignore_index = weighting.ignore_index
        else:
            self._options = resolve(weighting, None, "sum", max_margin, None)
        try:
            self._weighting_state: Any = self._options.weighting.to_dict()
        except EmphasisError:  # a function without a name to import it by
            self._weighting_state = repr(self._options.weighting)
        self._subsets = {name: torch.as_tensor(mask, dtype=torch.bool) for name, mask in (subsets or {}).items()}
        for name, mask in self._subsets.items():
            if mask.shape != (num_examples,):
                raise EmphasisValueError(
                    f"subset {name!r} has shape {tuple(mask.shape)}; its mask must be ({num_examples},)"
                )
        self._columns = [
            *_STEP,
            *(f"{quantity} {name}" for name in self._subsets for quantity in ("share of", "part of")),
        ]
        self._num_classes = 0
        self._row: dict[str, Tensor] = {}
        self._steps: list[Tensor] = []
        self._recorded = 0
        self.rows = self._open(resume)

    def _open(self, resume: bool) -> int:
        """Return the number of existing rows."""
        if not (self.folder / ABOUT).exists():
            with naming_refusals("write to", self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            return 0
        if not resume:
            raise TraceError(
                f"{self.folder} holds a trace already; choose another folder, delete it, or give resume=True"
            )
        about = read_trace(self.folder).about
        expected = {
            "num_examples": self.num_examples,
            "columns": self._columns,
            "weighting": json.loads(json.dumps(self._weighting_state)),
        }
        for name, value in expected.items():
            if about[name] != value:
                raise TraceError(
                    f"{self.folder} holds a trace with {name} = {about[name]}, not {value}; choose another folder"
                )
        self._num_classes = about["num_classes"]
        return int(about["rows"])

    @torch.no_grad()
    def record(self, indices: Any, logits: Tensor, labels: Any, sample_weight: Any = None) -> None:
        """Record the batch of a step, without synchronizing with an accelerator.

        Args:
            indices: (N,) integer indices of the examples.
            logits: (N, C), or (N,) in the binary form with one logit.
            labels: (N,) integer labels.
            sample_weight: (N,) weights >= 0, if they are given to the loss.

        Raises:
            ValueError: The shapes do not match, or labels or indices are not integers; on the CPU also if an index or a
                label is out of range, or a logit is not finite.
        """
        indices, labels = torch.as_tensor(indices), torch.as_tensor(labels)
        if labels.is_floating_point() or indices.is_floating_point():
            raise EmphasisValueError(f"indices and labels must be integers, got {indices.dtype} and {labels.dtype}")
        if logits.ndim == 1:
            logits = torch.stack((torch.zeros_like(logits), logits), 1)
        if logits.ndim != 2 or labels.shape != logits.shape[:1] or indices.shape != labels.shape:
            raise EmphasisValueError(
                f"need indices (N,), logits (N, C) and labels (N,); got {tuple(indices.shape)}, "
                f"{tuple(logits.shape)} and {tuple(labels.shape)}"
            )
        if self._num_classes not in (0, logits.shape[1]):
            raise EmphasisValueError(
                f"logits of {logits.shape[1]} classes, but the rows before are of {self._num_classes}"
            )
        device = logits.device
        indices, labels = indices.to(device, torch.int64), labels.to(device, torch.int64)
        if device.type == "cpu":
            self._check(indices, logits, labels)
        valid = labels != self.ignore_index
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        index = torch.where(valid, labels, 0).unsqueeze(1)
        margin, others, _ = margin_and_others(wide, index, 1)
        lead = lead_of(wide, index, others, 1)
        share = valid.to(margin.dtype)
        if self._class_weight is not None:
            share = share * self._class_weight.to(device)[torch.where(valid, labels, 0)]
        if sample_weight is not None:
            share = share * torch.as_tensor(sample_weight).to(share)
        log_w = log_weight_of(margin, lead, wide, share.unsqueeze(1), self._options).squeeze(1)
        margin, log_w = margin.squeeze(1), torch.where(valid, log_w + share.log(), -math.inf)
        count = valid.sum().to(log_w.dtype).clamp(min=1.0)
        relative = torch.softmax(log_w, 0).nan_to_num(0.0) * count  # NaN where all weights are 0
        self._note_step(indices, log_w, relative, valid, count)

        row = self._row or self._new_row(device, logits.shape[1])
        recorded = {
            "margin": margin.clamp(-_LARGEST, _LARGEST),
            "share": relative.clamp(max=_LARGEST),
            "predicted": logits.argmax(1),
            "labels": labels,
        }
        for name, values in recorded.items():
            before = row[name][indices]
            row[name][indices] = torch.where(valid, values.to(row[name].dtype), before)
        self._recorded += len(indices)
        if self._recorded >= self.num_examples:
            self.end_row()

    def _note_step(self, indices: Tensor, log_w: Tensor, relative: Tensor, valid: Tensor, count: Tensor) -> None:
        """Record the numbers of a step, from log w and the weights over their mean; 0 where all weights are 0."""
        spread = torch.where(valid, relative - 1.0, 0.0).square().sum() / count  # squared coefficient of variation
        mean = (torch.logsumexp(log_w, 0) - count.log()).exp()
        numbers = [torch.where(mean > 0.0, 1.0 / (1.0 + spread), 0.0), mean, mean * mean * spread]
        for name, mask in self._subsets.items():
            mask_on_device = self._subsets[name] = mask.to(log_w.device)
            inside = mask_on_device[indices] & valid
            numbers += [(relative * inside).sum() / count, inside.sum() / count]
        self._steps.append(torch.stack(numbers).float())

    def _check(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        if not len(labels):
            return
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= self.num_examples:
            raise EmphasisValueError(f"indices reach from {low} to {high}; they must be in [0, {self.num_examples})")
        wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= logits.shape[1]))
        if bool(wrong.any()):
            raise EmphasisValueError(f"label {int(labels[wrong][0])} is not in [0, {logits.shape[1]})")
        bad = ~logits.isfinite().all(1)
        if bool(bad.any()):
            raise EmphasisValueError(
                f"logits of example {int(indices[bad][0])} are NaN or infinite; the network has diverged"
            )

    def _new_row(self, device: torch.device, num_classes: int) -> dict[str, Tensor]:
        n = self.num_examples
        classes = torch.int16 if num_classes <= torch.iinfo(torch.int16).max else torch.int32
        self._row = {
            "margin": torch.full((n,), math.nan, dtype=torch.float16, device=device),
            "share": torch.full((n,), math.nan, dtype=torch.float16, device=device),
            "predicted": torch.zeros(n, dtype=classes, device=device),
            "labels": torch.full((n,), self.ignore_index, dtype=torch.int64, device=device),
        }
        self._num_classes = num_classes
        return self._row

    def end_row(self) -> None:
        """Write the examples recorded since the last row, if there are any, as a row."""
        if not self._recorded:
            return
        row = {name: values.cpu().numpy() for name, values in self._row.items()}
        labels = row.pop("labels")
        steps = torch.stack(self._steps).cpu().numpy()
        known = self.folder / "labels.npy"
        if self.rows and known.exists():
            labels = np.where(labels == self.ignore_index, np.load(known), labels)
        _save(known, labels)
        for name, values in {**row, "steps": steps}.items():
            _save(self.folder / f"{name}-{self.rows:05d}.npy", values)
        self.rows += 1
        about = {
            "format": FORMAT,
            "num_examples": self.num_examples,
            "num_classes": self._num_classes,
            "rows": self.rows,
            "weighting": self._weighting_state,
            "columns": self._columns,
            "ignore_index": self.ignore_index,
        }
        write_text(self.folder / ABOUT, json.dumps(about, indent=1) + "\n")
        self._row, self._steps, self._recorded = {}, [], 0

    def close(self) -> None:
        """Write the last, incomplete row, if there is one."""
        self.end_row()

    def __enter__(self) -> EmphasisTrace:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _save(path: Path, values: NDArray[Any]) -> None:
    with replacing(path) as partial, partial.open("wb") as file:
        np.save(file, values)
