"""`emphasis.audit`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from emphasis.api._arguments import PathLike, data_recipe, is_path_or_recipe, make_context, reporter_or_silent
from emphasis.errors import EmphasisTypeError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from emphasis.experiments.recipes.recipe import Recipe
    from emphasis.experiments.runs.context import Reporter, RunContext
    from emphasis.experiments.studies.audit_result import Audit
    from emphasis.weighting import WeightingLike


def audit(
    labels: ArrayLike | PathLike | Recipe,
    probabilities: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    features: Any = None,
    class_names: Sequence[str] | None = None,
    cv_folds: int = 5,
    seed: int = 0,
    weighting: WeightingLike | None = None,
    label: str | None = None,
    folder: PathLike | None = None,
    condition: str = "",
    noise_rate: float | None = None,
    iterations: int | None = None,
    settings: Mapping[str, Any] | None = None,
    root: PathLike | None = None,
    accelerator: str = "auto",
    force: bool = False,
    reporter: Reporter | None = None,
    **data_options: Any,
) -> Audit:
    """Rank labels by how wrong they look.

    There are three ways to call it, by what is known about the examples:

    - `audit(labels, probabilities)` or `audit(labels, logits=...)` ranks labels by out-of-sample predictions, for
      instance those of cross-validation. It needs numpy only.
    - `audit(labels, features=...)` makes such predictions first: the mean of a cross-validated small network's
      (`emphasis.sklearn.EmphasisClassifier`) and a forest's out-of-bag predictions.
    - `audit("customers.csv", label="churned")` trains a network on a table, a folder of images or a recipe, ranks the
      labels by its predictions during training (of a table, also by those of a forest), and writes the folder of an
      audit, as `emphasis audit` does.

    Args:
        labels: Labels of shape (n,): integers in [0, C) or names of classes. Or the path of a table, of a folder of
            images or of a trace, the name or path of a recipe, or a recipe.
        probabilities: Out-of-sample probabilities of shape (n, C); the columns are the classes in sorted order.
        logits: Out-of-sample logits of shape (n, C).
        features: Features of shape (n, D), an array or a pandas DataFrame.
        class_names: Names of the C classes, in the order of the columns.
        cv_folds: Number of folds of the cross-validation with `features`.
        seed: Seed of the cross-validation with `features`.
        weighting: Weighting to train with; None for the default. Not for predictions that are given.
        label: Label column of a table.
        folder: Folder to write to; None for runs/NAME. The following arguments are for data on disk, too.
        condition: Condition of a recipe; "" for the first.
        noise_rate: Rate of symmetric noise to put on the labels, to measure how much of it is found.
        iterations: Number of training steps; None for what suits the data.
        settings: Settings of network and solver, such as {"solver.learning_rate": 0.02}.
        root: Folder of the data sets.
        accelerator: "auto", "cpu", "cuda" or "mps".
        force: Whether everything is trained anew.
        reporter: Receives progress and messages; None for silence.
        data_options: Options of a table or of a folder of images, such as `drop`, `categorical` or `size`.

    Returns:
        The ranking. `result.suspects` has arrays of shape (n,): score, suggested label, suspect, sample_weight and
        order; `result.numbers` counts and the estimated noise rate; `result.to_frame()` is the table.

    Raises:
        TypeError: If arguments do not go together.
        ValueError: If arrays do not fit together, data cannot be used, or the network diverged.
        ModuleNotFoundError: If an extra is not installed.

    Examples:
        >>> import emphasis
        >>> labels = [0, 0, 1, 1, 1]
        >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.9, 0.1]]
        >>> result = emphasis.audit(labels, probabilities)
        >>> result.suspects.order[:1], result.suspects.suspect
        (array([4]), array([False, False, False, False,  True]))
    """
    on_disk = {
        "label": label,
        "folder": folder,
        "condition": condition or None,
        "noise_rate": noise_rate,
        "iterations": iterations,
        "settings": settings,
        "root": root,
        **data_options,
    }
    if is_path_or_recipe(labels):
        for name, value in (("probabilities", probabilities), ("logits", logits), ("features", features)):
            if value is not None:
                raise EmphasisTypeError(f"{name} are for labels in memory; {labels!r} names data on disk")
        source = cast("PathLike | Recipe", labels)
        options = {name: value for name, value in {"label": label, **data_options}.items() if value is not None}
        return _audit_on_disk(
            source,
            options,
            make_context(root=root, accelerator=accelerator),
            reporter_or_silent(reporter),
            weighting=weighting,
            folder=folder,
            condition=condition,
            noise_rate=noise_rate,
            iterations=iterations,
            settings=settings,
            force=force,
        )
    for name, value in on_disk.items():
        if value is not None:
            raise EmphasisTypeError(f"{name} is for data on disk; leave it out for labels in memory")
    from emphasis.experiments.studies.label_audit import audit_features, audit_predictions

    given = [value is not None for value in (probabilities, logits, features)]
    if sum(given) != 1:
        raise EmphasisTypeError("give one of probabilities, logits and features together with labels")
    if features is None:
        if weighting is not None:
            raise EmphasisTypeError("weighting is for training; leave it out for predictions that are given")
        return audit_predictions(cast("ArrayLike", labels), probabilities, logits=logits, class_names=class_names)
    from emphasis.weighting import as_weighting

    return audit_features(
        features,
        cast("ArrayLike", labels),
        class_names=class_names,
        weighting=None if weighting is None else as_weighting(weighting),
        folds=cv_folds,
        seed=seed,
    )


def _audit_on_disk(
    source: PathLike | Recipe,
    options: Mapping[str, Any],
    context: RunContext,
    reporter: Reporter,
    *,
    weighting: WeightingLike | None,
    folder: PathLike | None,
    condition: str,
    noise_rate: float | None,
    iterations: int | None,
    settings: Mapping[str, Any] | None,
    force: bool,
) -> Audit:
    from emphasis.experiments.reports.audit_page import audit_page
    from emphasis.experiments.studies import audit as audits
    from emphasis.experiments.studies.audit_result import write_audit
    from emphasis.weighting import DEFAULT_WEIGHTING, as_weighting

    if isinstance(source, (str, os.PathLike)) and audits.is_trace(Path(source)):
        result = audits.audit_trace(Path(source))
        write_audit(result, Path(source if folder is None else folder), audit_page)
        return result
    recipe = data_recipe(source, options, settings)
    single, split = audits.audit_recipe(
        recipe,
        DEFAULT_WEIGHTING if weighting is None else as_weighting(weighting),
        context,
        reporter,
        condition=condition,
        noise_rate=noise_rate,
        iterations=iterations,
    )
    target = Path("runs") / single.name if folder is None else Path(folder)
    result = audits.audit(single, split, target, context, reporter, force=force)
    write_audit(result, target, audit_page)
    return result
