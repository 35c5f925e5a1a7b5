"""`emphasis show`: draw a weighting and describe it."""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings

from emphasis.cli.options import Command, path_argument
from emphasis.cli.weightings import families_help, weighting_or_derivative_view
from emphasis.weighting import DM, EmphasisWarning

_DESCRIPTION = """\
Draw the emphasis density h(p) = w(p) / integral of w in the terminal, or to a file, and print the
emphasis mode (the p that counts most), the integral, w(1) and the share of emphasis near the mode."""

_EXAMPLES = f"""\
families and their options, with default values:
{families_help()}

examples:
  emphasis show DM --lam 0.5 --beta 12
  emphasis show DM --lam 0.5 --beta 12 --vanishing
  emphasis show DM --lam 1 --beta 16 --vs CCE GCE --out edf.png
  emphasis show SCE                              compared with DM
  emphasis show label-smoothing --epsilon 0.1 --vs active-passive bootstrapping"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "family",
        help="a family of weightings, such as DM, or a method, such as label-smoothing; its parameters are options "
        "(see below)",
    )
    parser.add_argument(
        "--vs",
        nargs="*",
        metavar="FAMILY",
        help="compare with these families, with default parameters (default: DM); without a name, compare with none",
    )
    parser.add_argument("--out", type=path_argument, metavar="FILE", help="draw to this .png, .svg or .pdf file")


def _show(options: argparse.Namespace) -> None:
    with warnings.catch_warnings():  # about a precision beyond what a drawing and four digits show
        warnings.simplefilter("ignore", EmphasisWarning)
        first = weighting_or_derivative_view(options.family, options.unknown)
        others = ([] if isinstance(first, DM) else ["DM"]) if options.vs is None else options.vs
        weightings = [first, *(weighting_or_derivative_view(name, []) for name in others)]
        if options.out is not None:
            from emphasis.diagnostics.plots.figures import edf_figure
            from emphasis.diagnostics.plots.themes import save

            save(edf_figure(weightings), options.out)
        from emphasis.diagnostics.plots import terminal

        if options.out is None:
            size = shutil.get_terminal_size((80, 24))
            width, height = max(40, min(size.columns, 110)), max(12, min(size.lines - 6, 24))
            print(terminal.draw(weightings, width, height, color=sys.stdout.isatty()))
        for weighting in weightings:
            print(terminal.describe(weighting))
        options.result = {"weightings": [terminal.numbers(each) for each in weightings], "file": options.out}
        if options.out is not None:
            print(f"drawn to {options.out}")


COMMANDS = [
    Command(
        name="show",
        summary="draw a weighting and describe it",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_show,
        extras=("plot", "torch"),
        json_keys={
            "weightings": "for each: its `weighting` as Python code, emphasis `modes`, `integral` of w, `w_at_one`, "
            "whether it `vanishes` at p = 1, and the `mass` of its density within 0.1 of each mode",
            "file": "file of the drawing, or null",
        },
        accepts_unknown_options=True,
    )
]
