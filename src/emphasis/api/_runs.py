"""`emphasis.run`, `emphasis.report`, `emphasis.fit` and `emphasis.export`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from emphasis.api._arguments import PathLike, as_recipe, make_context, reporter_or_silent
from emphasis.errors import EmphasisTypeError, EmphasisValueError

if TYPE_CHECKING:
    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.context import Reporter
    from emphasis.images.result import ImageFit
    from emphasis.tabular.onnx_export import Exported
    from emphasis.weighting import WeightingLike


@overload
def fit(table: PathLike, *, label: None = None, **options: Any) -> ImageFit: ...


@overload
def fit(table: Any, *, label: str, **options: Any) -> Any: ...


def fit(table: Any, *, label: str | None = None, **options: Any) -> Any:
    """Cross-validate and train a classifier of one's own table or images.

    Args:
        table: A table of pandas, polars, pyarrow or another library, or the path of a text or Parquet file. Or a
            folder with a folder of images for each class.
        label: Name of the label column of a table.
        options: Further arguments of `emphasis.tabular.fit_table`, such as `folder`, `model`, `weighting` or `folds`.
            For images those of `emphasis.api.fit_images`; a table with the argument `images`, a column of paths, is a
            table of images.

    Returns:
        Out-of-fold predictions and scores, a `Fit` or an `ImageFit`; `result.model` predicts other tables or images.

    Raises:
        TypeError, ValueError: If an argument, a column or an image is not allowed.
        ModuleNotFoundError: If an extra is not installed.

    Examples:
        >>> import emphasis
        >>> from sklearn.datasets import load_iris
        >>> frame = load_iris(as_frame=True).frame
        >>> result = emphasis.fit(frame, label="target", folder="runs/iris", folds=2, settings={"n_estimators": 5})
        >>> result.model.predict(frame.drop(columns="target")).shape
        (150,)
        >>> images = emphasis.fit("photos")  # doctest: +SKIP
        >>> images.model.predict(["new/1.jpg"])  # doctest: +SKIP
    """
    is_path = isinstance(table, (str, os.PathLike))
    if "images" in options or (is_path and Path(table).is_dir() and label is None):
        return fit_images(table, label=label, **options)
    if label is None:
        raise EmphasisTypeError("name the label column of the table: label=...")
    from emphasis.tabular import fit_table

    return fit_table(table, label=label, **options)


def fit_images(
    source: PathLike,
    *,
    label: str | None = None,
    images: str | None = None,
    folder: PathLike | None = None,
    network: str = "",
    features: str = "",
    weights: PathLike | None = None,
    weighting: WeightingLike | None = None,
    compare: bool = True,
    calibrate: bool = True,
    folds: int = 0,
    seed: int = 0,
    augment: bool = False,
    iterations: int = 0,
    settings: Mapping[str, Any] | None = None,
    accelerator: str = "auto",
    force: bool = False,
    progress: Callable[[str, int, int], None] = lambda *_: None,
    **data_options: Any,
) -> ImageFit:
    """Cross-validate and train a network on one's own images; `emphasis.fit` calls it for images.

    Args:
        source: Folder with a folder for each class, or a table with a column of paths.
        label: Label column of a table.
        images: Column of paths of a table.
        folder: Folder to write to; None for runs/NAME.
        network: Network to train: a name of `emphasis.models`, or "timm:NAME" (extra `timm`); "" for small-cnn.
        features: In place of `network`, a frozen network whose features a linear layer is trained on: the folder of
            another fit of images, a name of `emphasis.models`, or "timm:NAME". Features are cached on disk.
        weights: Local file of parameters of either network; None for random ones. Nothing is downloaded.
        weighting: As for `emphasis.torch.emphasis_loss`; None for the default weighting.
        compare: Whether cross-entropy is cross-validated as well.
        calibrate: Whether probabilities are calibrated if that makes them clearly better.
        folds: Number of folds; 0 for 3, or 5 with features.
        seed: Seed of the folds and of the networks.
        augment: Whether training images are cropped and mirrored at random.
        iterations: Number of training steps; 0 for what suits the number of images.
        settings: Settings of network and solver, such as {"solver.learning_rate": 0.02}.
        accelerator: "auto", "cpu", "cuda" or "mps".
        force: Whether another fit in the folder is replaced.
        progress: Called as `progress(task, done, total)`.
        data_options: Options of the data set `image-folder` or `image-table`, such as `size` and `channels`.

    Returns:
        Out-of-fold predictions and scores; its attribute `model` predicts other images.

    Raises:
        ValueError: If an argument or the images are not allowed, or a network diverged.
        ModuleNotFoundError: If an extra is not installed.
    """
    from emphasis.experiments.studies import image_fit

    given = {"label": label, "images": images, **data_options}
    return image_fit.fit_images(
        os.fspath(source),
        {name: value for name, value in given.items() if value is not None},
        image_fit.ImageOptions(
            network=network,
            features=features,
            weights=None if weights is None else Path(weights),
            folds=folds,
            augment=augment,
            iterations=iterations,
            settings=dict(settings or {}),
        ),
        None if folder is None else Path(folder),
        weighting=weighting,
        compare=compare,
        calibrate=calibrate,
        seed=seed,
        force=force,
        context=make_context(accelerator=accelerator),
        progress=progress,
    )


def export(folder: PathLike, path: PathLike | None = None) -> Exported:
    """Write the model of a fit as one ONNX file, as `emphasis export` does.

    Args:
        folder: Folder that `fit` wrote, such as `result.folder`.
        path: File to write; None for model.onnx in the folder of the model.

    Returns:
        The path, the inputs and outputs, and the largest difference of its probabilities from those of the model.

    Raises:
        ValueError: If the model cannot be exported, because it has a column of text.
        RuntimeError: If probabilities differ by more than 1e-5; then nothing is written.
        ModuleNotFoundError: If an extra is not installed.
    """
    from emphasis.tabular.onnx_export import export_onnx

    return export_onnx(folder, path)


def run(
    recipe: PathLike | Recipe,
    *,
    folder: PathLike | None = None,
    scaled: bool = False,
    conditions: Sequence[str] = (),
    methods: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    root: PathLike | None = None,
    download: bool = False,
    accelerator: str = "auto",
    workers: int = 1,
    threads: int | None = None,
    force: bool = False,
    reporter: Reporter | None = None,
) -> list[dict[str, Any]]:
    """Train the networks of a recipe, as `emphasis run` does, except those that the folder already holds.

    Args:
        recipe: Name of a recipe of the package, path of a .toml file, or a recipe.
        folder: Folder of results and checkpoints; None for runs/NAME.
        scaled: Whether the smaller form of the recipe is used.
        conditions: Conditions to train; empty for all.
        methods: Methods to train; empty for all.
        settings: Settings, such as {"seeds": 2, "solver.iterations": 300}.
        root: Folder of the data sets.
        download: Whether missing data is downloaded.
        accelerator: "auto", "cpu", "cuda" or "mps".
        workers: Number of processes.
        threads: Number of CPU threads of each process; None for what suits the networks.
        force: Whether another run in the folder is replaced.
        reporter: Receives progress and messages; None for silence.

    Returns:
        One dictionary per network, as in results.jsonl: settings, accuracies, curves and where they were computed.

    Raises:
        ValueError: If the recipe or a setting is not allowed.
        EmphasisError: If the folder holds something else, the data is missing, or a network could not be trained.

    Examples:
        >>> import emphasis
        >>> settings = {"seeds": 1, "solver.iterations": 20}
        >>> rows = emphasis.run("digits", settings=settings, methods=["CCE"], folder="runs/first")
        >>> [(row["method"], row["seed"]) for row in rows]
        [('CCE', 0)]
        >>> print(emphasis.report("runs/first", format="text"))  # doctest: +ELLIPSIS
        Digits...
    """
    from emphasis.experiments.runs import runner

    chosen = as_recipe(recipe)
    chosen = chosen.scaled_down() if scaled else chosen
    chosen = chosen.limited(conditions, methods).changed(dict(settings or {}))
    target = Path("runs") / chosen.name if folder is None else Path(folder)
    context = make_context(root=root, download=download, accelerator=accelerator, workers=workers, threads=threads)
    return runner.run(chosen, target, context, reporter_or_silent(reporter), force=force)


@overload
def report(run: PathLike, *, format: None = None, root: PathLike | None = None) -> list[Path]: ...


@overload
def report(run: PathLike, *, format: str, root: PathLike | None = None) -> str: ...


def report(
    run: PathLike,
    *,
    format: str | None = None,  # noqa: A002
    root: PathLike | None = None,
) -> list[Path] | str:
    """Write the report of a run, as `emphasis report` does, or return it in one format.

    Args:
        run: Folder of a run, or its name in runs/ or results/.
        format: None to write the table, the figures and the page into the folder; "text", "csv" or "html" to return
            the report and write nothing.
        root: Folder of the data sets, for the page of suspect labels.

    Returns:
        The files that were written, or the report.

    Raises:
        ValueError: If the format is unknown.
        EmphasisError: If there is no such run, or it is damaged.
    """
    from emphasis.experiments.reports import report as reports

    if format not in (None, *reports.FORMATS):
        known = ", ".join(map(repr, reports.FORMATS))
        raise EmphasisValueError(f"format={format!r} is not allowed; use {known} or None")
    folder = reports.find_folder(os.fspath(run))
    summary = reports.read_summary(folder)
    if format is not None:
        return reports.render(summary, format)
    return [folder / name for name in reports.write_report(folder, summary, None if root is None else Path(root))]
