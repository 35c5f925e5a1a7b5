"""What `emphasis fit` and `predict` print and write, for tables and for images."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.options import TABLE_SUFFIXES, UsageError
from emphasis.cli.output import check_json_target
from emphasis.texts import visible

if TYPE_CHECKING:
    from rich.console import Console

    from emphasis.experiments.tracking.tracking import Tracking
    from emphasis.images.result import ImageFit
    from emphasis.tabular.predict import Predictions
    from emphasis.tabular.result import Fit

_RECORDED = ("report.html", "metrics.json")  # files of a fit that trackers keep


def fit_result(result: Fit | ImageFit, label: str, notes: Sequence[str]) -> dict[str, Any]:
    """Return what `emphasis fit --json` prints."""
    return {
        "folder": result.folder,
        "label": label,
        "model": result.request["model"],
        "rows": len(result.given),
        "classes": result.classes,
        "scores": result.scores,
        "notes": notes,
    }


def record_fit(tracking: Tracking | None, request: Mapping[str, Any], scores: Mapping[str, Any], folder: Path) -> None:
    """Record a fit in the tracker that the options asked for, if any: its methods, and its files."""
    if tracking is not None:
        from emphasis.experiments.tracking.fits import rows_of_fit

        tracking.finish(
            rows_of_fit(request, scores), [path for path in sorted(folder.iterdir()) if path.name in _RECORDED]
        )


def print_scores(scores: Mapping[str, Any], title: str, console: Console) -> None:
    """Print the scores of each method and, if two are compared, their differences with the intervals that are known."""
    from rich import box

    from emphasis.comparison import CONFIDENCE
    from emphasis.rich_text import PlainTable
    from emphasis.scores import METRICS

    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, title=title, title_justify="left")
    differences = scores.get("difference", {})
    methods = list(scores["methods"])
    is_wide = len(methods) > 2  # it fits into 80 columns if titles and names take two lines
    table.add_column("Score", no_wrap=not is_wide, width=9 if is_wide else None)
    for name in ("Weighting", "Cross-entropy", *methods[2:]) if differences else methods:
        heading = name.replace("-", "-\n", 1).replace(" ", "\n", 1) if is_wide else name
        table.add_column(heading, justify="right", min_width=max(map(len, heading.split("\n"))))
    for heading in ("Difference", f"{100 * CONFIDENCE:.0f} % interval", "") if differences else ():
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for key, metric in METRICS.items():
        cells = [f"{values[key]['value']:.3f}" for values in scores["methods"].values()]
        if differences:
            difference = differences[key]
            value, *interval = (_signed(difference[part]) for part in ("value", "low", "high") if part in difference)
            result = difference.get("result", "unclear")
            cells += [value, ", ".join(interval), "" if result == "unclear" else result]
        table.add_row(metric.title, *cells)
    console.print(table, width=max(80, console.width), crop=False, no_wrap=True)


def _signed(value: float) -> str:
    return f"{value + 0.0:+.3f}"  # an interval up to -0.0002 excludes 0, and reads "-0.000"; 0 itself has no minus


def print_fit(result: Fit | ImageFit, console: Console) -> None:
    """Print the scores of a fit, and where it was written."""
    from emphasis.rich_text import plain

    scores = result.scores
    console.print(plain(f"{result.request['model']}, weighting {result.weighting!r}"))
    print_scores(scores, f"Held-out rows, {result.request['folds']} folds", console)
    if "verdict" in scores:
        console.print(plain(scores["verdict"]["headline"], style="bold"))
        for warning in scores["verdict"]["warnings"]:
            console.print(plain(f"warning: {warning}"))
    for name, method in result.calibration.items():
        console.print(plain(f"Probabilities of {name} are calibrated ({method}, on held-out rows)."))
    labels = result.request.get("reviewed")
    labels = f"reviewed labels: {labels}" if labels else "labels as given, including wrong ones"
    console.print(plain(f"Evaluated on the {labels}."), style="dim")
    console.print(plain(f"Written to {result.folder}: report.html, {result.predictions_name}, metrics.json, model"))
    console.print(plain(f"Predict others with: emphasis predict {shlex.quote(str(result.folder))} NEW"))


def predictions_file(options: argparse.Namespace, source: Path) -> Path:
    """Return the file to write predictions to, "-" for the standard output.

    Raises:
        UsageError: If the file is not allowed.
    """
    check_json_target(options)
    if str(options.out) == "-":
        return Path("-")
    suffix = source.suffix if source.suffix.lower() in TABLE_SUFFIXES else ".csv"
    out: Path = options.out or source.with_name(f"{source.stem}-predicted{suffix}")
    if out.suffix.lower() not in TABLE_SUFFIXES:
        raise UsageError(f"--out {out} is not allowed; use a name that ends in .csv or .parquet, or - for the screen")
    if out.resolve() == source.resolve():
        raise UsageError("--out is the table itself; choose another file")
    return out


def write_predictions(
    predictions: Predictions,
    out: Path,
    options: argparse.Namespace,
    label: str,
    label_source: str,
    classes: Sequence[str],
) -> None:
    """Write predictions and print notes and accuracy.

    Args:
        predictions: The predictions.
        out: The file, from `predictions_file`.
        options: The options of the command, whose result is set.
        label: Name of what is predicted.
        label_source: Where the labels come from that the accuracy is measured by.
        classes: Names of the classes.
    """
    from emphasis.datasets.table import write_table
    from emphasis.datasets.table_report import in_shell

    to_screen = str(out) == "-"
    if to_screen:
        predictions.frame.to_csv(sys.stdout, index=False)
    else:
        write_table(predictions.frame, out)
    messages = sys.stderr if to_screen else sys.stdout
    notes, accuracy = [in_shell(note) for note in predictions.notes], predictions.accuracy_lines(label_source)
    for line in [*([] if options.quiet else [f"note: {note}" for note in notes]), *accuracy]:
        print(visible(line), file=messages)
    options.result = {
        "file": out if not to_screen else options.out,
        "rows": len(predictions.frame),
        "label": label,
        "classes": classes,
        "labeled": int(predictions.labeled.sum()),
        "correct": int(predictions.correct.sum()),
        "accuracy": accuracy,
        "notes": notes,
    }
    if not to_screen:
        print(visible(f"{len(predictions.frame)} rows predicted: {out}"))
