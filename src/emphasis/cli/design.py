"""`emphasis design`: draw a weighting in the browser."""

from __future__ import annotations

import argparse

from emphasis.cli.options import Command, add_page_options, name_or_path_argument, port_error, show_page

_DESCRIPTION = """\
Open a page that shows the weight w(p), the emphasis density h(p) and the implied loss of a
weighting. Choose it with sliders, or draw it by dragging points; the page gives the line of Python,
or of a recipe, that creates the weighting. Only this computer can open the page, and no network is
needed."""

_EXAMPLES = """\
examples:
  emphasis design
  emphasis design --run digits"""


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run",
        type=name_or_path_argument,
        metavar="RUN",
        help="show the distribution of p in this run: a folder, or a name in runs/ or results/",
    )
    add_page_options(parser)


def _design(options: argparse.Namespace) -> None:
    from emphasis.diagnostics.plots.design import serve
    from emphasis.diagnostics.plots.local_server import run_until_stopped

    histograms = {}
    if options.run is not None:
        from emphasis.experiments.reports.report import find_folder, histograms_of

        histograms = histograms_of(find_folder(options.run))
    try:
        server = serve(histograms, options.port)
    except (OSError, OverflowError) as error:
        raise port_error(options, error) from error
    try:
        run_until_stopped(server, lambda: show_page(options, f"http://localhost:{server.port}/"))
    except KeyboardInterrupt:
        print()


COMMANDS = [
    Command(
        name="design",
        summary="draw a weighting in the browser",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_options=_add_options,
        handler=_design,
        extras=("design", "experiments"),
    )
]
