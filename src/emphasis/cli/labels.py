"""`emphasis labels`: export and import of the decisions of a review."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emphasis.cli.options import TABLE_SUFFIXES, Command, UsageError, path_argument

if TYPE_CHECKING:
    from emphasis.review.decisions import Decisions
    from emphasis.review.examples import Examples

_MAX_SHOWN = 20

_DESCRIPTION = """\
Use the decisions of a review. `export` writes the cleaned labels, or tasks for Label Studio or
Argilla, or lists images that belong in the folder of another class; with --apply it moves them,
and `undo` moves them back. `import` adds the answers of Label Studio or Argilla to the decisions.
`agree` reports the agreement of the reviewers."""

_EXAMPLES = """\
examples:
  emphasis labels export runs/customers-churned-audit --out cleaned.csv
  emphasis labels export runs/photos-audit --format moves             only lists the moves
  emphasis labels export runs/photos-audit --format moves --apply     moves the files
  emphasis labels undo runs/photos-audit/moves-20260101T120000000000.jsonl
  emphasis labels export runs/photos-audit --format label-studio --out tasks.json
  emphasis labels import runs/photos-audit answers.json --format label-studio
  emphasis labels agree runs/photos-audit"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("export", "import", "agree", "undo"), help="what to do")
    parser.add_argument(
        "audit", type=path_argument, metavar="AUDIT", help="the folder of an audit or, for undo, the journal of moves"
    )
    parser.add_argument("answers", type=path_argument, nargs="?", metavar="FILE", help="for import: the answers (JSON)")
    parser.add_argument(
        "--format",
        choices=("table", "moves", "label-studio", "argilla"),
        default="table",
        help="what export writes: a table (default), moves of images, or tasks for a tool; for import, the tool",
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="file to write (.csv, .parquet; tasks: .json)"
    )
    parser.add_argument(
        "--decisions",
        type=path_argument,
        nargs="+",
        default=[],
        metavar="FILE",
        help="decisions to use (default: decisions.jsonl in the audit's folder)",
    )
    parser.add_argument("--all", action="store_true", help="write tasks for all examples, not only for suspects")
    moving = parser.add_mutually_exclusive_group()
    moving.add_argument("--apply", action="store_true", help="move the files")
    moving.add_argument("--dry-run", action="store_true", help="only list the moves (default)")


def _labels(options: argparse.Namespace) -> None:
    if options.action == "undo":
        from emphasis.review.export import undo_moves

        print(f"{undo_moves(options.audit):,} files were moved back")
        return
    from emphasis.review.examples import read_examples

    if options.answers is not None and options.action != "import":
        raise UsageError(f"emphasis labels {options.action} takes one folder, and no {options.answers}")
    if options.apply and (options.action, options.format) != ("export", "moves"):
        raise UsageError("--apply is for emphasis labels export --format moves")
    examples = read_examples(options.audit)
    if options.action == "import":
        _import(options, examples)
    elif options.action == "agree":
        _agree(_read_decisions(options))
    elif options.format == "moves":
        _move(options, examples)
    elif options.format == "table":
        _export_table(options, examples)
    else:
        _export_tasks(options, examples)


def _read_decisions(options: argparse.Namespace) -> Decisions:
    from emphasis.review.decisions import Decisions

    return Decisions.read(*(options.decisions or [options.audit]))


def _export_table(options: argparse.Namespace, examples: Examples) -> None:
    from emphasis.datasets.table import write_table
    from emphasis.review.export import labels_frame, outcomes_by_index

    out = _out_file(options, TABLE_SUFFIXES)
    if examples.data.get("kind") == "table" and out.resolve() == Path(examples.data["file"]).resolve():
        raise UsageError("--out is the table itself; choose another file")
    decisions = _read_decisions(options)
    write_table(labels_frame(examples, decisions), out)
    statuses = [outcome.status for outcome in outcomes_by_index(examples, decisions).values()]
    counts = ", ".join(f"{statuses.count(name):,} {name}" for name in ("corrected", "confirmed", "unsure", "disputed"))
    print(f"{counts} of {len(examples):,} labels; written to {out}")


def _export_tasks(options: argparse.Namespace, examples: Examples) -> None:
    from emphasis.review.tasks import write_tasks
    from emphasis.review.views import views_of

    out = _out_file(options, (".json",))
    views = views_of(examples)
    indices = [int(index) for index in examples.order if options.all or examples.suspect[index]]
    texts = {} if examples.data.get("kind") == "images" else {index: views.text(index) for index in indices}
    write_tasks(options.format, examples, indices, texts, out)
    config = (
        f", and the labeling configuration to {out.with_suffix('.xml')}" if options.format == "label-studio" else ""
    )
    print(f"{len(indices):,} tasks written to {out}{config}")


def _import(options: argparse.Namespace, examples: Examples) -> None:
    from emphasis.review.decisions import DECISIONS, DecisionLog
    from emphasis.review.tasks import FORMATS, read_answers

    if options.answers is None or options.format not in FORMATS:
        raise UsageError("name the file of answers and its format: emphasis labels import AUDIT FILE --format argilla")
    if len(options.decisions) > 1:
        raise UsageError("emphasis labels import adds to one file of decisions")
    answers = read_answers(options.format, options.answers, examples)
    log = DecisionLog(options.decisions[0] if options.decisions else options.audit / DECISIONS)
    known = {(old.example, old.reviewer): (old.action, old.after) for old in log.refresh()}
    added = [new for new in answers if known.get((new.example, new.reviewer)) != (new.action, new.after)]
    if added:
        log.append(added)
    print(f"{len(added):,} decisions added to {log.path}; {len(answers) - len(added):,} were there already")


def _agree(decisions: Decisions) -> None:
    pairs = decisions.agree()
    if not pairs:
        print(f"{len(decisions):,} decisions; agreement needs those of two reviewers")
    for pair in pairs:
        first, second = pair.reviewers
        kappa = f"Cohen's kappa {pair.kappa:.2f}" if pair.kappa == pair.kappa else "Cohen's kappa is not defined"
        shared = f", {100 * pair.observed:.0f} % alike, {kappa}" if pair.both else ""
        print(f"{first or 'unnamed'} and {second or 'unnamed'}: {pair.both:,} examples in common{shared}")
        for example in pair.disagreements[:_MAX_SHOWN]:
            print(f"  differ: {example}")
        if len(pair.disagreements) > _MAX_SHOWN:
            print(f"  and {len(pair.disagreements) - _MAX_SHOWN:,} more")


def _move(options: argparse.Namespace, examples: Examples) -> None:
    from emphasis.review.export import apply_moves, image_folder, plan_moves

    moves = plan_moves(examples, _read_decisions(options))
    folder = image_folder(examples)
    shown = moves if options.out is None else []
    for move in shown:
        print(f"{move.source} -> {move.target}")
    if options.out is not None:
        import pandas as pd

        from emphasis.datasets.table import write_table

        write_table(pd.DataFrame({"from": [m.source for m in moves], "to": [m.target for m in moves]}), options.out)
    if not moves:
        print("no label of an image was corrected")
    elif options.apply:
        journal = apply_moves(moves, folder, options.audit)
        print(f"{len(moves):,} files were moved in {folder}; to move them back: emphasis labels undo {journal}")
    else:
        print(f"{len(moves):,} files would be moved in {folder}; --apply moves them")


def _out_file(options: argparse.Namespace, suffixes: tuple[str, ...]) -> Path:
    out = options.out
    if out is None or out.suffix.lower() not in suffixes:
        raise UsageError(f"name the file to write with --out, ending in {' or '.join(suffixes[:2])}")
    return Path(out)


COMMANDS = [
    Command(
        name="labels",
        summary="export, import and compare decisions about labels",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_labels,
        extras=("review", "table"),
    )
]
