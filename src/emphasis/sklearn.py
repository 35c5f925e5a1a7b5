"""Losses for scikit-learn: `EmphasisClassifier`, a multilayer perceptron for tables that trains with any weighting.

Needs the extra `sklearn` (PyTorch and scikit-learn).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra

try:
    import torch  # noqa: F401
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import train_test_split

    from emphasis import _sklearn_training as training
    from emphasis.compatibility.sklearn import check_partial_fit_first_call
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.sklearn", "sklearn", error) from None

from emphasis.learning_rate import cosine
from emphasis.weighting import MaxMargin, WeightingLike, default_schedule
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested


class EmphasisClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron, or a linear classifier with `hidden=()`, trained by AdamW with a weighting.

    Like the networks of scikit-learn it needs features of similar scale: use a `StandardScaler` before it. It computes
    in float32 for float32 inputs, and in float64 otherwise. X may be sparse; y has two or more classes of any type.

    Args:
        weighting: See `emphasis.torch.emphasis_loss`. Defaults to `DEFAULT_WEIGHTING`.
        normalization: See `emphasis_loss`.
        max_margin: See `emphasis_loss`.
        hidden: Numbers of units of the hidden layers.
        activation: Activation of the hidden layers: "relu", "sigmoid" or "tanh".
        dropout: Dropout rate before the last layer, in [0, 1).
        learning_rate: Learning rate of AdamW. With "auto", `fit` chooses the rate with which cross-entropy predicts
            held-out labels best, and the rate rises for a few steps and falls to 0 by `max_epochs`, see
            `emphasis.learning_rate`; with a `Relative`, such as the default, the first fifth of `max_epochs` is
            trained with cross-entropy, see `emphasis.weighting.default_schedule`. A number is a constant rate.
            `partial_fit` uses 0.001 for "auto".
        weight_decay: Decoupled weight decay of AdamW, >= 0.
        batch_size: Number of rows in a step; "auto" for 200, or all rows if there are fewer.
        max_epochs: Largest number of passes over the data.
        early_stopping: Whether a stratified share of the rows, `validation_fraction`, is held out, and the weights of
            the epoch that predicts their labels best are kept. Without it training ends after `max_epochs`, or, with a
            constant learning rate and unless normalization is "batch", when the loss no longer decreases.
        validation_fraction: Share of the rows that `early_stopping` holds out, in (0, 1).
        n_iter_no_change: Number of epochs without improvement after which training ends.
        tol: Smallest improvement that counts, >= 0.
        class_weight: None, "balanced", or a dictionary of factors of w by class.
        random_state: Seed or generator of the initial weights, the order of rows, dropout and held-out rows. The
            generators of torch are not changed.
        device: Device of torch: "cpu", "cuda", "mps", or "auto" for an accelerator if there is one.
        verbose: Whether progress is shown, by a bar of rich on a terminal, or else by a line for each epoch.

    Attributes:
        classes_: Labels of the classes, sorted, (C,).
        n_features_in_: Number of features D.
        feature_names_in_: Names of the features, if X is a table with names.
        network_: The `torch.nn.Sequential` that maps (N, D) to logits (N, C).
        n_iter_: Number of epochs.
        loss_curve_: Mean loss of each epoch.
        validation_scores_: Weighted accuracy on the held-out rows after each epoch; None without early stopping.
        best_epoch_: Epoch of which the weights were kept, counted from 1; None without early stopping.
        learning_rate_: The learning rate, as given or chosen.

    Examples:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from emphasis.corruption import symmetric
        >>> from emphasis.sklearn import EmphasisClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> noisy = symmetric(y, 0.3, seed=0).labels  # 30 % of the labels are now wrong
        >>> model = make_pipeline(StandardScaler(), EmphasisClassifier(max_epochs=30, random_state=0))
        >>> model.fit(X, noisy).predict_proba(X).shape
        (150, 3)
        >>> model.score(X, y) > 0.8
        True
    """

    validation_scores_: list[float] | None
    best_epoch_: int | None

    def __init__(
        self,
        weighting: WeightingLike | None = None,
        *,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        learning_rate: float | Literal["auto"] = "auto",
        weight_decay: float = 0.0,
        batch_size: int | Literal["auto"] = "auto",
        max_epochs: int = 200,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        class_weight: Any = None,
        random_state: Any = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        self.weighting, self.normalization, self.max_margin = weighting, normalization, max_margin
        self.hidden, self.activation, self.dropout = hidden, activation, dropout
        self.learning_rate, self.weight_decay, self.batch_size = learning_rate, weight_decay, batch_size
        self.max_epochs, self.early_stopping, self.validation_fraction = max_epochs, early_stopping, validation_fraction
        self.n_iter_no_change, self.tol, self.class_weight = n_iter_no_change, tol, class_weight
        self.random_state, self.device, self.verbose = random_state, device, verbose

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, with `deep` those of the weighting as well, such as `weighting__beta`."""
        return {**super().get_params(deep), **(nested_parameters(self.weighting) if deep else {})}

    def set_params(self, **params: Any) -> EmphasisClassifier:
        """Set parameters; `weighting__beta` changes beta of the weighting."""
        super().set_params(**resolve_nested(params, self.weighting))
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EmphasisClassifier:
        """Train from new weights.

        Args:
            X: Features of shape (N, D), dense or sparse.
            y: Labels of shape (N,).
            sample_weight: Factors of w, >= 0, of shape (N,), or None for 1.

        Returns:
            The classifier itself.

        Raises:
            ValueError: A parameter is not allowed, the data does not match, or training diverged.
        """
        X, y, weight = training.checked_data(self, X, y, sample_weight, reset=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        training.start(self, X.dtype, labels, weight)
        train: Any = slice(None)
        if self.early_stopping:
            train, held_out = train_test_split(
                np.arange(len(y)), test_size=self.validation_fraction, stratify=y, random_state=self._random
            )
        rows, scores = (X[train], labels[train], weight[train]), self.validation_scores_
        falls = self.learning_rate == "auto"
        if falls:
            self.learning_rate_ = training.choose_rate(self, *rows)
        schedule = default_schedule(self._loss.weighting) if falls else {}
        ends = not falls and self.normalization != "batch"
        best, best_epoch, kept = -math.inf, 0, {}
        with training.epoch_display(self) as show:
            for epoch in range(1, self.max_epochs + 1):
                if falls:
                    training.set_rate(self, self.learning_rate_ * cosine(epoch - 1, self.max_epochs))
                score = -training.train_epoch(self, *rows, schedule)
                line = f"epoch {epoch}: loss {-score:.5f}"
                if scores is not None:
                    right = training.compute_logits(self, X[held_out]).argmax(1).numpy() == labels[held_out]
                    score = float(np.average(right, weights=weight[held_out]))
                    line += f", accuracy on held-out rows {score:.4f}"
                    if score > max(scores, default=-1.0):
                        kept, self.best_epoch_ = copy.deepcopy(self.network_.state_dict()), epoch
                    scores.append(score)
                show(line)
                if score > best + self.tol:
                    best, best_epoch = score, epoch
                elif epoch - best_epoch >= self.n_iter_no_change and (kept or ends):
                    break
        training.set_rate(self, self.learning_rate_)  # the rate with which `partial_fit` continues
        if kept:
            self.network_.load_state_dict(kept)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> EmphasisClassifier:
        """Train for one pass over these rows.

        Args:
            X: Features of shape (N, D), dense or sparse.
            y: Labels of shape (N,).
            classes: All labels that will occur, which the first call needs.
            sample_weight: Factors of w, >= 0, of shape (N,), or None for 1.

        Returns:
            The classifier itself.

        Raises:
            ValueError: See `fit`. Also if `classes` is missing or has changed, or `y` has another label.
        """
        if self.class_weight == "balanced":
            raise EmphasisValueError(
                'class_weight="balanced" needs all rows at once; use a dictionary of weights with partial_fit'
            )
        first = not hasattr(self, "network_")
        X, y, weight = training.checked_data(self, X, y, sample_weight, reset=first)
        check_partial_fit_first_call(self, classes)
        if (unknown := ~np.isin(y, self.classes_)).any():
            known = self.classes_.tolist()
            raise EmphasisValueError(f"y holds {y[unknown].tolist()[0]!r}, which is not among the classes {known!r}")
        labels = np.searchsorted(self.classes_, y)
        if first:
            training.start(self, X.dtype, labels, weight)
        training.train_epoch(self, X, labels, weight)
        return self

    def decision_function(self, X: Any) -> Any:
        """Return the logits (N, C), or for two classes those of the second minus the first, (N,)."""
        logits = training.compute_logits(self, X, check=True).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes, (N, C)."""
        return training.compute_logits(self, X, check=True).softmax(1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the most probable labels, (N,)."""
        chosen = training.compute_logits(self, X, check=True).argmax(1).numpy()
        return self.classes_[chosen]
