"""What the command `emphasis` takes: its commands, options and help."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import emphasis
from emphasis.cli import help_texts as cli_texts
from emphasis.cli.paths import a_name, a_path
from emphasis.errors import EmphasisError
from emphasis.texts import did_you_mean
from emphasis.weighting import FAMILIES, Weighting, from_dict

_DESCRIPTION = """\
Train classifiers on labels you cannot trust, by designing how much each example counts.

A weighting w(p) says how large the derivative of the loss is for an example whose label has
probability p. `show` draws weightings; `run` trains networks with them by a recipe, `report` sets
the results beside the paper's; `search` looks for a method's best settings; `recipes` lists what
there is; `fit` trains a classifier on your own table, and `predict` applies it; `audit` finds the
labels that look wrong; `tune` chooses a weighting for labels that nobody has checked; `design`
opens a page to draw one; `figure` draws the figures of the paper from runs."""

_EXAMPLES = """\
examples:
  emphasis show DM --lam 0.5 --beta 12          where Derivative Manipulation puts its emphasis
  emphasis show GCE --q 0.7 --vs CCE MAE        one weighting against others
  emphasis recipes                              every table and figure of the paper, by name
  emphasis run digits                           thirteen ways to learn from 40 % wrong labels
  emphasis report digits                        its results once more
  emphasis fit customers.csv --label churned    a classifier of your own
  emphasis audit customers.csv --label churned  which of its labels look wrong
  emphasis tune customers.csv --label churned   lambda and beta for them"""


class UsageError(EmphasisError):
    """A mistake of the user's; the message is the one line to show."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> Any:
        """Exit with code 2 and one line."""
        self.exit(2, f"{self.prog}: {message}\n")


def family_weighting(family: str, options: Sequence[str]) -> Weighting:
    """Return the weighting of a family's name and options; the family's own signature says which there are."""
    names = {name.casefold(): name for name in FAMILIES}
    name = names.get(family.casefold())
    if name is None:
        raise UsageError(
            f"unknown family {family!r}{did_you_mean(family, FAMILIES, str)}; known: {', '.join(FAMILIES)}"
        )
    defaults = {one.name: one.default for one in inspect.signature(FAMILIES[name]).parameters.values()}
    return from_dict({"family": name, **_own_options(name, defaults, options)})


def shown_weighting(name: str, options: Sequence[str]) -> Weighting:
    """Return what `show` draws: a family's weighting, or the derivative view of a method it is compared with."""
    if name.casefold() in {family.casefold() for family in FAMILIES}:
        return family_weighting(name, options)
    from emphasis import baselines

    if ":" not in name and name not in baselines.names():
        known = [*FAMILIES, *(one for one in baselines.names() if baselines.find(one).has_view())]
        raise UsageError(f"unknown family {name!r}{did_you_mean(name, known, str)}; known: {', '.join(known)}")
    defaults = {key: value for key, value in baselines.options_of(name).items() if key != "matrix"}
    given = _own_options(name, {"num_classes": 10, **defaults}, options)
    changed = {key: value for key, value in given.items() if key == "num_classes" or value != defaults[key]}
    return baselines.view(name, **changed)


def _own_options(name: str, defaults: Mapping[str, Any], options: Sequence[str]) -> dict[str, Any]:
    """Return the values of a family's or method's own options: flags, texts, whole numbers and numbers."""
    parser = Parser(prog=f"emphasis show {name}", add_help=False, allow_abbrev=False)
    for key, default in defaults.items():
        if default is False:
            parser.add_argument(f"--{key}", action="store_true")
        else:
            kind = type(default) if type(default) in (str, int) else float
            parser.add_argument(f"--{key}", type=kind, default=default)
    values, unknown = parser.parse_known_args(options)
    if unknown:
        takes = ", ".join(f"--{known}" for known in defaults) or "no parameters"
        hint = did_you_mean(unknown[0].lstrip("-"), defaults, "--{}".format)
        raise UsageError(f"{name} has no option {unknown[0]}{hint}; it takes {takes}")
    return vars(values)


def weighting_of_text(text: str) -> Weighting:
    """Return the weighting of a text such as "DM lam=0.5 beta=4 vanishing"."""
    family, *options = text.split() or [""]
    given = [part for option in options for part in f"--{option.lstrip('-')}".split("=", 1)]
    return family_weighting(family, joined_numbers(given))


def joined_numbers(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with `--beta -1e-3` as `--beta=-1e-3`: argparse takes the number for an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and re.fullmatch(r"--[\w-]+", joined[-1]) and re.fullmatch(r"-[\d.]+(e[+-]?\d+)?", argument, re.I):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; `show` leaves a family's own options over."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="emphasis", description=_DESCRIPTION, epilog=_EXAMPLES, formatter_class=raw)
    parser.add_argument("--version", action="version", version=f"emphasis {emphasis.__version__}")
    commands = parser.add_subparsers(
        dest="command",
        title="commands",
        metavar="{audit,design,figure,fit,predict,recipes,report,run,search,show,tune}",
    )

    run = commands.add_parser(
        "run", help="train networks by a recipe and report", description=cli_texts.RUN_DESCRIPTION,
        epilog=cli_texts.RUN_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    run.add_argument("recipe", type=a_name, help="a recipe's name (digits), or the path of your own .toml file")
    what = run.add_argument_group("what is run")
    what.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help="these rows alone")
    what.add_argument("--noise-rate", type=float, metavar="R", help="share of wrong labels, 0 to 1 (digits: 0.4)")
    how = run.add_argument_group("how it runs")
    how.add_argument("--force", action="store_true", help="replace an earlier run in the folder")
    how.add_argument(
        "--checkpoint-seconds", type=float, metavar="S", default=10.0,
        help="seconds between checkpoints (default: %(default)g)",
    )  # fmt: skip
    how.add_argument(
        "--devices", type=int, metavar="N", default=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        help="split each batch over N devices of this machine (default: 1, or torchrun's --nproc-per-node)",
    )  # fmt: skip
    how.add_argument(
        "--strategy", choices=("ddp", "fsdp"), default="ddp",
        help="what each of N devices keeps: the whole network (ddp) or a share of it (fsdp) (default: %(default)s)",
    )  # fmt: skip
    _add_common(what, how, "RECIPE")

    search = commands.add_parser(
        "search", help="search a method's settings on held-out data", description=cli_texts.SEARCH_DESCRIPTION,
        epilog=cli_texts.SEARCH_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    search.add_argument("recipe", type=a_name, help="a recipe's name (digits), or the path of your own .toml file")
    what = search.add_argument_group("what is searched")
    what.add_argument("--method", required=True, metavar="METHOD", help="the recipe's method to start from")
    what.add_argument(
        "--vary", action="append", default=[], metavar="PART.KEY=VALUES",
        help="A,B,C or LOW:HIGH or LOW:HIGH:log of a setting (default: DM's lam and beta)",
    )  # fmt: skip
    what.add_argument("--trials", type=int, default=32, metavar="N", help="settings to try (default: %(default)s)")
    what.add_argument("--batch", type=int, default=8, metavar="N", help="trials at a time (default: %(default)s)")
    what.add_argument(
        "--validation", type=float, default=0.2, metavar="SHARE", help="share held out (default: %(default)g)"
    )
    what.add_argument(
        "--noisy-validation", action="store_true", help="put noise on the held-out labels too, as in a task of your own"
    )
    what.add_argument("--no-retrain", action="store_true", help="do not train and test the best settings in the end")
    _add_common(what, search.add_argument_group("how it runs"), "RECIPE-search")

    report = commands.add_parser(
        "report", help="set a run's results beside the paper's", description=cli_texts.REPORT_DESCRIPTION,
        epilog=cli_texts.REPORT_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    report.add_argument("run", type=a_name, metavar="RUN", help="a run's folder, or its name in runs/ or results/")
    report.add_argument("--format", choices=("text", "csv", "html"), help="print this alone, and write nothing")
    report.add_argument("--out", type=a_path, metavar="FILE", help="write it to this file (needs --format)")
    report.add_argument(
        "--data", type=a_path, metavar="DIR", help="where data sets are, whose suspect labels the page then leads to"
    )

    commands.add_parser(
        "recipes", help="list the recipes", description="List every recipe, what it costs and how it is run.",
        epilog="examples:\n  emphasis recipes", formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip

    _add_tables(commands, raw)
    _add_audit(commands, raw)
    _add_tune(commands, raw)
    _add_design(commands, raw)
    _add_figure(commands, raw)

    show = commands.add_parser(
        "show", help="draw a weighting and describe it", description=cli_texts.SHOW_DESCRIPTION,
        epilog=f"families and their options:\n{_families_help()}\n\n{cli_texts.SHOW_EXAMPLES}", formatter_class=raw,
        allow_abbrev=False,
    )  # fmt: skip
    show.add_argument(
        "family",
        help="a weighting's family, such as DM, or a method's name, such as "
        "label-smoothing; its parameters are options (see below)",
    )
    show.add_argument(
        "--vs",
        nargs="*",
        metavar="FAMILY",
        help="draw these too, with their defaults; DM if left out; --vs alone: none",
    )
    show.add_argument("--out", type=a_path, metavar="FILE", help="draw to this .png, .svg or .pdf instead")
    parser.set_defaults(debug=False)
    for one in (parser, *commands.choices.values()):
        one.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show errors' tracebacks")
    return parser


def _add_tables(commands: Any, raw: Any) -> None:
    """Add `fit` and `predict`."""
    fit = commands.add_parser(
        "fit", help="train a classifier on your own table", description=cli_texts.FIT_DESCRIPTION,
        epilog=cli_texts.FIT_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    fit.add_argument("table", type=a_path, help="a CSV file with a header, or Parquet (.parquet, .pq)")
    table = fit.add_argument_group("the table")
    table.add_argument("--label", required=True, metavar="COLUMN", help="the column to predict")
    _add_columns(table)
    table.add_argument("--weight-column", metavar="COLUMN", help="weights of the rows, >= 0")
    table.add_argument("--max-levels", type=int, default=100, metavar="N",
                       help="most distinct values of a column of names (default: %(default)s)")  # fmt: skip
    what = fit.add_argument_group("the model")
    what.add_argument("--model", default="xgboost", metavar="MODEL",
                      help="xgboost (default), lightgbm, catboost or net")  # fmt: skip
    what.add_argument("--weighting", metavar="TEXT", help='such as "GCE q=0.7" (default: vanishing DM)')
    what.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", dest="settings",
                      help="a parameter of the model, such as max_depth=4")  # fmt: skip
    what.add_argument("--folds", type=int, default=5, metavar="N", help="of cross-validation (default: %(default)s)")
    what.add_argument("--no-compare", action="store_true", help="do not cross-validate cross-entropy as well")
    what.add_argument("--seed", type=int, default=0, metavar="N", help="of folds and models (default: %(default)s)")
    how = fit.add_argument_group("how it runs")
    how.add_argument("--out", type=a_path, metavar="DIR", help="folder to write (default: runs/TABLE)")
    how.add_argument("--force", action="store_true", help="replace another fit in the folder")
    how.add_argument("--no-progress", action="store_true", help="no progress bar")

    predict = commands.add_parser(
        "predict", help="apply a fitted model to a table", description=cli_texts.PREDICT_DESCRIPTION,
        epilog=cli_texts.PREDICT_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    predict.add_argument("model", type=a_path, metavar="FOLDER", help="a fit's folder, such as runs/customers")
    predict.add_argument("table", type=a_path, help="CSV or Parquet, with the columns that the model was fitted on")
    _add_missing(predict)
    predict.add_argument("--out", type=a_path, metavar="FILE",
                         help="a .csv or .parquet file (default: TABLE-predicted, beside the table)")  # fmt: skip


def _add_columns(table: Any) -> None:
    """Add what `fit` and `audit` ask about a table's columns."""
    table.add_argument("--drop", nargs="+", default=[], metavar="COLUMN", help="leave these out, such as identifiers")
    table.add_argument("--categorical", nargs="+", default=[], metavar="COLUMN", help="numbers that are mere names")
    _add_missing(table)


def _add_missing(table: Any) -> None:
    table.add_argument("--missing", nargs="+", default=[], metavar="TEXT", help="what means missing, such as ?")


def _add_audit(commands: Any, raw: Any) -> None:
    """Add `audit`."""
    audit = commands.add_parser(
        "audit", help="find labels that look wrong", description=cli_texts.AUDIT_DESCRIPTION,
        epilog=cli_texts.AUDIT_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    audit.add_argument(
        "what", type=a_name, metavar="DATA", help="a table, a folder of images, a recipe's name or file, or a trace"
    )
    _add_data(audit)
    how = audit.add_argument_group("how it runs")
    how.add_argument("--weighting", metavar="TEXT", help="to learn with (default: Relative)")
    _add_training(how)
    how.add_argument("--suspects", type=a_path, metavar="FILE",
                     help="also write the ranking to this file (.csv, .parquet)")  # fmt: skip
    how.add_argument("--export", type=a_path, metavar="FILE",
                     help="also write the table (.csv, .parquet), labels cleaned, with weights")  # fmt: skip
    _add_place(how, "audit")


def _add_tune(commands: Any, raw: Any) -> None:
    """Add `tune`."""
    tune = commands.add_parser(
        "tune", help="choose lambda and beta for labels that nobody has checked",
        description=cli_texts.TUNE_DESCRIPTION, epilog=cli_texts.TUNE_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    tune.add_argument(
        "what", type=a_name, metavar="DATA", help="a table, a folder of images, or a recipe's name or file"
    )
    _add_data(tune)
    search = tune.add_argument_group("the search")
    search.add_argument("--assume-rate", type=float, metavar="R",
                        help="the share of wrong labels, if you know it (default: estimated)")  # fmt: skip
    search.add_argument("--trials", type=int, default=24, metavar="N", help="settings tried (default: %(default)s)")
    search.add_argument("--folds", type=int, default=3, metavar="N",
                        help="fifths held out in turn to judge by, 1 to 5 (default: %(default)s)")  # fmt: skip
    search.add_argument("--seeds", type=int, default=1, metavar="N", help="networks per trial and fold (default: 1)")
    search.add_argument("--vary", action="append", default=[], metavar="PART.KEY=A,B,C",
                        help="what to search, or PART.KEY=LOW:HIGH[:log]; repeatable (default: weighting.beta, "
                        "weighting.vanishing, normalization); the learning rate is searched, too, unless --set "
                        "gives it")  # fmt: skip
    how = tune.add_argument_group("how it runs")
    _add_training(how)
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; one on an accelerator)")
    _add_place(how, "tune")


def _add_data(parser: Any) -> None:
    """Add what `audit` and `tune` ask about the data."""
    data = parser.add_argument_group("the data")
    data.add_argument("--label", metavar="COLUMN", help="a table's column of labels")
    _add_columns(data)
    data.add_argument("--size", type=int, metavar="N", help="pixels per side that images are scaled to (default: 32)")
    data.add_argument("--channels", type=int, metavar="N", help="3 (default) or 1, for grey images")
    data.add_argument("--only", metavar="CONDITION", help="a recipe's column (default: the first)")
    data.add_argument("--noise-rate", type=float, metavar="R",
                      help="put wrong labels on this share first, to see what comes of them")  # fmt: skip


def _add_training(how: Any) -> None:
    """Add what `audit` and `tune` ask about networks."""
    how.add_argument("--iterations", type=int, metavar="N", help="training steps (default: by the number of examples)")
    how.add_argument("--set", action="append", default=[], metavar="PART.KEY=VALUE", dest="settings",
                     help="any setting of network or solver, such as solver.learning_rate=0.02 (default: found from "
                     "the data)")  # fmt: skip


def _add_place(how: Any, name: str) -> None:
    """Add what `audit` and `tune` ask about the machine and the folder."""
    how.add_argument("--out", type=a_path, metavar="DIR", help=f"folder to write (default: runs/NAME-{name})")
    how.add_argument("--data", type=a_path, metavar="DIR", help="where data sets are (recipes)")
    how.add_argument("--accelerator", default="auto", metavar="A", help="auto (default), cpu, cuda or mps")
    how.add_argument("--force", action="store_true", help="train anew, whatever the folder holds")
    how.add_argument("--no-progress", action="store_true", help="no progress bar")


def _add_design(commands: Any, raw: Any) -> None:
    """Add `design`."""
    design = commands.add_parser(
        "design", help="draw a weighting in the browser", description=cli_texts.DESIGN_DESCRIPTION,
        epilog="examples:\n  emphasis design\n  emphasis design --run digits", formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    design.add_argument("--run", type=a_name, metavar="RUN", help="lay the p of a run's examples under the curves")
    design.add_argument("--port", type=int, default=0, metavar="N", help="of the page (default: any that is free)")
    design.add_argument("--no-browser", action="store_true", help="do not open it, only say where it is")


def _add_figure(commands: Any, raw: Any) -> None:
    """Add `figure`."""
    figure = commands.add_parser(
        "figure", help="draw a figure of the paper from a run", description=cli_texts.FIGURE_DESCRIPTION,
        epilog=cli_texts.FIGURE_EXAMPLES, formatter_class=raw, allow_abbrev=False,
    )  # fmt: skip
    figure.add_argument("name", nargs="?", help="1b, 2a, 2b, 2c, or 5 to 11; left out: list them")
    figure.add_argument(
        "--run", type=a_name, metavar="RUN", help="a run's folder, or its name in runs/ or results/ (default: found)"
    )
    figure.add_argument("--out", type=a_path, metavar="FILE", help="a .svg, .png or .pdf (default: figure-NAME.svg)")
    figure.add_argument("--theme", choices=("auto", "light", "dark"), default="auto",
                        help="auto (default): an SVG follows the reader's own setting, others are light")  # fmt: skip


def _add_common(what: Any, how: Any, folder: str) -> None:
    """Add the options that `run` and `search` share to their two groups."""
    what.add_argument("--scaled", action="store_true", help="the recipe's smaller form, for a CPU")
    what.add_argument("--only", nargs="+", default=[], metavar="CONDITION", help="these columns of the table alone")
    what.add_argument("--seeds", type=int, metavar="N", help="networks per method and condition (digits: 5)")
    what.add_argument("--iterations", type=int, metavar="N", help="training steps (digits: 1000)")
    what.add_argument(
        "--set", action="append", default=[], metavar="PART.KEY=VALUE", dest="settings",
        help="any setting of dataset, noise, network, solver or evaluation, for every condition",
    )  # fmt: skip
    what.add_argument("--precision", metavar="P", help="32-true, bf16-mixed or 16-mixed")
    how.add_argument(
        "--data", type=a_path, metavar="DIR", help="where data sets are (default: $EMPHASIS_DATA, or a cache)"
    )
    how.add_argument("--download", action="store_true", help="fetch data that is not there from its official address")
    how.add_argument("--out", type=a_path, metavar="DIR", help=f"folder of the run (default: runs/{folder})")
    how.add_argument("--accelerator", default="auto", metavar="A", help="auto (default), cpu, cuda or mps")
    how.add_argument("--compile", action="store_true", help="compile the networks with torch.compile")
    how.add_argument("--workers", type=int, metavar="N", help="processes (default: one a core; one on an accelerator)")
    how.add_argument("--threads", type=int, metavar="N", help="CPU threads of each (default: what suits the networks)")
    how.add_argument("--no-progress", action="store_true", help="no progress bars")


def _families_help() -> str:
    lines = []
    for name, family in FAMILIES.items():
        options = [
            f"--{parameter.name}" if parameter.default is False else f"--{parameter.name} {parameter.default:g}"
            for parameter in inspect.signature(family).parameters.values()
        ]
        lines.append(f"  {name:<12} {'  '.join(options)}".rstrip())
    return "\n".join(lines)
