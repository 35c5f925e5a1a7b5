"""Runs a comparison in two forms: all methods at cross-entropy's learning rate, and each at its own best.

Every method is trained at each rate of a grid and judged by a fifth of the training part with noisy labels; the test
set is not looked at. Then the recipe is run twice, with the rates of either form; a network whose rate is the same in
both is trained once. All of it is resumable, and conditions can be run one by one (--only) into the same folder.
OUT/rates.json holds what was measured; --rates FILE takes the conditions that such a file has from there.

    python benchmarks/two_forms.py noisy-benchmark --data DATA        # about 5 hours on two cores, estimated
    python benchmarks/two_forms.py digits --rate-seeds 2              # a few minutes
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from emphasis.experiments.recipes.load import load_recipe
from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.reports.report import read_summary, render, write_report
from emphasis.experiments.runs.context import Printer, RunContext
from emphasis.experiments.runs.runner import run
from emphasis.experiments.runs.store import CELLS
from emphasis.experiments.studies.two_forms import FORMS, Accuracies, in_form, measure_rates, rates_of
from emphasis.files import replacing, write_text
from emphasis.learning_rate import RATES


def lend_cells(out: Path, form: str) -> None:
    """Give a form the networks of the others that are trained already; it uses those whose settings it shares."""
    cells = out / form / CELLS
    cells.mkdir(parents=True, exist_ok=True)
    for other in FORMS:
        for path in (out / other / CELLS).glob("[!.]*.npz"):
            rows = path.with_suffix(".jsonl")  # written last, and copied last: it says that the job is finished
            if rows.exists() and not (cells / rows.name).exists():
                for source in (path, rows):
                    with replacing(cells / source.name) as partial:
                        shutil.copyfile(source, partial)


def known_rates(file: Path, recipe: Recipe) -> Accuracies:
    """Return the accuracies of a recipe's conditions and methods that an earlier run has measured."""
    measured = json.loads(file.read_text(encoding="utf-8"))["accuracy_on_held_out_noisy_labels"]
    names = {method.name for method in recipe.methods}
    return {
        condition: {
            name: {float(rate): p for rate, p in rates.items()} for name, rates in methods.items() if name in names
        }
        for condition, methods in measured.items()
        if condition in recipe.condition_names and names <= methods.keys()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a recipe's name, or the path of a .toml file")
    parser.add_argument("--data", type=Path, help="where the data is")
    parser.add_argument("--out", type=Path, default=Path("runs/two-forms"))
    parser.add_argument("--grid", type=float, nargs="+", default=list(RATES["sgd"]))
    parser.add_argument(
        "--rates", type=Path, help="a rates.json of an earlier run, whose conditions are not measured again"
    )
    parser.add_argument("--rate-seeds", type=int, default=1, help="networks of each method and rate that are judged")
    parser.add_argument("--methods", nargs="+", default=[])
    parser.add_argument("--only", nargs="+", default=[], help="conditions")
    parser.add_argument("--seeds", type=int, help="networks of each method in either form")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()

    recipe = load_recipe(options.recipe).limited(options.only, options.methods)
    how = RunContext(options.data, workers=options.workers), Printer()
    accuracies = known_rates(options.rates, recipe) if options.rates else {}
    if unknown := [name for name in recipe.condition_names if name not in accuracies]:
        wanted = recipe.limited([name for name in unknown if name])  # a recipe without conditions has one without name
        accuracies |= measure_rates(wanted, options.out / "rates", *how, grid=options.grid, seeds=options.rate_seeds)
    options.out.mkdir(parents=True, exist_ok=True)
    said = {"grid": options.grid, "best": rates_of(accuracies), "accuracy_on_held_out_noisy_labels": accuracies}
    write_text(options.out / "rates.json", json.dumps(said, indent=1, sort_keys=True))
    for form in FORMS:
        lend_cells(options.out, form)
        compared = in_form(recipe, accuracies, form)
        if options.seeds:
            compared = compared.changed({"seeds": options.seeds})
        run(compared, options.out / form, *how)
        summary = read_summary(options.out / form)
        write_report(options.out / form, summary, options.data)
        print(render(summary, "text"))


if __name__ == "__main__":
    main()
