"""Losses for scikit-learn: `EmphasisClassifier`, a multilayer perceptron for tables that trains with any weighting.

Needs the extra `sklearn` (PyTorch and scikit-learn).
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra

try:
    import torch
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.class_weight import compute_class_weight
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data

    from emphasis.compatibility.sklearn import check_partial_fit_first_call, check_sample_weight
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.sklearn", "sklearn", error) from None

from emphasis.learning_rate import HELD_OUT, RATES, best_rate, can_be_found, cosine, middle_rate
from emphasis.models.mlp import mlp
from emphasis.models.stacked import StackedMLP, at_own_rates
from emphasis.torch import EmphasisLoss
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization
from emphasis.weighting.parameters import nested_parameters, resolve_nested

_UNKNOWN_RATE = 1e-3  # of `partial_fit` for learning_rate="auto"
_ROWS_AT_ONCE = 8192  # in prediction, where sparse rows are converted to dense ones
_INPUTS: dict[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}


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
            `emphasis.learning_rate`. A number is a constant rate. `partial_fit` uses 0.001 for "auto".
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
        X, y, weight = _checked(self, X, y, sample_weight, reset=True)
        self.classes_, labels = np.unique(y, return_inverse=True)
        _start(self, X.dtype, labels, weight)
        train: Any = slice(None)
        if self.early_stopping:
            train, held_out = train_test_split(
                np.arange(len(y)), test_size=self.validation_fraction, stratify=y, random_state=self._random
            )
        rows, scores = (X[train], labels[train], weight[train]), self.validation_scores_
        falls = self.learning_rate == "auto"
        if falls:
            self.learning_rate_ = _chosen_rate(self, *rows)
        ends = not falls and self.normalization != "batch"
        best, best_epoch, kept = -math.inf, 0, {}
        with _progress(self) as show:
            for epoch in range(1, self.max_epochs + 1):
                if falls:
                    _set_rate(self, self.learning_rate_ * cosine(epoch - 1, self.max_epochs))
                score = -_train_epoch(self, *rows)
                line = f"epoch {epoch}: loss {-score:.5f}"
                if scores is not None:
                    right = _logits(self, X[held_out]).argmax(1).numpy() == labels[held_out]
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
        _set_rate(self, self.learning_rate_)  # the rate with which `partial_fit` continues
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
        X, y, weight = _checked(self, X, y, sample_weight, reset=first)
        check_partial_fit_first_call(self, classes)
        if (unknown := ~np.isin(y, self.classes_)).any():
            known = self.classes_.tolist()
            raise EmphasisValueError(f"y holds {y[unknown].tolist()[0]!r}, which is not among the classes {known!r}")
        labels = np.searchsorted(self.classes_, y)
        if first:
            _start(self, X.dtype, labels, weight)
        _train_epoch(self, X, labels, weight)
        return self

    def decision_function(self, X: Any) -> Any:
        """Return the logits (N, C), or for two classes those of the second minus the first, (N,)."""
        logits = _logits(self, X, check=True).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Any:
        """Return the probabilities of the classes, (N, C)."""
        return _logits(self, X, check=True).softmax(1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the most probable labels, (N,)."""
        chosen = _logits(self, X, check=True).argmax(1).numpy()
        return self.classes_[chosen]


def _checked(model: EmphasisClassifier, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
    """Check data and parameters and return the data; the network and the loss check their own parameters."""
    whole = (lambda x: isinstance(x, Integral) and int(x) >= 1, "a whole number >= 1")
    positive = lambda x: 0 < x < math.inf  # noqa: E731
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
        **({} if model.learning_rate == "auto" else {"learning_rate": (positive, 'a finite number > 0 or "auto"')}),
        **dict.fromkeys(("weight_decay", "tol"), (lambda x: 0 <= x < math.inf, "a finite number >= 0")),
        "validation_fraction": (lambda x: 0 < x < 1, "a number between 0 and 1"),
        **dict.fromkeys(("max_epochs", "n_iter_no_change"), whole),
        **({} if model.batch_size == "auto" else {"batch_size": (whole[0], f'{whole[1]} or "auto"')}),
    }
    for name, (holds, allowed) in rules.items():
        value = getattr(model, name)
        if not isinstance(value, Real) or not holds(value):
            raise EmphasisValueError(f"{name}={value!r} is not allowed; use {allowed}")
    X, y = validate_data(model, X, y, reset=reset, **_INPUTS)
    check_classification_targets(y)
    return X, y, check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)


def _start(model: EmphasisClassifier, dtype: Any, labels: Any, weight: Any) -> None:
    """Create the network, the optimizer, the loss and the generator of a model."""
    classes = model.classes_
    if len(classes) < 2:
        raise EmphasisValueError(f"y holds one class, {classes.tolist()[0]!r}; a classifier needs two classes or more")
    factors: Any = None
    if model.class_weight == "balanced":  # scikit-learn's formula, in which a weight of 2 counts as two rows
        total = np.bincount(labels, weight)
        factors = torch.as_tensor(total.sum() / len(classes) / np.where(total > 0, total, 1.0))
    elif model.class_weight is not None:
        factors = torch.as_tensor(compute_class_weight(model.class_weight, classes=classes, y=classes))
    model._random = check_random_state(model.random_state)
    layers: dict[str, Any] = {"hidden": model.hidden, "activation": model.activation, "dropout": model.dropout}
    with _own_random_numbers(model, torch.device("cpu")):
        network = mlp((model.n_features_in_,), len(classes), **layers)
    try:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        device = torch.device((accelerator or "cpu") if model.device == "auto" else model.device)
        wide = dtype == np.float64 and device.type != "mps"  # MPS has no float64
        model.network_ = network.to(device, torch.float64 if wide else torch.float32)
    except (AssertionError, RuntimeError, TypeError) as error:  # one of these, depending on the device
        raise EmphasisValueError(
            f'device={model.device!r} cannot be used here; use "cpu" or "auto" ({error})'
        ) from None
    weighting = DEFAULT_WEIGHTING if model.weighting is None else model.weighting
    options: dict[str, Any] = {"normalization": model.normalization, "max_margin": model.max_margin}
    model._loss = EmphasisLoss(weighting, class_weight=factors, **options).to(device)
    decay = model.weight_decay
    model.learning_rate_ = _UNKNOWN_RATE if model.learning_rate == "auto" else model.learning_rate
    model._optimizer = torch.optim.AdamW(model.network_.parameters(), model.learning_rate_, weight_decay=decay)
    model.n_iter_, model.loss_curve_, model.best_epoch_ = 0, [], None
    model.validation_scores_ = [] if model.early_stopping else None


def _set_rate(model: EmphasisClassifier, rate: float) -> None:
    for group in model._optimizer.param_groups:
        group["lr"] = rate


def _chosen_rate(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
    """Return the learning rate with which cross-entropy predicts held-out labels best; all are trained at once."""
    classes, like = len(model.classes_), next(model.network_.parameters())
    if not can_be_found(len(labels), classes):
        return middle_rate("adam")
    order = model._random.permutation(len(labels))
    held_out, train = np.split(order, [round(HELD_OUT * len(labels))])
    rates, factors = RATES["adam"], model._loss.class_weight
    stack = StackedMLP(
        [model.n_features_in_, *model.hidden, classes],
        [model._random.randint(2**31)],
        len(rates),
        activation=model.activation,
        dtype=like.dtype,
    ).to(like.device)
    optimizer = torch.optim.AdamW(stack.parameters(), rates[-1], weight_decay=model.weight_decay)
    at_own_rates(optimizer, [rate / rates[-1] for rate in rates])
    size = _batch_size(model, len(train))
    steps = [train[at : at + size] for at in range(0, len(train), size)]
    total = model.max_epochs * len(steps)
    for number in range(total):
        rows = steps[number % len(steps)] if size < len(train) else train
        targets = torch.as_tensor(labels[rows], device=like.device)
        weight = _tensor(sample_weight[rows], like)
        weight = weight if factors is None else weight * factors[targets].to(weight)
        optimizer.param_groups[0]["lr"] = rates[-1] * cosine(number, total)
        logits = stack(_tensor(X[rows], like)[None]).transpose(1, 2)
        each = torch.nn.functional.cross_entropy(logits, targets.expand(len(rates), -1), reduction="none")
        optimizer.zero_grad()
        loss: torch.Tensor = (each * weight).mean(1).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    with torch.no_grad():
        parts = [X[held_out[at : at + _ROWS_AT_ONCE]] for at in range(0, len(held_out), _ROWS_AT_ONCE)]
        chosen = torch.cat([stack(_tensor(part, like)[None]).argmax(2) for part in parts], 1).cpu().numpy()
    right = np.average(chosen == labels[held_out], axis=1, weights=sample_weight[held_out] + 1e-12)
    return best_rate(dict(zip(rates, right.tolist(), strict=True)))


def _batch_size(model: EmphasisClassifier, rows: int) -> int:
    return min(200 if model.batch_size == "auto" else int(model.batch_size), rows)


@contextlib.contextmanager
def _own_random_numbers(model: EmphasisClassifier, device: torch.device) -> Iterator[None]:
    """Seed the generators of torch from that of the model within the context, and restore them after it."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        seed = model._random.randint(2**31)
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu.index] for gpu in gpus)):
            generator.manual_seed(seed)  # torch.manual_seed would seed all GPUs
        yield


def _train_epoch(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
    """Train for one pass over the rows, record it and return its mean loss."""
    size = _batch_size(model, len(labels))
    order = np.arange(len(labels)) if size == len(labels) else model._random.permutation(len(labels))
    like = next(model.network_.parameters())
    # Sums stay on the device, as reading them in every step would make the host wait for it.
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    total, weight_sum = torch.zeros(2, dtype=precise, device=like.device)
    finite = torch.ones((), dtype=torch.bool, device=like.device)
    model.network_.train()
    with _own_random_numbers(model, like.device):  # for dropout
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            weight, targets = _tensor(sample_weight[rows], like), torch.as_tensor(labels[rows], device=like.device)
            logits = model.network_(_tensor(X[rows], like))
            if like.device.type == "cpu":  # where the loss would raise an error for NaN
                _check_finite(model, logits)
            finite = finite & logits.isfinite().all()
            loss = model._loss(logits, targets, weight)
            model._optimizer.zero_grad()
            loss.backward()
            model._optimizer.step()
            factors = model._loss.class_weight
            share = (weight if factors is None else weight * factors[targets]).sum().to(precise)
            total, weight_sum = total + share * loss.detach().to(precise), weight_sum + share
    _check_finite(model, torch.where(finite, 0.0, math.nan), *model.network_.parameters())
    model.n_iter_ += 1
    model.loss_curve_.append(float(total / weight_sum) if weight_sum else 0.0)
    return float(model.loss_curve_[-1])


def _check_finite(model: EmphasisClassifier, *tensors: torch.Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise EmphasisValueError(
            f"training diverged in epoch {model.n_iter_ + 1} (NaN or infinite logits or network weights); lower "
            f"learning_rate={model.learning_rate!r}, or scale the inputs: make_pipeline(StandardScaler(), ...)"
        )


def _tensor(rows: Any, like: torch.Tensor) -> torch.Tensor:
    """Return dense or sparse rows with the dtype and device of `like`."""
    return torch.tensor(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=like.dtype, device=like.device)


@torch.no_grad()
def _logits(model: EmphasisClassifier, X: Any, check: bool = False) -> torch.Tensor:
    """Return logits (N, C) on the CPU; `check` is for data of the user."""
    if check:
        check_is_fitted(model, "network_")
        X = validate_data(model, X, reset=False, **_INPUTS)
    like = next(model.network_.eval().parameters())
    starts = range(0, X.shape[0], _ROWS_AT_ONCE)
    logits = torch.cat([model.network_(_tensor(X[start : start + _ROWS_AT_ONCE], like)).cpu() for start in starts])
    if not bool(logits.isfinite().all()):
        raise EmphasisValueError("NaN or infinite logits: training has diverged, or X is far from the training data")
    return logits


@contextlib.contextmanager
def _progress(model: EmphasisClassifier) -> Iterator[Callable[[str], None]]:
    """Yield a function that shows the line of an epoch: by nothing, a bar, or print."""
    bar: Any = None
    if model.verbose:
        with contextlib.suppress(ModuleNotFoundError):
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console())  # a new console, so that bars can be shown inside other live displays
    if bar is None or not bar.console.is_terminal:
        yield lambda line: print(line, flush=True) if model.verbose else None
    else:
        with bar:
            task = bar.add_task("", total=model.max_epochs)
            yield lambda line: bar.update(task, advance=1, description=line)
