"""The tables of `speed.py`, and the page that holds them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Row = dict[str, Any]

_TITLES = {
    "logits": "A loss of given logits",
    "linear": "The last linear layer and its loss",
    "step": "A whole training step",
}
_REFERENCES = {
    "logits": "ratio to `F.cross_entropy`",
    "linear": "ratio to `F.linear_cross_entropy`",
    "step": "ratio to `F.cross_entropy`",
}
_DEVICES = {
    "cpu": "CPU",
    "cpu-avx2": "CPU, torch and kernels with AVX2 alone",
    "cpu-default": "CPU, torch and kernels without AVX",
    "cuda": "GPU",
}
_INTRODUCTION = """\
# Speed and memory

Written by `python benchmarks/speed.py`; do not edit. `{device}.jsonl` has a line for each measurement.

Times are of a forward and a backward pass, medians over the repeats. A ratio is taken within each repeat, in which
the contenders run in turn, in an order drawn anew, for at least 20 ms each: median (least to greatest). Below 1 is
faster. Gradients were compared before anything was timed.

- `F.cross_entropy`: PyTorch's, the reference.
- CCE: `EmphasisLoss(CCE())`, the same loss through this library.
- DM: `emphasis_loss` with `DM(lam=0.5, beta=12)`; "in place" with `inplace=True`, "batch" with
  `normalization="batch"`.
- Relative: `EmphasisLoss()`, the default, which weighs by the whole batch.
- DM by autograd: what one would write without the library, `F.cross_entropy(..., reduction="none")` times a weight
  that is held constant.
- "no compiler": where the kernels cannot be had, on torch operators.
- "compiled": under `torch.compile`, whose graph holds the kernels as one operator.
- Soft labels are random rows of probabilities. One logit: `F.binary_cross_entropy_with_logits` is the reference.
- `F.linear_cross_entropy`: PyTorch's, by default and with `LinearCrossEntropyOptions`: its own choice of chunks, or 128
  tokens at a time.
- Cross-entropy in a loop: plain PyTorch, 256 tokens at a time, with a backward pass for each.

All contenders of a case see the same logits in the same memory: the output of an autograd function that copies nothing
and drops the gradient, so that in-place losses can take part and a leaf's bookkeeping is nobody's cost. It takes about
10 microseconds, which all contenders pay. Training steps have a network each, of the same initial parameters, on random
inputs.
"""
_MEMORY = """\
The most memory that one pass takes beyond what was there before it, also over the size of the logits; measured where
the logits are 8 MB or more. On the CPU: the process's high-water mark, in a process of its own, after passes to warm
up. The gradient of the logits counts; "beyond gradients" leaves out those of hidden states and weight, which any
implementation returns.
"""
_BANDWIDTH = """\
Bandwidth, if the logits are read once and the derivative is written once, and that over a copy's of the same bytes:
"""


def page(stored: Mapping[str, tuple[Sequence[Row], Mapping[str, Any]]]) -> str:
    """Return README.md. `stored`: by device, its rows and its machine."""
    devices = [device for device, (rows, _) in stored.items() if rows]
    parts = [_INTRODUCTION.format(device="` and `".join(devices) if len(devices) == 1 else "DEVICE")]
    for device in devices:
        rows, machine = stored[device]
        parts.append(f"## {_DEVICES[device]}\n")
        revisions = sorted({row["revision"] for row in rows})
        facts = {**machine, "revision": ", ".join(revisions)}
        parts.append("".join(f"- {name}: {value}\n" for name, value in facts.items() if name != "notes"))
        parts.extend(f"{note}\n" for note in machine["notes"])
        parts.append(tables(rows, device, heading="###"))
    return "\n".join(parts)


def tables(rows: Sequence[Row], device: str, heading: str = "") -> str:
    """Return all that the rows say, as tables in Markdown with or without headings."""
    parts = []
    for kind, title in _TITLES.items():
        own = [row for row in rows if row["kind"] == kind]
        timed = [row for row in own if row["contender"] != "copy"]
        if timed:
            parts += [f"{heading} {title}\n"] if heading else []
            parts.append(_times(timed, kind, device))
        if any("copy_share" in row for row in own):
            parts += [_BANDWIDTH] if heading else []
            parts.append(_bandwidths(own))
    remembered = [row for row in rows if row.get("extra_bytes") is not None]
    if remembered:
        parts += [f"{heading} Peak memory\n", _MEMORY] if heading else []
        parts.append(_memory(remembered))
    return "\n".join(parts)


def _times(rows: Sequence[Row], kind: str, device: str) -> str:
    threads = sorted({row["threads"] for row in rows})
    known = {(row["case"], row["contender"], row["threads"]): row for row in rows}
    header = ["", "contender"]
    for count in threads:
        where = "" if device == "cuda" else f", {count} thread{'s' if count > 1 else ''}"
        header += [f"time{where}", _REFERENCES[kind]]
        header += ["to the fastest cross-entropy"] if kind == "linear" else []
        header += ["mean and its standard error"] if kind == "step" else []
    lines = []
    for case, title, contender in dict.fromkeys((row["case"], row["title"], row["contender"]) for row in rows):
        line = [title, contender]
        for count in threads:
            row = known.get((case, contender, count))
            if row is None:  # not measured with so many threads
                line += ["-"] * ((len(header) - 2) // len(threads))
                continue
            line += [_seconds(row["seconds"]), _spread(row)]
            line += [_spread(row, "best_")] if kind == "linear" else []
            line += [f"{row['ratio_mean']:.3f} ± {row['ratio_error']:.3f}"] if kind == "step" else []
        lines.append(line)
    return _table(header, lines)


def _memory(rows: Sequence[Row]) -> str:
    lines = [
        [
            row["title"],
            row["contender"],
            f"{row['extra_bytes'] / 2**20:,.0f} MiB",
            f"{row['extra_over_logits']:.2f}",
            f"{row['beyond_gradients_over_logits']:.2f}" if row["kind"] == "linear" else "",
        ]
        for row in rows
    ]
    return _table(["", "contender", "extra memory", "over the logits", "beyond gradients"], lines)


def _bandwidths(rows: Sequence[Row]) -> str:
    lines = [
        [row["title"], row["contender"], f"{row['bytes_per_second'] / 1e9:,.0f} GB/s", f"{row['copy_share']:.2f}"]
        for row in rows
        if "copy_share" in row
    ]
    return _table(["", "contender", "bandwidth", "over a copy's"], lines)


def _seconds(value: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1.0 or unit == "µs":
            digits = 1 if value * scale < 100 else 0
            return f"{value * scale:.{digits}f} {unit}"
    raise AssertionError


def _spread(row: Row, prefix: str = "") -> str:
    middle, least, greatest = (row[f"{prefix}{name}"] for name in ("ratio", "ratio_min", "ratio_max"))
    if least == greatest == 1.0:
        return "1"
    return f"{middle:.2f} ({least:.2f} to {greatest:.2f})"


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown that is also one in a terminal; a first cell that repeats is left empty."""
    shown = [list(line) for line in lines]
    for line, above in zip(shown[:0:-1], shown[-2::-1], strict=True):
        if line[0] == above[0]:
            line[0] = ""
    widths = [max(map(len, column)) for column in zip(header, *shown, strict=True)]
    align: list[Callable[[str, int], str]] = [str.ljust, str.ljust, *[str.rjust] * (len(header) - 2)]

    def drawn(cells: Sequence[str]) -> str:
        return "| " + " | ".join(a(c, w) for a, c, w in zip(align, cells, widths, strict=True)) + " |\n"

    rule = "|" + "|".join("-" * (w + 1) + (":" if k > 1 else "-") for k, w in enumerate(widths)) + "|\n"
    return drawn(header) + rule + "".join(map(drawn, shown))
