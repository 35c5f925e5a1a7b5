"""Results over seeds, compared with the paper's: the numbers behind the terminal's tables, the CSV file and the page.

Accuracies are shares in [0, 1], as in the rows; the paper's values, and all values in texts, are in percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from emphasis.experiments.recipes.recipe import Recipe
from emphasis.experiments.recipes.settings import Cell, MethodSpec
from emphasis.experiments.runs.store import Row
from emphasis.metrics import describe_outcomes, mean_and_std
from emphasis.retrieval import RANKS

METRICS = {
    "best_test_accuracy": "Best test",
    "final_test_accuracy": "Final test",
    "final_fit_noisy": "Fit noisy",
    "final_fit_true": "Fit true",
}
_RETRIEVAL_METRICS = {"final_mean_average_precision": "Mean average precision"} | {
    f"final_cmc_{rank}": f"CMC at rank {rank}" for rank in RANKS
}
NOT_SCALED = "paper (full scale; this run is scaled down)"


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation of the `n` finite values among some shares; NaN where `n` is too small."""

    mean: float
    std: float
    n: int

    def __str__(self) -> str:
        return percent(self.mean, self.std)


@dataclass(frozen=True)
class Gain:
    """Difference of two methods in the same seeds, as shares; `ahead` counts the seeds in which the first leads."""

    mean: float
    std: float
    n: int
    ahead: int

    def __str__(self) -> str:
        """Return a text such as "+1.2 ± 0.3", in points; "" if the methods have no seed in common."""
        if not self.n:
            return ""
        return signed(100 * self.mean) + ("" if math.isnan(self.std) else f" ± {100 * self.std:.1f}")


@dataclass(frozen=True, eq=False)
class Entry:
    """A method under a condition.

    Attributes:
        cell: Settings of its first seed.
        rows: Results of the networks that have been trained, by seed.
        seeds: Number of networks that the recipe asks for.
        values: Values over the seeds, by metric.
        paper: The paper's values in percent, by metric; NaN where there is none.
        paper_std: The paper's standard deviation in the recipe's metric, in percent; NaN if there is none.
    """

    cell: Cell
    rows: tuple[Row, ...]
    seeds: int
    values: dict[str, Spread]
    paper: dict[str, float]
    paper_std: float

    @property
    def outcome(self) -> str:
        """Failures, such as "collapsed (2 of 5 seeds)"; "" if there are none."""
        return describe_outcomes([row["outcome"] for row in self.rows])

    @property
    def status(self) -> str:
        """`outcome`, or "ok", or "-" if no network has been trained."""
        return self.outcome or ("ok" if self.rows else "-")

    @property
    def detail(self) -> str:
        """Iteration and batch at which networks diverged; "" if none did."""
        failed = [row for row in self.rows if row["diverged_at"] is not None]
        if not failed:
            return ""
        first = min(failed, key=lambda row: int(row["diverged_at"]))
        text = f"NaN or infinite logits from iteration {first['diverged_at']:,} on"
        if batch := first.get("diverged_batch"):
            text += f", on the batch of training examples {', '.join(map(str, batch[:5]))}, ..."
        return text + "; these seeds are left out of the means"

    @property
    def is_dm(self) -> bool:
        """Whether the method is derivative manipulation: its family is DM, or its group says so."""
        return family_of(self.cell) == "DM" or "derivative manipulation" in self.cell.group.casefold()


@dataclass(frozen=True, eq=False)
class Summary:
    """The results of a recipe: an entry for each condition and method."""

    recipe: Recipe
    entries: tuple[Entry, ...]

    @property
    def scaled(self) -> bool:
        """Whether this is a scaled-down run, which is stated wherever its numbers appear."""
        return self.recipe.status == "scaled"

    @property
    def metrics(self) -> list[str]:
        """The four metrics of every recipe, and further ones of this recipe or the paper."""
        return list(dict.fromkeys([*METRICS, self.recipe.metric, *self.recipe.paper]))

    @property
    def missing(self) -> int:
        """Number of networks that have not been trained yet."""
        return sum(entry.seeds - len(entry.rows) for entry in self.entries)

    @property
    def networks(self) -> int:
        """Number of networks that the recipe asks for."""
        return sum(entry.seeds for entry in self.entries)

    @property
    def groups(self) -> dict[str, list[str]]:
        """The methods by group, in the recipe's order."""
        groups: dict[str, list[str]] = {}
        for method in self.recipe.methods:
            groups.setdefault(method.group, []).append(method.name)
        return groups

    def of(self, condition: str) -> list[Entry]:
        """Return the entries of a condition in the order of the methods."""
        return [entry for entry in self.entries if entry.cell.condition == condition]

    def find(self, condition: str, method: str) -> Entry | None:
        """Return the entry of a condition and method; None if the recipe has none."""
        return next((entry for entry in self.of(condition) if entry.cell.method == method), None)

    def paper(self, condition: str, method: str, metric: str) -> float:
        """Return the paper's value in percent, of a method that is run or only quoted; NaN if there is none."""
        for row in self.recipe.reported:
            if row.name == method and metric == self.recipe.metric:
                return row.values[self.recipe.condition_names.index(condition)]
        return self.recipe.paper_value(metric, method, condition)

    def has_paper(self, metric: str) -> bool:
        """Return whether the paper has values of this metric."""
        return metric in self.recipe.paper or (metric == self.recipe.metric and bool(self.recipe.reported))

    def difference(self, entry: Entry, metric: str) -> float:
        """Return our value minus the paper's in points; NaN if one is missing, and in scaled runs, which differ."""
        return math.nan if self.scaled else 100 * entry.values[metric].mean - entry.paper[metric]

    def gain(self, entry: Entry) -> Gain | None:
        """Return the gain of the entry over the baseline in the recipe's metric; None for the baseline itself."""
        baseline = self.find(entry.cell.condition, self.recipe.baseline)
        return None if baseline is None or baseline is entry else paired(entry, baseline, self.recipe.metric)

    def best(self, condition: str, dm: bool | None = None) -> Entry | None:
        """Return the entry with the highest mean among those without NaN, of DM only, or of other methods only."""
        metric = self.recipe.metric
        entries = [e for e in self.of(condition) if 0 < e.values[metric].n == len(e.rows) and dm in (None, e.is_dm)]
        return max(entries, key=lambda e: e.values[metric].mean, default=None)


def family_of(cell: Cell) -> str:
    """Return the family of a cell's weighting; "" for a method without a weighting."""
    return "" if isinstance(cell.objective, MethodSpec) else str(cell.objective.weighting.to_dict()["family"])


def summarize(recipe: Recipe, rows: Sequence[Row]) -> Summary:
    """Return the summary of a recipe's rows, which may be incomplete."""
    by_entry: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_entry.setdefault((row["condition"], row["method"]), []).append(row)
    metrics = dict.fromkeys([*METRICS, recipe.metric, *recipe.paper])
    first = {(cell.condition, cell.method): cell for cell in recipe.cells() if cell.seed == 0}
    entries = []
    for (condition, method), cell in first.items():
        entry_rows = sorted(by_entry.get((condition, method), []), key=lambda row: int(row["seed"]))
        spreads = recipe.paper_spread.get(method)
        entries.append(
            Entry(
                cell=cell,
                rows=tuple(entry_rows),
                seeds=recipe.seeds_of(condition),
                values={metric: spread([number(row.get(metric)) for row in entry_rows]) for metric in metrics},
                paper={metric: recipe.paper_value(metric, method, condition) for metric in metrics},
                paper_std=spreads[recipe.condition_names.index(condition)] if spreads else math.nan,
            )
        )
    return Summary(recipe, tuple(entries))


def paired(entry: Entry, other: Entry, metric: str) -> Gain:
    """Return the gain of `entry` over `other` in the seeds that both have."""
    theirs = {row["seed"]: number(row.get(metric)) for row in other.rows}
    gains = [number(row.get(metric)) - theirs.get(row["seed"], math.nan) for row in entry.rows]
    finite = [gain for gain in gains if math.isfinite(gain)]
    over = spread(finite)
    return Gain(over.mean, over.std, len(finite), sum(gain > 0 for gain in finite))


def findings(summary: Summary) -> list[str]:
    """Return the findings as sentences: for each condition the best method and how DM compares; and failures."""
    recipe = summary.recipe
    texts = {condition: _finding(summary, condition) for condition in recipe.condition_names}
    lines = [f"{condition}: {text}" if condition else text for condition, text in texts.items() if text]
    if lines and summary.scaled:
        lines.insert(0, "Scaled run: the results are those of a smaller network or a shorter training.")
    failed: dict[str, list[str]] = {}
    for entry in summary.entries:
        if entry.outcome:
            failed.setdefault(entry.cell.method, []).append(entry.cell.condition)
    if failed:
        several = len(recipe.conditions) > 1
        names = [f"{method} ({_places(where, recipe)})" if several else method for method, where in failed.items()]
        lines.append(f"Methods that collapsed, diverged or never learned in at least one seed: {', '.join(names)}.")
    if summary.missing:
        lines.append(f"{summary.missing} of {summary.networks} networks are not trained yet; '-' stands for them.")
    return lines


def _finding(summary: Summary, condition: str) -> str:
    """Return the finding of one condition; "" if nothing has been trained."""
    metric = summary.recipe.metric
    best, dm, other = summary.best(condition), summary.best(condition, dm=True), summary.best(condition, dm=False)
    if best is None:
        return ""
    text = f"{best.cell.method} is best in {metric_title(metric).lower()}, {best.values[metric]} %"
    baseline = summary.find(condition, summary.recipe.baseline)
    if baseline not in (None, best, other) and (gain := summary.gain(best)) is not None and gain.n:
        text += f", {_points(gain)} above {summary.recipe.baseline}"
    if dm is not None and other is not None:
        gain = paired(dm, other, metric)
        if dm is best:
            text += f"; {_points(gain)} above the best method without DM, {other.cell.method}{_seeds(gain)}"
        else:
            side = "below" if gain.mean < 0 else "above"
            text += f"; the best method with DM, {dm.cell.method}, is {_points(gain)} {side} it"
            text += _seeds(gain)
    papers = [e for e in summary.of(condition) if e.is_dm and e.rows and math.isfinite(e.paper[metric])]
    reached = [e for e in papers if e.values[metric].n]
    if papers and dm not in papers:
        best_paper = max(reached, key=lambda e: e.values[metric].mean, default=None)
        if best_paper is None:
            text += "; the DM of the paper diverged"
        else:
            which = (
                "the DM of the paper" if len(papers) == 1 else f"the best DM of the paper, {best_paper.cell.method},"
            )
            text += f"; {which} reaches {best_paper.values[metric]} %"
            if other is not None and best_paper.values[metric].n == len(best_paper.rows):
                gain = paired(best_paper, other, metric)
                text += f", {_points(gain)} {'below' if gain.mean < 0 else 'above'} {other.cell.method}"
    return text + "."


def _places(conditions: Sequence[str], recipe: Recipe) -> str:
    return "everywhere" if len(conditions) == len(recipe.conditions) > 1 else "; ".join(conditions)


def _points(gain: Gain) -> str:
    """Return the size of a gain, with two decimals if one would round it to nearly 0."""
    digits = 2 if abs(gain.mean) < 0.01 else 1
    spread_ = "" if math.isnan(gain.std) else f" ± {100 * gain.std:.{digits}f}"
    return f"{100 * abs(gain.mean):.{digits}f}{spread_} points"


def _seeds(gain: Gain) -> str:
    """Return the number of seeds in which DM leads, and whether the difference is unclear."""
    if gain.n == 1:
        return " (one seed)"
    unclear = abs(gain.mean) <= gain.std and 0 < gain.ahead < gain.n
    clear = ": no clear difference" if unclear else ""
    return f"{clear} (DM ahead in {gain.ahead} of {gain.n} seeds)"


def metric_title(metric: str) -> str:
    """Return a metric's title."""
    name = {**METRICS, **_RETRIEVAL_METRICS}.get(metric, metric.replace("_", " ").capitalize())
    return f"{name} accuracy" if metric in METRICS and metric.endswith("accuracy") else name


def spread(values: Sequence[float]) -> Spread:
    """Return mean and standard deviation of the finite values."""
    mean, std = mean_and_std(values)
    return Spread(float(mean), float(std), sum(math.isfinite(value) for value in values))


def percent(mean: float, std: float) -> str:
    """Return "mean ± std" of shares in percent; "-" for NaN."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.1f}" + ("" if math.isnan(std) else f" ± {100 * std:.1f}")


def signed(value: float) -> str:
    """Return a difference with its sign and one decimal, but never "-0.0"."""
    return f"{round(value, 1) + 0.0:+.1f}"


def number(value: float | None) -> float:
    """Return a value as a float; null in JSON stands for NaN."""
    return math.nan if value is None else float(value)
