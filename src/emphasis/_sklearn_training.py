"""Checks, training and prediction of `emphasis.sklearn.EmphasisClassifier`."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from numbers import Integral, Real
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from emphasis.compatibility.sklearn import check_sample_weight
from emphasis.errors import EmphasisValueError
from emphasis.learning_rate import HELD_OUT, RATES, best_rate, can_be_found, cosine, middle_rate
from emphasis.models.mlp import mlp
from emphasis.models.stacked import StackedMLP, at_own_rates
from emphasis.torch import EmphasisLoss
from emphasis.weighting import DEFAULT_WEIGHTING, Weighting, scheduled
from emphasis.weighting.schedule import Schedule

if TYPE_CHECKING:
    from emphasis.sklearn import EmphasisClassifier

_UNKNOWN_RATE = 1e-3  # of `partial_fit` for learning_rate="auto"
_ROWS_AT_ONCE = 8192  # in prediction, where sparse rows are converted to dense ones
_INPUTS: dict[str, Any] = {"accept_sparse": "csr", "dtype": (np.float64, np.float32)}


def checked_data(model: EmphasisClassifier, X: Any, y: Any, sample_weight: Any, reset: bool) -> tuple[Any, Any, Any]:
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


def start(model: EmphasisClassifier, dtype: Any, labels: Any, weight: Any) -> None:
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


def set_rate(model: EmphasisClassifier, rate: float) -> None:
    for group in model._optimizer.param_groups:
        group["lr"] = rate


def choose_rate(model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any) -> float:
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


@contextlib.contextmanager
def _weighting_kept(loss: EmphasisLoss) -> Iterator[Weighting]:
    """Yield the weighting of a loss, and restore it after the context, also after an interruption."""
    weighting = loss.weighting
    try:
        yield weighting
    finally:
        loss.weighting = weighting


def train_epoch(
    model: EmphasisClassifier, X: Any, labels: Any, sample_weight: Any, schedule: Schedule = MappingProxyType({})
) -> float:
    """Train for one pass over the rows, record it and return its mean loss."""
    size = _batch_size(model, len(labels))
    order = np.arange(len(labels)) if size == len(labels) else model._random.permutation(len(labels))
    like = next(model.network_.parameters())
    # Sums stay on the device, as reading them in every step would make the host wait for it.
    precise = torch.float32 if like.device.type == "mps" else torch.float64
    total, weight_sum = torch.zeros(2, dtype=precise, device=like.device)
    finite = torch.ones((), dtype=torch.bool, device=like.device)
    model.network_.train()
    with _own_random_numbers(model, like.device), _weighting_kept(model._loss) as weighting:  # numbers for dropout
        for start in range(0, len(order), size):
            if schedule:
                progress = (model.n_iter_ + start / len(order)) / model.max_epochs
                model._loss.weighting = scheduled(weighting, schedule, progress)
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
def compute_logits(model: EmphasisClassifier, X: Any, check: bool = False) -> torch.Tensor:
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
def epoch_display(model: EmphasisClassifier) -> Iterator[Callable[[str], None]]:
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
