"""Emphasis in scikit-learn: `EmphasisClassifier`, a perceptron for tables that learns with any weighting.

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
from emphasis.weighting.parameters import nested_parameters, split_nested, with_nested

_UNKNOWN_RATE = 1e-3  # where none was found
_ROWS_AT_ONCE = 8192  # in prediction: sparse rows are made dense
_INPUTS: dict[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}


class EmphasisClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A multilayer perceptron, or with `hidden=()` a linear classifier, trained by Adam with a weighting.

    Like scikit-learn's own networks it wants features of similar scale: put a `StandardScaler` before it. Arithmetic is
    in float32 for float32 inputs, else in float64. X may be sparse; y holds two classes or more, of any kind.

    Args:
        weighting, normalization, max_margin: As `emphasis.torch.emphasis_loss` takes them; None for the weighting is
            `DEFAULT_WEIGHTING`.
        hidden, activation, dropout: Units of each hidden layer; "relu", "sigmoid" or "tanh"; rate, in [0, 1), before
            the last layer.
        learning_rate: Of AdamW. "auto": found from the data by `fit`, as the one with which cross-entropy predicts
            held-out labels best; it then rises shortly and falls to 0 by `max_epochs`, see
            `emphasis.learning_rate`. A number stays constant, and `partial_fit` takes 0.001 for "auto".
        weight_decay: Of AdamW: Adam with decoupled decay, and plain Adam without.
        batch_size: Rows in a step; "auto": 200, or all if there are fewer.
        max_epochs: Passes over the data, at most.
        early_stopping: Whether a stratified share of the rows, `validation_fraction`, is held out and the epoch kept
            that predicts its given labels best. Otherwise training ends after `max_epochs`, or with a constant learning
            rate when the loss no longer falls, but under normalization="batch", whose loss is not what is descended.
        n_iter_no_change, tol: Training ends after so many epochs without an improvement of more than `tol`.
        class_weight: None, "balanced" or a weight for each class, a factor of w.
        random_state: Of initial weights, order, dropout and held-out rows. torch's own generators are left alone.
        device: Where torch computes: "cpu", "cuda", "mps", or "auto" for what there is.
        verbose: Whether progress is shown: rich's bar on a terminal where rich is installed, else a line per epoch.

    Attributes:
        classes_: (C,) the labels, sorted.
        n_features_in_: D. And `feature_names_in_`, if X is a table with names.
        network_: The `torch.nn.Sequential`, (N, D) -> (N, C) logits.
        n_iter_: Epochs trained.
        loss_curve_: The mean loss of each epoch.
        validation_scores_: Weighted accuracy on the held-out rows after each epoch; None without early stopping.
        best_epoch_: The epoch whose weights were kept, from 1; None without early stopping.
        learning_rate_: As given, or as found.
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
        params, nested = split_nested(params)
        super().set_params(**params)
        if nested:
            self.weighting = with_nested(self.weighting, nested)
        return self

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> EmphasisClassifier:
        """Train from new weights on X (N, D), dense or sparse, y (N,) and sample_weight (N,) >= 0, a factor of w.

        Raises:
            ValueError: A parameter is not allowed, data do not fit, or training diverged.
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
            self.learning_rate_ = _found_rate(self, *rows)
        ends = not falls and self.normalization != "batch"
        best, best_epoch, kept = -math.inf, 0, {}
        with _progress(self) as show:
            for epoch in range(1, self.max_epochs + 1):
                if falls:
                    _set_rate(self, self.learning_rate_ * cosine(epoch - 1, self.max_epochs))
                score = -_train_epoch(self, *rows)
                said = f"epoch {epoch}: loss {-score:.5f}"
                if scores is not None:
                    right = _logits(self, X[held_out]).argmax(1).numpy() == labels[held_out]
                    score = float(np.average(right, weights=weight[held_out]))
                    said += f", accuracy on held-out rows {score:.4f}"
                    if score > max(scores, default=-1.0):
                        kept, self.best_epoch_ = copy.deepcopy(self.network_.state_dict()), epoch
                    scores.append(score)
                show(said)
                if score > best + self.tol:
                    best, best_epoch = score, epoch
                elif epoch - best_epoch >= self.n_iter_no_change and (kept or ends):
                    break
        _set_rate(self, self.learning_rate_)  # at which `partial_fit` goes on
        if kept:
            self.network_.load_state_dict(kept)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> EmphasisClassifier:
        """Train for one more pass over these rows, with or without `early_stopping`; the arguments are those of `fit`.

        The first call needs `classes`, all labels that there will be.

        Raises:
            ValueError: As `fit`, or `classes` are missing or not as before, or `y` holds another label.
        """
        if self.class_weight == "balanced":
            raise EmphasisValueError(
                'class_weight="balanced" needs all rows at once; give partial_fit a weight for each class'
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
        """Return the logits, (N, C), or for two classes the second's minus the first's, (N,)."""
        logits = _logits(self, X, check=True).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Any) -> Any:
        """Return each class's probability, (N, C)."""
        return _logits(self, X, check=True).softmax(1).numpy()

    def predict(self, X: Any) -> Any:
        """Return the most probable labels, (N,)."""
        chosen = _logits(self, X, check=True).argmax(1).numpy()
        return self.classes_[chosen]


def _checked(model: EmphasisClassifier, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
    """Return the data checked, or raise ValueError for what is not allowed; network and loss check their parameters."""
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
    """Give the model a new network, its optimizer, the loss and random numbers."""
    classes = model.classes_
    if len(classes) < 2:
        raise EmphasisValueError(f"y holds one class, {classes.tolist()[0]!r}; a classifier needs two classes or more")
    factors: Any = None
    if model.class_weight == "balanced":  # scikit-learn's formula, a weight of 2 being a row twice
        total = np.bincount(labels, weight)
        factors = torch.as_tensor(total.sum() / len(classes) / np.where(total > 0, total, 1.0))
    elif model.class_weight is not None:
        factors = torch.as_tensor(compute_class_weight(model.class_weight, classes=classes, y=classes))
    model._random = check_random_state(model.random_state)
    layers: dict[str, Any] = {"hidden": model.hidden, "activation": model.activation, "dropout": model.dropout}
    with _own_random_numbers(model, torch.device("cpu")):
        network = mlp((model.n_features_in_,), len(classes), **layers)
    try:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
        device = torch.device((found or "cpu") if model.device == "auto" else model.device)
        wide = dtype == np.float64 and device.type != "mps"  # which has no float64
        model.network_ = network.to(device, torch.float64 if wide else torch.float32)
    except (AssertionError, RuntimeError, TypeError) as error:  # each of them, depending on what torch lacks
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


def _found_rate(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
    """Return the learning rate with which cross-entropy predicts held-out labels best, all rates trained at once."""
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
    """Seed torch's generators from the model's; afterwards they are as before."""
    gpus = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpus):
        seed = model._random.randint(2**31)
        for generator in (torch.default_generator, *(torch.cuda.default_generators[gpu.index] for gpu in gpus)):
            generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        yield


def _train_epoch(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
    """Take one pass over the rows, note it and return its mean loss."""
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
            if like.device.type == "cpu":  # where the loss refuses NaN
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
    """Return rows, sparse or not, in the type and on the device of `like`."""
    return torch.tensor(rows.toarray() if hasattr(rows, "toarray") else rows, dtype=like.dtype, device=like.device)


@torch.no_grad()
def _logits(model: EmphasisClassifier, X: Any, check: bool = False) -> torch.Tensor:
    """Return (N, C) logits on the CPU; `check` for rows that come from the user."""
    if check:
        check_is_fitted(model, "network_")
        X = validate_data(model, X, reset=False, **_INPUTS)
    like = next(model.network_.eval().parameters())
    starts = range(0, X.shape[0], _ROWS_AT_ONCE)
    logits = torch.cat([model.network_(_tensor(X[start : start + _ROWS_AT_ONCE], like)).cpu() for start in starts])
    if not bool(logits.isfinite().all()):
        raise EmphasisValueError("NaN or infinite logits: training had diverged, or X is far from the training data")
    return logits


@contextlib.contextmanager
def _progress(model: EmphasisClassifier) -> Iterator[Callable[[str], None]]:
    """Give what shows an epoch's line: nothing, a bar, or print."""
    bar: Any = None
    if model.verbose:
        with contextlib.suppress(ModuleNotFoundError):
            from rich.console import Console
            from rich.progress import Progress

            bar = Progress(console=Console())  # one of its own, so that bars may run inside other live displays
    if bar is None or not bar.console.is_terminal:
        yield lambda said: print(said, flush=True) if model.verbose else None
    else:
        with bar:
            task = bar.add_task("", total=model.max_epochs)
            yield lambda said: bar.update(task, advance=1, description=said)
