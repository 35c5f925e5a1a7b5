"""Tuning for tables: settings and weighting of the model that `fit_table` trains, by its score on held-out rows.

Scores are computed with the given labels, including wrong labels, which rank settings as correct labels do.
Cross-entropy is one of the searched weightings, with its own settings. Another weighting is recommended only if it is
clearly better than cross-entropy at its best settings, on new folds: the best of many trials is better by chance on the
folds of the search.

    tune.json            the request, the trials and the result; a search that was stopped continues
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import emphasis
from emphasis.comparison import evaluate
from emphasis.datasets.table import prepare_table
from emphasis.datasets.table_options import TableOptions
from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra
from emphasis.files import naming_refusals, write_text
from emphasis.json_files import JSONFileError, read_json
from emphasis.scores import METRICS, Held
from emphasis.tabular.cross_validation import Data, Progress, Trainer, splits, weights_of
from emphasis.tabular.folder import fit_digest
from emphasis.tabular.models import MODELS
from emphasis.tabular.result import BASELINE
from emphasis.tabular.tune_space import RANGES, TableTrial, as_dict, as_optuna, as_trial, distributions, suggested
from emphasis.texts import did_you_mean
from emphasis.weighting import CCE, WeightingLike, as_weighting, from_dict

TUNE = "tune.json"
MOST_ROWS = 20_000  # a stratified sample of larger tables is used


@dataclass(frozen=True, eq=False)
class TableTuning:
    """Result of tuning.

    Attributes:
        folder: Folder of tune.json.
        request: Settings of the recommended fit, as accepted by `emphasis.tabular.report.command`.
        metric: Name of the score that ranks the trials.
        trials: All trials.
        best: The best trial with another weighting than cross-entropy, or None if no other was searched.
        baseline: The best trial with cross-entropy, or None if another weighting was given.
        scores: Scores of both on new folds, as `emphasis.comparison.evaluate` returns them.
        rows: Number of rows that were used.
    """

    folder: Path
    request: dict[str, Any]
    metric: str
    trials: tuple[TableTrial, ...]
    best: TableTrial | None
    baseline: TableTrial | None
    scores: dict[str, Any]
    rows: int

    @property
    def recommended(self) -> TableTrial:
        """The best trial if it is clearly better than cross-entropy, otherwise the best trial with cross-entropy."""
        return _recommended(self.best, self.baseline, self.scores, self.metric)

    @property
    def ranked(self) -> list[TableTrial]:
        """Trials from best to worst; those that were stopped early come last."""
        sign = METRICS[self.metric].sign
        return sorted(self.trials, key=lambda trial: (-len(trial.scores), -sign * trial.mean))

    @property
    def verdict(self) -> str:
        """The reason for the recommendation, in one sentence."""
        name = METRICS[self.metric].name
        if self.best is None or self.baseline is None:
            return f"The best settings by {name} on held-out rows."
        if self.recommended is self.best:
            return (
                f"Another weighting is clearly better than cross-entropy at its best settings in {name}, on new folds."
            )
        return f"No other weighting is clearly better than cross-entropy at its best settings in {name}, on new folds."


def tune_table(
    table: str | Path | Any,
    *,
    label: str,
    folder: str | Path,
    model: str = "xgboost",
    weighting: WeightingLike | None = None,
    settings: Mapping[str, Any] | None = None,
    metric: str = "accuracy",
    trials: int = 24,
    folds: int = 3,
    seed: int = 0,
    weight_column: str | None = None,
    force: bool = False,
    progress: Progress = lambda *_: None,
    **table_options: Any,
) -> TableTuning:
    """Search settings and weighting of the model that `fit_table` trains, or continue a search that was stopped.

    The first trials are the default settings with the default weighting and with cross-entropy; others are suggested
    by Optuna, and stopped after a fold if they fall behind.

    Args:
        table: Table as for `fit_table`.
        label: Name of the label column.
        folder: Folder to write to.
        model: "xgboost", "lightgbm", "catboost", "net" or "linear".
        weighting: Fixed weighting; None to search the weighting.
        settings: Fixed settings of the model; others, such as the learning rate, are searched.
        metric: Score to optimize, one of `emphasis.scores.METRICS`.
        trials: Total number of trials.
        folds: Number of folds, at least 2.
        seed: Seed of folds, models and search.
        weight_column: Column of sample weights >= 0.
        force: Whether to start the search again.
        progress: Called as `progress(task, done, total)`.
        table_options: Further arguments of `fit_table` about the table, such as `drop` or `missing`.

    Raises:
        DataError, ValueError, TypeError: As `fit_table`.
        ModuleNotFoundError: A required extra is not installed.
    """
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise missing_extra("tune", "fit", error) from None
    spec, fixed = MODELS.find(model), dict(settings or {})
    if model not in RANGES:
        raise EmphasisValueError(f"model={model!r} is not searched; use one of {', '.join(RANGES)}")
    if metric not in METRICS:
        raise EmphasisValueError(
            f"metric={metric!r} is unknown{did_you_mean(metric, METRICS)}; use one of {', '.join(METRICS)}"
        )
    for name, value, least in (("trials", trials, 2), ("folds", folds, 2)):
        if value < least:
            raise EmphasisValueError(f"{name}={value} is not allowed; use a whole number >= {least}")
    options = TableOptions.of(**table_options, weight_column=weight_column or "")
    prepared = prepare_table(table, label, options, fewest=folds)
    data = Data(prepared, options, weights_of(prepared.frame, weight_column))
    request = {
        "table": str(table) if isinstance(table, (str, Path)) else None,
        "label": label,
        "model": model,
        "compare": True,
        "folds": 5,
        "seed": seed,
        "max_levels": 100,
        "weight_column": weight_column,
        **table_options,
    }
    searched = {name: ends for name, ends in RANGES[model].items() if name not in fixed}
    fixed_weighting = None if weighting is None else as_weighting(weighting)
    space = distributions(searched, fixed_weighting is None)
    search_request = {
        **request,
        "fixed": fixed,
        "weighting": None if fixed_weighting is None else fixed_weighting.to_dict(),
        "metric": metric,
        "tune_folds": folds,
        "emphasis": emphasis.__version__,
    }
    digest = fit_digest(search_request, data.used)
    target = Path(folder)
    finished = [] if force else _read(target, digest)
    rows = _sample(prepared.given, seed)
    parts = _encoded(data, rows, folds, seed)

    def run(trial: TableTrial, part: tuple[Any, ...]) -> NDArray[np.float64]:
        encoded, test, train_rows, _ = part
        train = Trainer(spec, {**spec.settings, **fixed, **trial.settings}, seed)
        classifier = train(trial.weighting, encoded, prepared.given[train_rows], data.weights[train_rows])
        return np.asarray(classifier.predict_proba(test), np.float64)

    def score(trial: TableTrial, part: tuple[Any, ...]) -> float:
        test_rows = part[3]
        return METRICS[metric].score(Held.of(prepared.given[test_rows], run(trial, part), data.weights[test_rows]))[0]

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize" if METRICS[metric].sign > 0 else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    for trial in finished:
        study.add_trial(as_optuna(trial, space, folds))
    defaults = {name: value for name, value in spec.settings.items() if name in searched}
    first = [{"weighting": family} if fixed_weighting is None else {} for family in ("Relative", "CCE")]
    for start in [{**defaults, **choice} for choice in first[: 2 if fixed_weighting is None else 1]][len(finished) :]:
        study.enqueue_trial(start)
    while len(finished) < trials:
        study.sampler = optuna.samplers.TPESampler(seed=(seed + 7919 * len(finished)) % 2**32)
        suggestion = study.ask()
        choices = suggested(suggestion, space)
        trial = as_trial(choices, searched, fixed_weighting)
        progress(f"trial {len(finished) + 1} of {trials}", len(finished), trials + 1)
        scores: list[float] = []
        for number, part in enumerate(parts):
            scores.append(score(trial, part))
            suggestion.report(float(np.mean(scores)), number)
            if number < folds - 1 and suggestion.should_prune():
                break
        trial = replace(trial, scores=tuple(scores))
        pruned = len(scores) < folds
        study.tell(suggestion, None if pruned else trial.mean, optuna.trial.TrialState.PRUNED if pruned else None)
        finished.append(trial)
        _write(target, {"digest": digest, "trials": [as_dict(t) for t in finished]})

    progress("comparison on new folds", trials, trials + 1)
    sign = METRICS[metric].sign
    best, baseline = _winners(finished, folds, sign)
    if (
        fixed_weighting is None
        and best is not None
        and baseline is not None
        and sign * (best.mean - baseline.mean) > 0.0
    ):
        # Cross-entropy had fewer trials than the other weightings together.
        same_settings = replace(best, weighting=CCE(), params={})
        cross_entropy = replace(same_settings, scores=tuple(score(same_settings, part) for part in parts))
        finished.append(cross_entropy)
        baseline = max(baseline, cross_entropy, key=lambda trial: sign * trial.mean)
    scored = _compare_on_new_folds(data, rows, folds, seed + 1, {"best": best, BASELINE: baseline}, run)
    chosen = _recommended(best, baseline, scored, metric)
    request |= {
        "settings": {**spec.settings, **fixed, **chosen.settings},
        "weighting": chosen.weighting.to_dict(),
    }
    content = {
        "digest": digest,
        "trials": [as_dict(trial) for trial in finished[:trials]],
        "metric": metric,
        "recommended": as_dict(chosen),
        "scores": scored,
        "rows": len(rows),
    }
    _write(target, content)
    progress("done", trials + 1, trials + 1)
    return TableTuning(target, request, metric, tuple(finished), best, baseline, scored, len(rows))


def _compare_on_new_folds(
    data: Data,
    rows: NDArray[np.int64],
    folds: int,
    seed: int,
    trials: Mapping[str, TableTrial | None],
    run: Callable[[TableTrial, tuple[Any, ...]], NDArray[np.float64]],
) -> dict[str, Any]:
    """Return the scores of trials by name, without those that are None, on folds that were not used in the search.

    Args:
        data: The table.
        rows: Rows to use.
        folds: Number of folds.
        seed: Seed of the folds.
        trials: Trials by name.
        run: Returns the probabilities that a trial predicts for the held-out rows of a part.
    """
    winners = {name: trial for name, trial in trials.items() if trial is not None}
    fold = np.empty(len(rows), np.int64)
    probabilities = {name: np.empty((len(rows), len(data.table.classes))) for name in winners}
    for number, part in enumerate(_encoded(data, rows, folds, seed)):
        held_out = np.searchsorted(rows, part[3])  # rows are in order
        fold[held_out] = number
        for name, trial in winners.items():
            probabilities[name][held_out] = run(trial, part)
    return evaluate(
        data.table.given[rows],
        probabilities,
        data.table.classes,
        baseline=BASELINE,
        weights=data.weights[rows],
        fold=fold,
    )


def _recommended(
    best: TableTrial | None, baseline: TableTrial | None, scores: Mapping[str, Any], metric: str
) -> TableTrial:
    if best is None or baseline is None:
        trial = best or baseline
        assert trial is not None
        return trial
    return best if scores["difference"][metric]["result"] == "better" else baseline


def _winners(trials: list[TableTrial], folds: int, sign: int) -> tuple[TableTrial | None, TableTrial | None]:
    """Return the best complete trials of the other weightings and of cross-entropy."""
    complete = sorted((trial for trial in trials if len(trial.scores) == folds), key=lambda trial: -sign * trial.mean)
    others, baselines = ([t for t in complete if (t.weighting == CCE()) == is_cce] for is_cce in (False, True))
    return (others or [None])[0], (baselines or [None])[0]  # type: ignore[list-item]


def _sample(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the rows to use: all rows, or a stratified sample of `MOST_ROWS`."""
    if len(labels) <= MOST_ROWS:
        return np.arange(len(labels))
    order = np.random.default_rng(seed).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    chosen = by_class[np.linspace(0, len(labels) - 1, MOST_ROWS).astype(np.int64)]
    return np.sort(chosen)


def _encoded(data: Data, rows: NDArray[np.int64], folds: int, seed: int) -> list[tuple[Any, ...]]:
    """Return encoded training and held-out rows of each fold, and their numbers."""
    parts = []
    for train, test in splits(data.table.given[rows], folds, seed, data.table.groups[rows]):
        parts.append((*data.encode(rows[train], rows[test]), rows[train], rows[test]))
    return parts


def _read(folder: Path, digest: str) -> list[TableTrial]:
    """Return the trials that a folder holds.

    Raises:
        EmphasisValueError: The folder holds another search.
    """
    path = folder / TUNE
    if not path.is_file():
        if folder.exists() and any(folder.iterdir()):
            raise EmphasisValueError(f"{folder} is not empty and holds no search; use another folder (--out)")
        return []
    try:
        content = read_json(path)
        same = content.get("digest") == digest
        trials = [
            TableTrial(t["settings"], from_dict(t["weighting"]), tuple(t["scores"]), t["params"])
            for t in content["trials"]
        ]
    except (JSONFileError, KeyError, TypeError, ValueError):
        return []
    if not same:
        raise EmphasisValueError(
            f"{folder} holds a search with other settings or other data; use another folder (--out), or replace it "
            "(--force, force=True)"
        )
    return trials


def _write(folder: Path, content: Mapping[str, Any]) -> None:
    with naming_refusals("write to", folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / TUNE, json.dumps(content, indent=1, ensure_ascii=False))
