"""`emphasis audit`: find labels that look wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.audit_export import check_export, check_output_table, export
from emphasis.cli.data_options import (
    add_own_data_options,
    requested_data_recipe,
    requested_reading,
    requested_table_options,
)
from emphasis.cli.executor_options import (
    add_executor_options,
    add_locks_option,
    add_tracking_options,
    requested_tracking,
)
from emphasis.cli.options import (
    RESUMES,
    Command,
    UsageError,
    add_accelerator_option,
    add_network_options,
    add_no_progress_option,
    name_or_path_argument,
    path_argument,
    requested_context,
)
from emphasis.cli.output import print_notes
from emphasis.cli.weightings import weighting_from_text

if TYPE_CHECKING:
    from rich.console import Console

    from emphasis.experiments.studies.audit_result import Audit
    from emphasis.experiments.tracking.tracking import Tracking

_MAX_SUSPECTS_SHOWN, _MAX_SUSPECTS_IN_JSON, _MAX_COLUMNS_SHOWN = 10, 100, 5

_SETTLED = (
    "label",
    "probabilities",
    "features",
    "images",
    "size",
    "channels",
    "only",
    "noise_rate",
    "weighting",
    "iterations",
    "settings",
    "export",
    "track",
)
"""The options about data or training."""

_DESCRIPTION = """\
Find labels that look wrong: train one network on all of them with a weighting that is robust to
wrong labels, and rank the labels by the network's predictions during training (for a table, by a
forest's predictions as well). The output folder contains audit.html (the most suspicious examples),
suspects.csv (every example ranked, with a suggested label and a sample weight) and audit.json. The
same command resumes an audit that was stopped; if the data has changed, it starts again."""

_EXAMPLES = """\
examples:
  emphasis audit digits                         a recipe's data, whose wrong labels are known
  emphasis audit customers.csv --label churned
  emphasis audit customers.csv --label churned --drop id --export cleaned.csv
  emphasis audit customers.csv --label churned --probabilities p.npy
  emphasis audit photos --features embeddings.npy
  emphasis audit photos                         a folder with a folder of images for each class
  emphasis audit photos.csv --label kind --images path
  emphasis audit runs/parts/predictions         out-of-fold probabilities in several Parquet files
  emphasis audit runs/trace                     a trace that EmphasisTrace recorded in your own loop"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        type=name_or_path_argument,
        metavar="DATA",
        help="a table (.csv, .parquet), a folder of images, a recipe's name or file, the folder of a trace, or a "
        "folder of Parquet files with columns of labels (given) and out-of-fold probabilities (p_CLASS)",
    )
    training = parser.add_argument_group("training")
    training.add_argument(
        "--weighting", metavar="TEXT", help='weighting of the loss, such as "GCE q=0.7" (default: Relative)'
    )
    add_network_options(training)
    training.add_argument(
        "--probabilities",
        type=path_argument,
        metavar="FILE",
        help="do not train, but rank the labels by these out-of-sample probabilities of another model: .npy, .npz, "
        ".parquet or .csv, with a column for each class, named after it or in the order of the classes",
    )
    training.add_argument(
        "--features",
        type=path_argument,
        metavar="FILE",
        help="predict the classes from these features of another model instead, by cross-validation: .npy, .npz, "
        ".parquet or .csv, with a row for each example",
    )
    add_accelerator_option(parser.add_argument_group("machine"))
    add_locks_option(add_executor_options(parser))
    add_tracking_options(parser)
    add_own_data_options(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", type=path_argument, metavar="DIR", help="output folder (default: runs/NAME-audit)")
    output.add_argument(
        "--suspects", type=path_argument, metavar="FILE", help="also write the ranking to this file (.csv, .parquet)"
    )
    output.add_argument(
        "--export",
        type=path_argument,
        metavar="FILE",
        help="also write the table with cleaned labels and sample weights to this file (.csv, .parquet)",
    )
    output.add_argument("--force", action="store_true", help="start again, and replace what the folder holds")
    add_no_progress_option(output)


def _audit(options: argparse.Namespace) -> None:
    from rich.console import Console

    from emphasis.experiments.reports.audit_page import audit_page
    from emphasis.experiments.runs.store import finished_rows
    from emphasis.experiments.studies import audit as audits
    from emphasis.experiments.studies.audit_result import PAGE, suspects_table, write_audit
    from emphasis.experiments.studies.parts_audit import parts_in
    from emphasis.rich_text import plain

    console = Console()
    source, tracking = Path(options.source), None
    if options.suspects is not None:
        check_output_table("suspects", options.suspects)
    if options.export is not None:
        check_export(options)
    if files := parts_in(source):
        _audit_parts(options, files)
        return
    if audits.is_trace(source):
        _check_trace_options(options)
        folder = options.folder = options.out or source
        result = audits.audit_trace(source)
    elif options.probabilities is not None or options.features is not None:
        result, folder = _rank_by_file(options)
    else:
        result, folder, tracking = _train(options)
    values = _shown_columns(options) if options.label else {}
    write_audit(result, folder, lambda audit: audit_page(audit, ["emphasis", *sys.argv[1:]], values))
    if tracking is not None:
        tracking.finish(finished_rows(folder).values(), [folder / PAGE])
    if options.suspects is not None:
        import pandas as pd

        from emphasis.datasets.table import write_table

        write_table(pd.DataFrame(suspects_table(result)), options.suspects)
    if options.export is not None:
        export(options, result)
    options.result = {
        "folder": folder,
        "title": result.title,
        **result.numbers,
        "most_suspicious": [_row(result, int(index)) for index in result.suspects.order[:_MAX_SUSPECTS_IN_JSON]],
        "notes": list(result.notes),
    }
    _print_result(result, folder, console)
    if options.suspects is not None:
        console.print(plain(f"The ranking: {options.suspects}"))
    if options.export is not None:
        console.print(plain(f"The table with cleaned labels and weights: {options.export}"))


def _audit_parts(options: argparse.Namespace, files: Sequence[Path]) -> None:
    """Rank the labels in files with their probabilities, one file at a time."""
    from rich.console import Console

    from emphasis.cli.progress import JobBar
    from emphasis.experiments.studies.parts_audit import FOLDER, audit_parts
    from emphasis.rich_text import plain

    _reject_settled(options, [*_SETTLED, "suspects"], "files of probabilities: each gets a file of suspects")
    source = Path(options.source)
    name = source.resolve().parent.name if source.name == "predictions" else source.resolve().name
    folder = options.folder = options.out or Path("runs") / f"{name}-audit"
    with JobBar(options) as bar:
        result = audit_parts(files, folder, f"{len(files):,} files in {source}", bar.loading)
    options.result = {
        "folder": folder,
        "title": result.title,
        **result.numbers,
        "most_suspicious": [
            {key: row[key] for key in ("row", "source", "given", "suggested", "score")}
            for row in result.most_suspicious[:_MAX_SUSPECTS_IN_JSON]
        ],
        "notes": [],
    }
    console = Console()
    shown = [{**row, "source": f"{row['source']}, row {row['row']}"} for row in options.result["most_suspicious"]]
    _print_ranking(result.title, result.numbers, shown, console)
    console.print(plain(f"Written to {folder}: {FOLDER} (a file for each file), suspects.csv (the first), audit.json"))


def _check_trace_options(options: argparse.Namespace) -> None:
    """Reject options about data or training, which a trace has settled."""
    _reject_settled(options, _SETTLED, f"a trace: {options.source} holds what was trained")


def _reject_settled(options: argparse.Namespace, names: Sequence[str], where: str) -> None:
    for name in [*requested_table_options(options), *names]:
        if getattr(options, name) not in (None, []):
            flag = {"settings": "set", "id_column": "id"}.get(name, name.replace("_", "-"))
            raise UsageError(f"--{flag} has no meaning for {where}")


def _rank_by_file(options: argparse.Namespace) -> tuple[Audit, Path]:
    """Rank the labels by the probabilities or features in a file, and return the audit and the output folder."""
    from emphasis.cli.progress import JobBar
    from emphasis.datasets.table import TableOptions
    from emphasis.datasets.table_report import in_shell
    from emphasis.experiments.studies.audit import audit_recipe
    from emphasis.experiments.studies.file_audit import (
        audit_split_by_file,
        audit_table_by_file,
        by_features,
        by_probabilities,
    )
    from emphasis.weighting import DEFAULT_WEIGHTING

    if options.probabilities is not None and options.features is not None:
        raise UsageError("--probabilities and --features do not go together: labels are ranked by one of them")
    settled = ["iterations", "settings", "track"]
    if options.probabilities is not None:
        settled.append("weighting")
        reason = "is for training; with --probabilities nothing is trained"
    else:
        reason = "has no meaning with --features: small networks of a fixed kind predict the classes"
    for name in settled:
        if getattr(options, name) not in (None, []):
            raise UsageError(f"--{'set' if name == 'settings' else name} {reason}")
    if options.probabilities is not None:
        rank = by_probabilities(options.probabilities)
    else:
        rank = by_features(
            options.features, None if options.weighting is None else weighting_from_text(options.weighting)
        )
    source = Path(options.source)
    if options.label is not None and options.images is None and options.noise_rate is None:
        table_options = TableOptions.of(**requested_table_options(options))
        result = audit_table_by_file(source, options.label, rank, table_options)
        print_notes(options, [in_shell(note) for note in result.notes])
        return result, options.out or Path("runs") / f"{source.stem}-{options.label}-audit"
    context = requested_context(options, workers=1)
    with JobBar(options) as bar:
        recipe, split = audit_recipe(
            requested_data_recipe(options),
            DEFAULT_WEIGHTING,
            context,
            bar,
            condition=options.only or "",
            noise_rate=options.noise_rate,
        )
    return audit_split_by_file(recipe, split, rank), options.out or Path("runs") / recipe.name


def _train(options: argparse.Namespace) -> tuple[Audit, Path, Tracking | None]:
    """Train a network on the data, and return the audit, the output folder, and what records it, if anything."""
    from emphasis.cli.progress import JobBar
    from emphasis.experiments.studies import audit as audits
    from emphasis.weighting import DEFAULT_WEIGHTING

    recipe = requested_data_recipe(options)
    weighting = DEFAULT_WEIGHTING if options.weighting is None else weighting_from_text(options.weighting)
    context = requested_context(options, workers=1)
    with JobBar(options) as bar:
        one_network, split = audits.audit_recipe(
            recipe,
            weighting,
            context,
            bar,
            condition=options.only or "",
            noise_rate=options.noise_rate,
            iterations=options.iterations,
        )
        folder = options.folder = options.out or Path("runs") / one_network.name
        tracking = requested_tracking(options, bar, folder, one_network.name)
        result = audits.audit(one_network, split, folder, context, tracking or bar, force=options.force)
    return result, folder, tracking


def _shown_columns(options: argparse.Namespace) -> Mapping[str, Sequence[Any]]:
    """Return the table's first columns besides the label, to show them on the page, by rows in the file."""
    from emphasis.datasets.table_source import open_table

    table = open_table(options.source, requested_reading(options))
    names = [name for name in table.frame.columns if name != options.label][:_MAX_COLUMNS_SHOWN]
    columns = table.frame[names].set_axis(table.rows, axis=0).reindex(range(table.total))
    return {name: columns[name].tolist() for name in names}


def _print_result(result: Audit, folder: Path, console: Console) -> None:
    from emphasis.experiments.studies.audit_result import AUDIT, PAGE, SUSPECTS
    from emphasis.rich_text import plain

    numbers = result.numbers
    rows = [_row(result, int(index)) for index in result.suspects.order[:_MAX_SUSPECTS_SHOWN]]
    _print_ranking(result.title, numbers, rows, console)
    if "auroc" in numbers:
        console.print(
            plain(
                f"Known here: {100 * numbers['true_noise_rate']:.1f} % are wrong; precision of the suspects "
                f"{numbers['precision']:.3f}, recall {numbers['recall']:.3f}; AUROC of the ranking "
                f"{numbers['auroc']:.4f}, average precision {numbers['average_precision']:.4f}"
            )
        )
    console.print(plain(f"Written to {folder}: {PAGE}, {SUSPECTS}, {AUDIT}"))


def _print_ranking(title: str, numbers: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], console: Console) -> None:
    """Print how many labels look wrong, and the most suspicious of them."""
    from rich import box

    from emphasis.rich_text import PlainTable, plain

    share = f"{100 * numbers['estimated_noise_rate']:.1f} %"
    count = f"{numbers['suspects']:,} of {numbers['examples']:,} labels ({share}) look wrong"
    console.print(plain(f"{title}: {count}", style="bold"))
    numbered = "" if rows and rows[0]["source"] else " (rows are numbered from 0)"
    heading = f"The most suspicious{numbered}"
    table = PlainTable(box=box.SIMPLE_HEAD, padding=(0, 1), title=heading, title_justify="left")
    for name in ("Row", "Given", "Suggested", "Score"):
        table.add_column(name, justify="right" if name in ("Row", "Score") else "left")
    for row in rows[:_MAX_SUSPECTS_SHOWN]:
        table.add_row(row["source"] or str(row["row"]), row["given"], row["suggested"], f"{row['score']:.2f}")
    console.print(table)


def _row(result: Audit, index: int) -> dict[str, Any]:
    """Return what is said about one label."""
    return {
        "row": int(result.rows[index]),
        "source": result.sources[index] if result.sources else "",
        "given": result.name_of(result.labels[index]),
        "suggested": result.name_of(result.suspects.suggested[index]),
        "score": float(result.suspects.score[index]),
    }


COMMANDS = [
    Command(
        name="audit",
        summary="find labels that look wrong",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_audit,
        extras=("experiments", "table", "text"),
        json_keys={
            "folder": "output folder, with the full ranking in suspects.csv",
            "title": "title of the data",
            "examples": "number of labels",
            "classes": "number of classes",
            "suspects": "number of labels that look wrong",
            "estimated_noise_rate": "their share",
            "true_noise_rate": "share of wrong labels, if it is known; so are the next four",
            "auroc": "area under the ROC curve of the ranking",
            "average_precision": "average precision of the ranking",
            "precision": "share of the suspects that are wrong",
            "recall": "share of the wrong labels that are suspects",
            "most_suspicious": f"the first {_MAX_SUSPECTS_IN_JSON} labels: `row`, `source`, `given`, `suggested` and "
            "`score`",
            "notes": "observations about the data",
        },
        resume_hint=RESUMES,
    )
]
