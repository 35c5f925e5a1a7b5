"""Emphasis in scikit-learn: `EmphasisClassifier`, a perceptron for tables that learns with any weighting.

Needs the extra `sklearn` (PyTorch and scikit-learn).
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from emphasis.extras import missing_extra

try:
    import torch
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.metrics import accuracy_score
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_sample_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.sklearn", "sklearn", error) from None

from emphasis.models.mlp import mlp
from emphasis.torch import EmphasisLoss
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, WeightingLike

_ROWS_AT_ONCE = 8192  # in prediction: sparse rows are made dense


class EmphasisClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron, or with `hidden=()` a linear classifier, trained by Adam with a weighting.

    Like scikit-learn's own networks it wants features of similar scale: put a `StandardScaler` before it. Arithmetic is
    in float32 for float32 inputs, else in float64. X may be sparse; y holds two classes or more, of any kind.

    Args:
        weighting: As `emphasis.torch.emphasis_loss` takes it; None for `DEFAULT_WEIGHTING`.
        normalization: Likewise.
        max_margin: Likewise.
        hidden: Units of each hidden layer.
        activation: "relu", "sigmoid" or "tanh".
        dropout: Rate in [0, 1) before the last layer.
        learning_rate: Of Adam.
        weight_decay: Of AdamW: decoupled, times the learning rate.
        batch_size: Rows in a step; "auto": 200, or all if there are fewer.
        max_epochs: Passes over the data, at most.
        early_stopping: Whether a stratified share of the rows is held out, and the epoch kept that predicts its given
            labels best. Otherwise training ends when the loss no longer falls.
        validation_fraction: That share, in (0, 1).
        n_iter_no_change: Epochs without an improvement of more than `tol`, after which training ends.
        tol: In accuracy with early stopping, else in loss.
        class_weight: None, "balanced" or a weight for each class.
        random_state: Of initial weights, order, dropout and held-out rows. torch's own generator is left alone.
        device: Where torch computes: "cpu", "cuda", "mps", or "auto" for what there is.
        verbose: Whether a line is printed for each epoch.

    Attributes:
        classes_: (C,) the labels, sorted.
        n_features_in_: D. And `feature_names_in_`, if X is a table with names.
        network_: The `torch.nn.Sequential`, (N, D) -> (N, C) logits.
        n_iter_: Epochs trained.
        loss_curve_: The mean loss of each epoch.
        validation_scores_: With early stopping, the accuracy on the held-out rows after each.
        best_epoch_: With early stopping, the epoch whose weights were kept, from 1.
    """

    def __init__(
        self,
        weighting: WeightingLike | None = None,
        *,
        normalization: Literal["integral", "batch"] | None = "integral",
        max_margin: MaxMargin = "auto",
        hidden: Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        learning_rate: float = 1e-3,
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
        self.weighting = weighting
        self.normalization = normalization
        self.max_margin = max_margin
        self.hidden = hidden
        self.activation = activation
        self.dropout = dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.class_weight = class_weight
        self.random_state = random_state
        self.device = device
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EmphasisClassifier:
        """Train from new weights.

        Args:
            X: (N, D), dense or sparse, finite.
            y: (N,) labels.
            sample_weight: (N,) >= 0, multiplies w.

        Raises:
            ValueError: A parameter is not allowed, data do not fit, or training diverged.
        """
        _check_parameters(self)
        X, y, sample_weight = _checked_data(self, X, y, sample_weight, reset=True)
        classes, labels = np.unique(y, return_inverse=True)
        _start(self, classes, X.dtype)
        if self.class_weight is not None:
            sample_weight = sample_weight * compute_sample_weight(self.class_weight, y)
        held_out = None
        if self.early_stopping:
            part, rest = train_test_split(
                np.arange(len(labels)), test_size=self.validation_fraction, stratify=labels, random_state=self._random
            )
            held_out = X[rest], labels[rest], sample_weight[rest]
            X, labels, sample_weight = X[part], labels[part], sample_weight[part]
            self.validation_scores_: list[float] = []
        best, best_epoch, kept = -math.inf, 0, None
        for epoch in range(1, self.max_epochs + 1):
            loss = _train_epoch(self, X, labels, sample_weight)
            score, said = -loss, f"epoch {epoch}: loss {loss:.5f}"
            if held_out is not None:
                given = self.classes_[held_out[1]]
                score = float(accuracy_score(given, _predicted(self, held_out[0]), sample_weight=held_out[2]))
                self.validation_scores_.append(score)
                said += f", accuracy on held-out rows {score:.4f}"
            if self.verbose:
                print(said, flush=True)
            if score > best and held_out is not None:
                kept, self.best_epoch_ = copy.deepcopy(self.network_.state_dict()), epoch
            if score > best + self.tol:
                best, best_epoch = score, epoch
            elif epoch - best_epoch >= self.n_iter_no_change:
                break
        if kept is not None:
            self.network_.load_state_dict(kept)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> EmphasisClassifier:
        """Train for one more pass over the rows given.

        Args:
            X: As in `fit`.
            y: Likewise.
            classes: All labels that there will be; needed in the first call, where `y` may not hold all.
            sample_weight: As in `fit`.

        Raises:
            ValueError: As `fit`, or `y` holds a label that is not among the classes.
        """
        first = not hasattr(self, "network_")
        _check_parameters(self)
        if self.class_weight == "balanced":
            raise ValueError('class_weight="balanced" needs all rows at once; give partial_fit a weight for each class')
        X, y, sample_weight = _checked_data(self, X, y, sample_weight, reset=first)
        known = np.unique(y if classes is None else np.asarray(classes)) if first else self.classes_
        if not first and classes is not None and not np.array_equal(np.unique(np.asarray(classes)), known):
            raise ValueError(f"classes={classes!r} are not those of the first call to partial_fit, {known.tolist()!r}")
        if (unknown := ~np.isin(y, known)).any():
            raise ValueError(f"y holds {y[unknown].tolist()[0]!r}, which is not among the classes {known.tolist()!r}")
        if first:
            _start(self, known, X.dtype)
        if self.class_weight is not None:
            sample_weight = sample_weight * compute_sample_weight(self.class_weight, y)
        _train_epoch(self, X, np.searchsorted(known, y), sample_weight)
        return self

    def decision_function(self, X: Any) -> Any:
        """Return the logits, (N, C), or for two classes the second's minus the first's, (N,)."""
        logits = _logits(self, _checked_rows(self, X)).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Any:
        """Return each class's probability, (N, C)."""
        return _logits(self, _checked_rows(self, X)).softmax(1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the most probable labels, (N,)."""
        return _predicted(self, _checked_rows(self, X))


def _check_parameters(model: EmphasisClassifier) -> None:
    """Raise ValueError for the first parameter that is not allowed; the network and the loss check theirs."""
    positive = (lambda x: x > 0, "a finite number > 0")
    not_negative = (lambda x: x >= 0, "a finite number >= 0")
    whole = (lambda x: isinstance(x, numbers.Integral) and int(x) >= 1, "a whole number >= 1")
    share = (lambda x: 0 < x < 1, "a number between 0 and 1")
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        "learning_rate": positive,
        "weight_decay": not_negative,
        "tol": not_negative,
        "max_epochs": whole,
        "n_iter_no_change": whole,
        "validation_fraction": share,
        **({} if model.batch_size == "auto" else {"batch_size": whole}),
    }
    for name, (holds, allowed) in rules.items():
        value = getattr(model, name)
        if not isinstance(value, numbers.Real) or not math.isfinite(value) or not holds(value):
            raise ValueError(f"{name}={value!r} is not allowed; use {allowed}")


def _checked_data(model: EmphasisClassifier, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
    X, y = validate_data(model, X, y, accept_sparse="csr", dtype=(np.float64, np.float32), reset=reset)
    check_classification_targets(y)
    return X, y, _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)


def _checked_rows(model: EmphasisClassifier, X: Any) -> Any:
    check_is_fitted(model, "network_")
    return validate_data(model, X, accept_sparse="csr", dtype=(np.float64, np.float32), reset=False)


def _start(model: EmphasisClassifier, classes: Any, dtype: Any) -> None:
    """Give the model a new network, its optimiser, the loss and random numbers."""
    if len(classes) < 2:
        raise ValueError(f"y holds one class, {classes.tolist()[0]!r}; a classifier needs two classes or more")
    weighting = DEFAULT_WEIGHTING if model.weighting is None else model.weighting
    model._loss = EmphasisLoss(weighting, normalization=model.normalization, max_margin=model.max_margin)
    model._random = check_random_state(model.random_state)
    device = torch.device(_available_device() if model.device == "auto" else model.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(model._random.randint(2**31))
        network = mlp(
            (model.n_features_in_,), len(classes), hidden=model.hidden, activation=model.activation,
            dropout=model.dropout,
        )  # fmt: skip
    wide = dtype == np.float64 and device.type != "mps"  # which has no float64
    model.network_ = network.to(device, torch.float64 if wide else torch.float32)
    model._optimizer = torch.optim.AdamW(
        model.network_.parameters(), model.learning_rate, weight_decay=model.weight_decay
    )
    model.classes_, model.n_iter_, model.loss_curve_ = classes, 0, []


def _available_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _train_epoch(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
    """Take one pass over the rows, note it and return its mean loss."""
    rows = len(labels)
    size = min(200, rows) if model.batch_size == "auto" else min(int(model.batch_size), rows)
    order = np.arange(rows) if size == rows else model._random.permutation(rows)
    parameter = next(model.network_.parameters())
    devices = [parameter.device] if parameter.device.type == "cuda" else []
    total = weight_sum = 0.0
    model.network_.train()
    with torch.random.fork_rng(devices):
        torch.manual_seed(model._random.randint(2**31))  # for dropout
        for chosen in _batches(order, size):
            weight = _tensor(sample_weight[chosen], parameter)
            logits = model.network_(_tensor(X[chosen], parameter))
            if not bool(logits.isfinite().all()):
                raise ValueError(
                    f"training diverged in epoch {model.n_iter_ + 1} (NaN or infinite logits); lower learning_rate="
                    f"{model.learning_rate!r}, or scale the inputs: make_pipeline(StandardScaler(), ...)"
                )
            loss = model._loss(logits, torch.as_tensor(labels[chosen], device=parameter.device), weight)
            model._optimizer.zero_grad()
            loss.backward()
            model._optimizer.step()
            share = float(weight.sum())
            total, weight_sum = total + share * float(loss.detach()), weight_sum + share
    model.n_iter_ += 1
    model.loss_curve_.append(total / weight_sum if weight_sum else 0.0)
    return float(model.loss_curve_[-1])


def _batches(order: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _tensor(rows: Any, like: torch.Tensor) -> torch.Tensor:
    """Return rows, sparse or not, in the type and on the device of `like`."""
    dense = rows.toarray() if hasattr(rows, "toarray") else rows
    return torch.tensor(dense, dtype=like.dtype, device=like.device)


@torch.no_grad()
def _logits(model: EmphasisClassifier, X: Any) -> torch.Tensor:
    model.network_.eval()
    parameter = next(model.network_.parameters())
    return torch.cat(
        [model.network_(_tensor(X[rows], parameter)).cpu() for rows in _batches(np.arange(X.shape[0]), _ROWS_AT_ONCE)]
    )


def _predicted(model: EmphasisClassifier, X: Any) -> Any:
    return model.classes_[_logits(model, X).argmax(1).numpy()]
