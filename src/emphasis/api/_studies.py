"""`emphasis.tune` and `emphasis.search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emphasis.api._arguments import (
    PathLike,
    as_recipe,
    data_recipe,
    make_context,
    make_space,
    reporter_or_silent,
)

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.context import Reporter
    from emphasis.experiments.studies.search import SearchResult
    from emphasis.experiments.studies.tuning_result import TuningResult


def tune(
    data: PathLike | Recipe,
    *,
    label: str | None = None,
    folder: PathLike | None = None,
    condition: str = "",
    noise_rate: float | None = None,
    assumed_rate: float | None = None,
    vary: Mapping[str, Any] | None = None,
    trials: int = 24,
    folds: int = 3,
    seeds: int = 1,
    seed: int = 0,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    root: PathLike | None = None,
    accelerator: str = "auto",
    workers: int = 1,
    force: bool = False,
    reporter: Reporter | None = None,
    **data_options: Any,
) -> TuningResult:
    """Choose a weighting and a learning rate for data whose labels nobody has checked, as `emphasis tune` does.

    Args:
        data: Path of a table or of a folder of images, name or path of a recipe, or a recipe.
        label: Label column of a table.
        folder: Folder to write to; None for runs/NAME-tune.
        condition: Condition of a recipe; "" for the first.
        noise_rate: Rate of symmetric noise to put on the labels first.
        assumed_rate: Fraction of wrong labels, if it is known; None to estimate it.
        vary: Settings to search: values as a list, or (low, high) or (low, high, "log") as a tuple, such as
            {"weighting.beta": (0.5, 24.0, "log")}; None for beta, form and normalization.
        trials: Total number of trials.
        folds: Number of fifths of the data that are held out in turn, 1 to 5.
        seeds: Number of networks per trial and fold.
        seed: Seed of the search.
        iterations: Number of training steps; None for what suits the data.
        settings: Settings of network and solver, such as {"solver.learning_rate": 0.02}.
        root: Folder of the data sets.
        accelerator: "auto", "cpu", "cuda" or "mps".
        workers: Number of processes.
        force: Whether everything is trained anew.
        reporter: Receives progress and messages; None for silence.
        data_options: Options of a table or of a folder of images, such as `drop`, `categorical` or `size`.

    Returns:
        The recommendation: `result.weighting`, `result.normalization`, `result.learning_rate`, `result.verdict`.

    Raises:
        ValueError: If an argument or the data is not allowed, or a network diverged.
        ModuleNotFoundError: If an extra is not installed.
    """
    from emphasis.experiments.reports.audit_page import audit_page
    from emphasis.experiments.reports.tune_page import tune_page
    from emphasis.experiments.studies import tune as tuning
    from emphasis.experiments.studies.audit_result import write_audit
    from emphasis.files import write_text

    options = {name: value for name, value in {"label": label, **data_options}.items() if value is not None}
    recipe = data_recipe(data, options, settings)
    target = Path("runs") / f"{recipe.name}-tune" if folder is None else Path(folder)
    result = tuning.tune(
        recipe,
        target,
        make_context(root=root, accelerator=accelerator, workers=workers),
        reporter_or_silent(reporter),
        condition=condition,
        noise_rate=noise_rate,
        assumed_rate=assumed_rate,
        space=tuning.SPACE if vary is None else make_space(vary),
        trials=trials,
        folds=folds,
        seeds=seeds,
        seed=seed,
        iterations=iterations,
        force=force,
    )
    if result.audit is not None:
        write_audit(result.audit, target / tuning.AUDIT, audit_page)
    write_text(target / tuning.PAGE, tune_page(result))
    return result


def search(
    recipe: PathLike | Recipe,
    method: str,
    *,
    vary: Mapping[str, Any] | None = None,
    folder: PathLike | None = None,
    condition: str = "",
    trials: int = 32,
    batch: int = 8,
    validation: float | Literal["own"] | None = None,
    noisy_validation: bool = False,
    retrain: bool = True,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
    root: PathLike | None = None,
    download: bool = False,
    accelerator: str = "auto",
    workers: int = 1,
    threads: int | None = None,
    reporter: Reporter | None = None,
) -> SearchResult:
    """Search the settings of a method on held-out data, as `emphasis search` does.

    Args:
        recipe: Name of a recipe of the package, path of a .toml file, or a recipe.
        method: Method of the recipe to start from.
        vary: Settings to search: values as a list, or (low, high) or (low, high, "log") as a tuple; None for lam and
            beta of DM.
        folder: Folder of the networks; None for runs/NAME-search.
        condition: Condition of the recipe; "" if it has only one.
        trials: Total number of trials.
        batch: Number of trials that are suggested and trained together.
        validation: Fraction of the training part that is held out; "own" evaluates on the validation part that the
            data set comes with; None takes that where there is one (Clothing1M), and 0.2 otherwise.
        noisy_validation: Whether label noise is put on the held-out labels too.
        retrain: Whether the best settings are trained on the whole training part and tested.
        seed: Seed of the search.
        settings: Settings of the recipe, such as {"seeds": 2}.
        root: Folder of the data sets.
        download: Whether missing data is downloaded.
        accelerator: "auto", "cpu", "cuda" or "mps".
        workers: Number of processes.
        threads: Number of CPU threads of each process; None for what suits the networks.
        reporter: Receives progress and messages; None for silence.

    Returns:
        All trials, the best one, and the test results of its settings.

    Raises:
        ValueError: If there is no such method, condition or setting.
        ModuleNotFoundError: If the extra "search" is not installed.
    """
    from emphasis.experiments.studies import search as searches
    from emphasis.experiments.studies.space import DEFAULT_SPACE

    chosen = as_recipe(recipe).changed(dict(settings or {}))
    return searches.search(
        chosen,
        Path("runs") / f"{chosen.name}-search" if folder is None else Path(folder),
        make_context(root=root, download=download, accelerator=accelerator, workers=workers, threads=threads),
        reporter_or_silent(reporter),
        method=method,
        condition=condition,
        space=DEFAULT_SPACE if vary is None else make_space(vary),
        trials=trials,
        batch=batch,
        validation=validation,
        noisy_validation=noisy_validation,
        retrain=retrain,
        seed=seed,
    )
