"""`emphasis report`, `emphasis figure` and `emphasis recipes`: what runs have given, and which runs there are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emphasis.cli.options import Command, UsageError, name_or_path_argument, path_argument
from emphasis.cli.output import check_json_target

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe

REPORT_KEYS = {
    "folder": "the run's folder",
    "recipe": "name of the recipe",
    "title": "title of the recipe",
    "scaled": "whether the run is scaled down",
    "metric": "the metric that methods are compared by",
    "baseline": "the method that others are compared with",
    "findings": "the findings, as sentences",
    "networks": "number of networks that the recipe asks for",
    "missing": "number of those that are not trained yet",
    "results": "for each `condition` and `method`: `group`, `outcome`, number `n` of networks, `metrics` with `mean`, "
    "`std` and `n` as shares, `paper` in percent, and `gain` over the baseline",
}
"""Keys of the results of a run, with their meaning."""

_REPORT_DESCRIPTION = """\
Compare the results of a run with the paper's: differences, number of seeds and standard deviation.
Without --format, print the report as text, and write table.csv, report.html and the figures into
the run's folder."""

_REPORT_EXAMPLES = """\
examples:
  emphasis report table5                        from runs/table5, else results/table5
  emphasis report results/table5 --format csv
  emphasis report digits --format html --out digits.html"""

_FIGURE_DESCRIPTION = """\
Draw a figure of the paper from the run of its recipe, full or scaled, or from another run with
--run. Without a name, list the figures and the runs available for them. The figures are legible in
print and, as SVG, on light and on dark pages."""

_FIGURE_EXAMPLES = """\
examples:
  emphasis figure
  emphasis figure 1b
  emphasis figure 2a --run results/figure2-scaled --out p.png
  emphasis figure 3 --run runs/figure2-scaled --data DATA
  emphasis figure 5 --theme dark --out figure-5.png"""


def _add_report_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run", type=name_or_path_argument, metavar="RUN", help="a run's folder, or its name in runs/ or results/"
    )
    parser.add_argument(
        "--format", choices=("text", "csv", "html"), help="print the report in this format, and write no files"
    )
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="write the report to this file (needs --format)"
    )
    parser.add_argument(
        "--data", type=path_argument, metavar="DIR", help="folder of data sets, for the page of suspect labels"
    )


def _report(options: argparse.Namespace) -> None:
    check_json_target(options)
    if options.out is not None and options.format is None:
        raise UsageError("--out needs --format text, csv or html")
    from rich.console import Console

    from emphasis.experiments.reports import report
    from emphasis.files import write_text

    folder = report.find_folder(options.run)
    options.folder = folder if options.format is None else None  # with a format, nothing is written into the folder
    summary = report.read_summary(folder)
    options.result = report.summary_json(folder, summary)
    if options.out is not None:
        write_text(options.out, report.render(summary, options.format))
        print(f"written to {options.out}")
    elif options.format == "text":
        report.print_report(summary, Console())
    elif options.format is not None:
        print(report.render(summary, options.format), end="")
    else:
        names = report.write_report(folder, summary, options.data)
        report.print_report(summary, Console())
        print(f"Written to {folder}: {', '.join(names)}")


def _add_figure_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="1a, 1b, 2a to 2c, or 3 to 11; without a name, list the figures")
    parser.add_argument(
        "--run",
        type=name_or_path_argument,
        metavar="RUN",
        help="a run's folder, or its name in runs/ or results/ (default: the run of the figure's recipe)",
    )
    parser.add_argument("--data", type=path_argument, metavar="FOLDER", help="folder of the data sets, for figure 3")
    parser.add_argument(
        "--out", type=path_argument, metavar="FILE", help="a .svg, .png or .pdf file (default: figure-NAME.svg)"
    )
    parser.add_argument(
        "--theme",
        choices=("auto", "light", "dark"),
        default="auto",
        help="colors; auto (default): an SVG follows the reader's system setting, other formats are light",
    )


def _figure(options: argparse.Namespace) -> None:
    from emphasis.diagnostics.plots.themes import save
    from emphasis.experiments.reports.paper_figures import FIGURES, draw_figure, find_run

    if options.name is None:
        runs = {name: find_run(figure) for name, figure in FIGURES.items()}
        options.result = {
            "figures": [
                {"name": name, "caption": figure.caption, "recipes": figure.recipes, "run": runs[name]}
                for name, figure in FIGURES.items()
            ]
        }
        for name, figure in FIGURES.items():
            run = runs[name]
            source = str(run) if run else f"needs: emphasis run {figure.recipes[0]}" if figure.recipes else "no run"
            print(f"  {name:<3} {figure.caption} ({source})")
        return
    drawing, run = draw_figure(options.name, options.run, options.data)
    out = options.out or Path(f"figure-{options.name}.svg")
    save(drawing, out, options.theme)
    options.result = {"file": out, "run": run}
    print(f"drawn to {out}" + (f" from {run}" if run else ""))


def _recipes(options: argparse.Namespace) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from emphasis.experiments.recipes.load import load_recipe, recipe_names
    from emphasis.rich_text import plain

    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    recipes = {name: load_recipe(name) for name in recipe_names()}
    options.result = {"recipes": [_recipe_json(name, recipe) for name, recipe in recipes.items()]}
    for name, recipe in recipes.items():
        left = [(name, "bold"), (recipe.status, ""), (_count_networks(recipe), "")]
        right = [(recipe.title, "bold"), (recipe.cost, ""), (f"emphasis run {name}", "cyan")]
        if recipe.scaled is not None:
            left.append((f"scaled: {_count_networks(recipe.scaled_down())}", ""))
            right += [(f"scaled: {recipe.scaled.cost}", ""), (f"emphasis run {name} --scaled", "cyan")]
        table.add_row(*(Text("\n").join(plain(line, style) for line, style in lines) for lines in (left, right)))
        table.add_row()
    Console().print(table)


def _recipe_json(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return what is listed about a recipe."""
    scaled = None
    if recipe.scaled is not None:
        small = recipe.scaled_down()
        scaled = {"networks": sum(1 for _ in small.cells()), "cost": recipe.scaled.cost}
    return {
        "name": name,
        "title": recipe.title,
        "status": recipe.status,
        "networks": sum(1 for _ in recipe.cells()),
        "cost": recipe.cost,
        "scaled": scaled,
    }


def _count_networks(recipe: Recipe) -> str:
    return f"{sum(1 for _ in recipe.cells()):,} networks"


COMMANDS = [
    Command(
        name="report",
        summary="compare a run's results with the paper's",
        description=_REPORT_DESCRIPTION,
        examples=_REPORT_EXAMPLES,
        add_options=_add_report_options,
        handler=_report,
        extras=("experiments", "table", "text"),
        json_keys=REPORT_KEYS,
    ),
    Command(
        name="figure",
        summary="draw a figure of the paper from a run",
        description=_FIGURE_DESCRIPTION,
        examples=_FIGURE_EXAMPLES,
        add_options=_add_figure_options,
        handler=_figure,
        extras=("experiments",),
        json_keys={
            "figures": "without a name: for each figure its `name`, `caption`, `recipes` and `run`, or null",
            "file": "with a name: file of the drawing",
            "run": "with a name: the run it is drawn from, or null",
        },
    ),
    Command(
        name="recipes",
        summary="list the recipes",
        description="List every recipe: what it trains, what it costs, and the command that runs it.",
        examples="examples:\n  emphasis recipes",
        add_options=lambda _parser: None,
        handler=_recipes,
        extras=("experiments",),
        json_keys={
            "recipes": "for each its `name`, `title`, `status`, number of `networks`, `cost`, and the `networks` and "
            "`cost` of its `scaled` form, or null"
        },
    ),
]
