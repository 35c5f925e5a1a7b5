"""Losses for Lightning: `EmphasisModule`, a network that is trained with a weighting.

Needs the extra `lightning`.

import lightning as L
from emphasis.lightning import EmphasisModule

L.Trainer(max_epochs=10).fit(EmphasisModule(network), train_loader, validation_loader)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from emphasis.errors import EmphasisTypeError
from emphasis.extras import missing_extra

try:
    import lightning
    import torch
    from torch import Tensor, nn
    from torchmetrics import Metric
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.lightning", "lightning", error) from None

from emphasis.torch import EmphasisLoss, emphasis_loss
from emphasis.torch._autograd import lead_of, log_weight_of, margin_and_others
from emphasis.weighting import (
    DEFAULT_WEIGHTING,
    MaxMargin,
    Weighting,
    WeightingLike,
    default_schedule,
    from_dict,
    scheduled,
)
from emphasis.weighting.options import Normalization

_NOT_SAVED = "not saved"
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class EmphasisModule(lightning.LightningModule):  # type: ignore[misc]
    """A module that trains `network` with a weighting, and logs losses and accuracies.

    Batches are (inputs, labels) or (inputs, labels, sample_weight); logits and labels are those of `emphasis_loss`. For
    another optimizer or a schedule pass `optimizer` or override `configure_optimizers`.

    With the default weighting, `Relative`, and a Trainer that knows its number of steps, the first fifth of them is
    trained with cross-entropy (`emphasis.weighting.default_schedule`); the logged losses of validation and test are
    those of `weighting` from the start.

    train_loss is logged for each batch. val_loss and test_loss are those of all examples of an epoch as one batch: a
    mean weighted by class_weight * sample_weight, and under "batch" by w as well. val_accuracy and test_accuracy are
    the unweighted shares of labels other than `ignore_index` that are predicted; for soft labels the largest counts.
    All are 0 if no example counts.

    A checkpoint contains all arguments except `network`, `optimizer`, `process_group` and a weighting of a function,
    which have to be passed again: `EmphasisModule.load_from_checkpoint(path, network=network)`. A subclass with its own
    `__init__` calls `save_hyperparameters` itself.

    Args:
        network: Module that returns logits (N, C) or (N, C, d1, ...), or (N,) for the binary form with one logit.
        weighting: See `emphasis.torch.emphasis_loss`.
        normalization: See `emphasis_loss`.
        max_margin: See `emphasis_loss`.
        ignore_index: See `emphasis_loss`.
        class_weight: See `emphasis_loss`.
        process_group: See `emphasis_loss`; with `torch.distributed.group.WORLD` sums are over all devices under DDP.
        optimizer: Function of the parameters that returns an optimizer. Defaults to Adam with `learning_rate`.
        learning_rate: Learning rate of Adam.
        warm_up: Whether training follows `default_schedule(weighting)`.

    Raises:
        TypeError: A checkpoint does not contain its weighting, which has to be passed.
        TypeError, ValueError: See `emphasis_loss`.
    """

    def __init__(
        self,
        network: nn.Module,
        weighting: WeightingLike = DEFAULT_WEIGHTING,
        *,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        ignore_index: int = -100,
        class_weight: Sequence[float] | Tensor | None = None,
        process_group: Any = None,
        optimizer: MakeOptimizer | None = None,
        learning_rate: float = 1e-3,
        warm_up: bool = True,
    ) -> None:
        super().__init__()
        if weighting == _NOT_SAVED:
            raise EmphasisTypeError(
                "the checkpoint does not contain its weighting, which is that of a function; pass "
                "weighting=... to load_from_checkpoint"
            )
        self.network = network
        self.loss = EmphasisLoss(
            from_dict(weighting) if isinstance(weighting, Mapping) else weighting,  # such as that of a checkpoint
            normalization=normalization,
            max_margin=max_margin,
            ignore_index=ignore_index,
            class_weight=None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32),
            process_group=process_group,
        )
        self.make_optimizer = optimizer or partial(torch.optim.Adam, lr=learning_rate)
        self.warm_up = warm_up
        self.steps = math.inf  # of the whole training, where the Trainer knows it
        names = [f"{part}_{metric}" for part in ("val", "test") for metric in ("loss", "accuracy")]
        self.figures = nn.ModuleDict({name: _EpochMean() for name in names})
        if type(self).__init__ is EmphasisModule.__init__:
            self.hparams.update(
                **_storable(self.loss.weighting),
                normalization=normalization,
                max_margin=max_margin,
                ignore_index=int(ignore_index),
                class_weight=None if class_weight is None else torch.as_tensor(class_weight).tolist(),
                learning_rate=float(learning_rate),
                warm_up=bool(warm_up),
            )

    def forward(self, inputs: Any) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def on_train_start(self) -> None:
        """Ask the Trainer for the number of steps."""
        self.steps = self.trainer.estimated_stepping_batches

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the loss of a batch and log it."""
        inputs, labels, *sample_weight = batch
        logits, weighting = self(inputs), self.loss.weighting
        if self.warm_up and 0 < self.steps < math.inf:
            progress = min(self.trainer.global_step / self.steps, 1.0)
            self.loss.weighting = scheduled(weighting, default_schedule(weighting), progress)
        try:
            loss: Tensor = self.loss(logits, labels, *sample_weight)
        finally:
            self.loss.weighting = weighting  # by which validation and test are judged
        self.log("train_loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:  # noqa: ARG002
        """Update and log loss and accuracy."""
        self._evaluate("val", batch)

    def test_step(self, batch: Sequence[Any], batch_idx: int) -> None:  # noqa: ARG002
        """Update and log loss and accuracy."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the probabilities of the classes, (N, C, ...), of two for one logit; the batch may have labels."""
        logits: Tensor = self(batch[0] if isinstance(batch, (list, tuple)) else batch)
        return _columns(logits).softmax(1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return self.make_optimizer(self.network.parameters())

    def _evaluate(self, part: str, batch: Sequence[Any]) -> None:
        inputs, labels, *rest = batch
        sample_weight = rest[0] if rest else None
        logits = self(inputs)
        options, class_weight, ignore_index = self.loss.options, self.loss.class_weight, self.loss.ignore_index
        loss = emphasis_loss(  # of this batch; they are combined at the end of the epoch
            logits,
            labels,
            options.weighting,
            normalization=options.normalization,
            ignore_index=ignore_index,
            class_weight=class_weight,
            sample_weight=sample_weight,
            max_margin=self.loss.max_margin,
        )
        if logits.dim() == 1:
            logits = _columns(logits)
            labels = torch.stack((1 - labels, labels), 1) if labels.is_floating_point() else labels.long()
        right = logits.argmax(1) == (labels.argmax(1) if labels.is_floating_point() else labels)
        valid = torch.ones_like(right) if labels.is_floating_point() else labels != ignore_index
        count = valid.sum()
        figures = {
            "loss": (loss, _log_total(self.loss, logits, labels, sample_weight)),
            "accuracy": ((right & valid).sum() / count.clamp(min=1), count.log()),
        }
        for metric, (mean, log_total) in figures.items():
            figure: Any = self.figures[f"{part}_{metric}"]
            figure.update(mean, log_total)
            self.log(f"{part}_{metric}", figure, prog_bar=True)


class _EpochMean(Metric):  # type: ignore[misc]
    """The mean over an epoch, from means over batches and the logarithms of their denominators.

    Logarithms are used because weights with a large beta exceed any number.
    """

    full_state_update = False
    mean: Tensor
    log_total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.zeros((), dtype=torch.float32))
        self.add_state("log_total", torch.full((), -math.inf, dtype=torch.float32))

    def update(self, mean: Tensor, log_total: Tensor) -> None:
        """Add a batch."""
        total = torch.logaddexp(self.log_total.float(), log_total.float())
        share = torch.where(log_total == -math.inf, 0.0, (log_total - total).exp())
        self.mean = self.mean.float() + share * (mean - self.mean)
        self.log_total = total

    def compute(self) -> Tensor:
        """Return the mean over all ranks; 0 if no example counted."""
        share = torch.where(self.log_total == -math.inf, 0.0, self.log_total.flatten().softmax(0))
        return (share * self.mean).sum()


def _storable(weighting: Weighting) -> dict[str, Any]:
    """Return the weighting's dictionary under the key "weighting", or a note that it cannot be saved."""
    try:
        table = weighting.to_dict()
        return {"weighting": table if from_dict(table) == weighting else _NOT_SAVED}
    except (TypeError, ValueError):
        return {"weighting": _NOT_SAVED}


def _columns(logits: Tensor) -> Tensor:
    """Return the two columns (0, z) for the binary form with one logit z, and other logits unchanged."""
    return torch.stack((torch.zeros_like(logits), logits), 1) if logits.dim() == 1 else logits


def _log_total(loss: EmphasisLoss, logits: Tensor, labels: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the logarithm of the denominator of a mean: the sum of weights, times w under "batch"."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    soft = labels.is_floating_point()
    valid = labels > 0.0 if soft else (labels != loss.ignore_index).unsqueeze(1)
    index = logits.argmax(1, keepdim=True) if soft else torch.where(valid, labels.unsqueeze(1), 0).long()
    log_share = labels.to(logits.dtype).log() if soft else torch.zeros_like(index, dtype=logits.dtype)
    if loss.class_weight is not None:
        log_class = loss.class_weight.to(logits.dtype).log()
        log_share = log_share + (log_class.view(-1, *[1] * (logits.dim() - 2)) if soft else log_class[index])
    if sample_weight is not None:
        log_share = log_share + sample_weight.unsqueeze(1).to(logits.dtype).log()
    if loss.options.normalization == "batch":
        margin, others, log_rest = margin_and_others(logits, index, 1)
        lead = lead_of(logits, index, others, 1, each_class=soft)
        if soft:  # a margin for each class; that of the likeliest, whose 1-p may be tiny, is exact
            log_p = logits - torch.logaddexp(log_rest, logits.gather(1, index))
            margin = (log_p - torch.log(-torch.expm1(log_p))).scatter(1, index, margin)
        share = torch.where(valid, log_share.exp(), 0.0)
        log_share = log_share + log_weight_of(margin, lead, logits, share, loss.options)
    return torch.where(valid, log_share, -math.inf).flatten().logsumexp(0)
