"""Audits of labels in memory: a ranking by out-of-sample predictions, given or cross-validated.

The score of a label is its margin, u = z_y - logsumexp_{j != y} z_j = log(p / (1 - p)), as in
`emphasis.diagnostics.suspects`. A label is suspect if another class is predicted with confidence: with at least the
mean probability that the examples labeled with this class have for it, and with a higher probability than any other
class of which that holds (C. Northcutt et al., "Confident Learning", JAIR 2021). Plain disagreement between label and
prediction would count every error of the model as a wrong label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emphasis.datasets.copies import array_groups, table_copies
from emphasis.diagnostics.suspects import Suspects
from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.experiments.studies.audit_result import BY_PREDICTIONS, Audit
from emphasis.experiments.studies.forest import out_of_bag_probabilities
from emphasis.review.examples import likeliest_classes, narrow_features
from emphasis.weighting import Weighting
from emphasis.weighting._numerics import log_sigmoid

_TOLERANCE = 1e-3  # of the sums of probabilities
_TINY = np.finfo(np.float64).tiny


def audit_predictions(
    labels: ArrayLike,
    probabilities: ArrayLike | None = None,
    *,
    logits: ArrayLike | None = None,
    class_names: Sequence[str] | None = None,
    weighting: Weighting | None = None,
    about: str = "Given predictions.",
) -> Audit:
    """Rank labels by predictions of models that were not trained on them, such as those of cross-validation.

    Args:
        labels: Labels of shape (n,): integers in [0, C), or the names of classes.
        probabilities: Probabilities of shape (n, C).
        logits: Logits of shape (n, C), in place of `probabilities`; more exact where probabilities round to 0 or 1.
        class_names: Names of the C columns; by default "0", ..., or the sorted names that `labels` holds.
        weighting: Weighting of the models, if it is known.
        about: How the predictions were made.

    Returns:
        The ranking. `numbers` has the counts, `suspects` the arrays, and `to_frame()` the table.

    Raises:
        TypeError: If neither or both of `probabilities` and `logits` are given.
        ValueError: If arrays do not fit together, or hold values that are not allowed.
    """
    if (probabilities is None) == (logits is None):
        raise EmphasisTypeError("give either probabilities or logits")
    log_p = _log_softmax(_matrix(logits, "logits")) if logits is not None else log_probabilities(probabilities)
    codes, names = encode_labels(labels, log_p.shape[1], class_names)
    if len(codes) != len(log_p):
        raise EmphasisValueError(f"there are {len(codes)} labels, but predictions for {len(log_p)} examples")
    margin = _margins(log_p, codes)
    top_classes, top_probabilities = likeliest_classes(np.exp(log_p))
    return Audit(
        title="Labels in memory",
        labels=codes,
        class_names=names,
        rows=np.arange(len(codes)),
        suspects=confident_suspects(log_p, codes, thresholds_of(*confidence_totals(log_p, codes))),
        at=(1,),
        unit="prediction",
        margins=(margin,),
        weighting=weighting,
        method=BY_PREDICTIONS,
        about=about,
        top_classes=top_classes,
        top_probabilities=top_probabilities,
    )


def audit_features(
    features: Any,
    labels: ArrayLike,
    *,
    class_names: Sequence[str] | None = None,
    weighting: Weighting | None = None,
    folds: int = 5,
    seed: int = 0,
) -> Audit:
    """Rank labels by the mean of two predictions by models that were not trained on the example.

    One is a cross-validated prediction of `emphasis.sklearn.EmphasisClassifier`, the other one that of a forest
    (`emphasis.experiments.studies.forest`).

    Args:
        features: Features of shape (n, D): an array, or a pandas DataFrame with numbers and categories.
        labels: Labels of shape (n,).
        class_names: Names of the classes if labels are integers in [0, C).
        weighting: Weighting to train with; None for the default.
        folds: Number of folds; each class needs as many examples.
        seed: Seed of the folds and of the networks.

    Raises:
        ValueError: If arrays do not fit together, or hold values that are not allowed.
        ModuleNotFoundError: If the extra "sklearn" is not installed.
    """
    from emphasis.sklearn import EmphasisClassifier
    from emphasis.tabular.cross_validation import splits

    values = np.asarray(labels)
    if values.ndim != 1:
        raise EmphasisValueError(f"labels have shape {values.shape}; use (n,)")
    if not hasattr(features, "iloc"):
        features = _matrix(features, "features", columns=1)
    if len(features) != len(values):
        raise EmphasisValueError(f"there are {len(values)} labels, but features of {len(features)} examples")
    present, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    if len(present) < 2:
        raise EmphasisValueError("labels hold one class only; an audit needs two classes or more")
    if isinstance(folds, bool) or not isinstance(folds, int) or not 2 <= folds <= counts.min():
        rarest = present[counts.argmin()].item()
        raise EmphasisValueError(
            f"folds={folds!r} is not allowed; use a whole number, 2 to {counts.min()}, the number of examples of class "
            f"{rarest!r}, or leave out this class"
        )
    everything = np.arange(len(codes))
    inputs = np.asarray(_encode(features, everything, everything)[0], dtype=np.float32)
    groups = _groups(features, codes)
    forest = out_of_bag_probabilities(inputs, codes, len(present), groups, seed=seed)
    probabilities = np.empty((len(values), len(present)))
    for train, test in splits(codes, folds, seed, groups):
        train_inputs, test_inputs = _encode(features, train, test)
        classifier = EmphasisClassifier(weighting, random_state=seed).fit(train_inputs, codes[train])
        probabilities[test] = classifier.predict_proba(test_inputs)
    names = tuple(map(str, present.tolist()))
    if class_names is not None:
        names = tuple(class_names[code] for code in encode_labels(present, len(class_names), class_names)[0])
    about = f"EmphasisClassifier, {folds}-fold cross-validation, and a forest's out-of-bag predictions; seed {seed}."
    mean = 0.5 * (probabilities + forest)
    audit = audit_predictions(codes, mean, class_names=names, weighting=weighting, about=about)
    return dataclasses.replace(audit, features=narrow_features(inputs))


def _groups(features: Any, labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the group of each example; equal examples are held out together."""
    if not hasattr(features, "iloc"):
        return array_groups(features, labels)
    rows, names = np.arange(len(labels)), list(features.columns)
    return table_copies(features, names, (), labels, [str(code) for code in range(labels.max() + 1)], "labels", rows)[0]


def _encode(features: Any, train: NDArray[Any], test: NDArray[Any]) -> tuple[Any, Any]:
    """Return training and test examples, standardized by the training examples."""
    if hasattr(features, "iloc"):
        from emphasis.datasets.table_columns import ColumnOptions, kinds_of
        from emphasis.datasets.table_encoder import fit_encoder

        names = list(features.columns)
        texts = kinds_of(features, names, np.arange(len(features)), ColumnOptions()).texts
        rows = features.iloc[train]
        encoder = fit_encoder(rows, names, (), 100, texts=texts)
        return encoder.transform(rows), encoder.transform(features.iloc[test])
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features[train])
    return scaler.transform(features[train]), scaler.transform(features[test])


def encode_labels(
    labels: ArrayLike, num_classes: int, class_names: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Return labels as integers in [0, C), and the names of the classes.

    Raises:
        ValueError: If labels are not one-dimensional, empty, missing, or not among the classes.
    """
    values = np.asarray(labels)
    if values.ndim != 1 or not len(values):
        raise EmphasisValueError(f"labels have shape {values.shape}; use (n,) with n >= 1")
    if class_names is not None and len(class_names) != num_classes:
        raise EmphasisValueError(f"{len(class_names)} class_names were given for {num_classes} columns of predictions")
    if values.dtype.kind in "iu":
        if values.min() < 0 or values.max() >= num_classes:
            raise EmphasisValueError(
                f"labels reach from {values.min()} to {values.max()}, but predictions have {num_classes} columns; use "
                f"0 to {num_classes - 1}"
            )
        names = class_names if class_names is not None else map(str, range(num_classes))
        return values.astype(np.int64), tuple(names)
    if values.dtype.kind == "f" or any(value is None or value != value for value in values.tolist()):
        raise EmphasisValueError("labels must be integers or names of classes, and none may be missing")
    texts = np.array([str(value) for value in values.tolist()])
    known = sorted(set(texts.tolist())) if class_names is None else list(class_names)
    if len(known) != num_classes:
        raise EmphasisValueError(
            f"labels hold {len(known)} classes, but predictions have {num_classes} columns; give class_names in the "
            "order of the columns"
        )
    code_of = {name: code for code, name in enumerate(known)}
    if unknown := sorted(set(texts.tolist()) - code_of.keys()):
        raise EmphasisValueError(f"the label {unknown[0]!r} is not among the class_names")
    return np.array([code_of[text] for text in texts.tolist()], dtype=np.int64), tuple(known)


def _matrix(values: ArrayLike | None, name: str, columns: int = 2) -> NDArray[np.float64]:
    """Return a finite matrix of float64, or raise ValueError."""
    try:
        matrix = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise EmphasisValueError(f"{name} must be an array of numbers ({error})") from error
    if matrix.ndim != 2 or matrix.shape[1] < columns:
        shape = "(n, C) with C >= 2" if columns == 2 else "(n, D)"
        raise EmphasisValueError(f"{name} have shape {matrix.shape}; use {shape}")
    if not np.isfinite(matrix).all():
        raise EmphasisValueError(f"{name} hold NaN or infinite values")
    return matrix


def log_probabilities(probabilities: ArrayLike | None) -> NDArray[np.float64]:
    """Return the logarithms of probabilities, or raise ValueError if they are none."""
    p = _matrix(probabilities, "probabilities")
    if p.min(initial=0.0) < 0.0 or p.max(initial=0.0) > 1.0 + _TOLERANCE:
        raise EmphasisValueError(
            f"probabilities reach from {p.min():g} to {p.max():g}; they must be in [0, 1]. For logits use logits=..."
        )
    sums = p.sum(axis=1)
    if len(p) and np.abs(sums - 1.0).max() > _TOLERANCE:
        row = int(np.abs(sums - 1.0).argmax())
        raise EmphasisValueError(f"the probabilities of row {row} add up to {sums[row]:g}; they must add up to 1")
    return np.asarray(np.log(np.maximum(p, _TINY)), dtype=np.float64)


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), dtype=np.float64)


def _margins(log_p: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return log p_y - log sum_{j != y} p_j of each example, shape (n,)."""
    rows = np.arange(len(labels))
    others = log_p.copy()
    others[rows, labels] = -np.inf
    top = others.max(axis=1)
    log_others = top + np.log(np.exp(others - top[:, None]).sum(axis=1))
    return np.asarray(log_p[rows, labels] - log_others, dtype=np.float64)


def confidence_totals(
    log_p: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of each class's probability over the examples with this label, and their number, (C,) each."""
    num_classes = log_p.shape[1]
    p = np.exp(log_p[np.arange(len(labels)), labels])
    totals = np.bincount(labels, p, num_classes).astype(np.float64)
    return totals, np.bincount(labels, minlength=num_classes)


def thresholds_of(totals: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean probability of each class over the examples with this label, given `confidence_totals`."""
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)


def confident_suspects(
    log_p: NDArray[np.float64], labels: NDArray[np.int64], thresholds: NDArray[np.float64]
) -> Suspects:
    """Return the ranking by margin, with the suspects of confident learning.

    Args:
        log_p: Logarithms of the probabilities, (n, C).
        labels: Labels, (n,).
        thresholds: Probability from which a class is predicted with confidence, (C,).
    """
    margin, p = _margins(log_p, labels), np.exp(log_p)
    confident = np.where(p >= thresholds, p, -1.0)
    predicted = np.where(confident.max(axis=1) > 0.0, confident.argmax(axis=1), labels)
    suspect = predicted != labels
    suggested = np.where(suspect, predicted, p.argmax(axis=1))
    return Suspects(
        score=margin,
        suggested=suggested.astype(np.int64),
        suspect=suspect,
        sample_weight=np.exp(log_sigmoid(margin)),
        order=np.argsort(margin, kind="stable").astype(np.int64),
    )
