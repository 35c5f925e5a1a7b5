"""Emphasis in Lightning: `EmphasisModule`, a network with a weighting as its loss.

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
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, Weighting, WeightingLike, from_dict
from emphasis.weighting.options import Normalization

_NOT_SAVED = "not saved"
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class EmphasisModule(lightning.LightningModule):  # type: ignore[misc]
    """Trains `network` with a weighting; logs train_loss, and loss and accuracy of validation and test.

    Batches are (inputs, labels) or (inputs, labels, sample_weight), logits and labels as `emphasis_loss` takes them.
    For another optimizer or a schedule give `optimizer`, or override `configure_optimizers`.

    val_loss and test_loss are those of all the epoch's examples as one batch, whatever the sizes of batches: a mean
    weighted by class_weight * sample_weight, under "batch" by w as well. val_accuracy and test_accuracy are unweighted:
    the share of labels other than `ignore_index` that are predicted; of soft labels the largest. All are 0 where
    nothing counts.

    A checkpoint holds all arguments but `network`, `optimizer`, `process_group` and a weighting made of a function:
    `EmphasisModule.load_from_checkpoint(path, network=network)` asks for the rest. A subclass with an `__init__` of its
    own saves its own (`save_hyperparameters`).

    Args:
        network: inputs -> logits (N, C) or (N, C, d1, ...), or (N,) in the binary form with one logit.
        weighting: As `emphasis.torch.emphasis_loss` takes it, and so are the next five.
        normalization: Likewise.
        max_margin: Likewise.
        ignore_index: Likewise.
        class_weight: Likewise.
        process_group: Likewise: `torch.distributed.group.WORLD` to weigh over all devices under DDP.
        optimizer: Parameters -> optimizer; None for Adam with `learning_rate`.
        learning_rate: Of that Adam.
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
    ) -> None:
        super().__init__()
        if weighting == _NOT_SAVED:
            raise EmphasisTypeError(
                "the checkpoint does not hold its weighting, which was made of a function; pass "
                "weighting=... to load_from_checkpoint"
            )
        self.network = network
        self.loss = EmphasisLoss(
            from_dict(weighting) if isinstance(weighting, Mapping) else weighting,  # a checkpoint's, say
            normalization=normalization,
            max_margin=max_margin,
            ignore_index=ignore_index,
            class_weight=None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32),
            process_group=process_group,
        )
        self.make_optimizer = optimizer or partial(torch.optim.Adam, lr=learning_rate)
        names = [f"{part}_{what}" for part in ("val", "test") for what in ("loss", "accuracy")]
        self.figures = nn.ModuleDict({name: _EpochMean() for name in names})
        if type(self).__init__ is EmphasisModule.__init__:
            self.hparams.update(
                **_storable(self.loss.weighting),
                normalization=normalization,
                max_margin=max_margin,
                ignore_index=int(ignore_index),
                class_weight=None if class_weight is None else torch.as_tensor(class_weight).tolist(),
                learning_rate=float(learning_rate),
            )

    def forward(self, inputs: Any) -> Tensor:
        """Return the network's logits."""
        logits: Tensor = self.network(inputs)
        return logits

    def training_step(self, batch: Sequence[Any], batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return the loss."""
        inputs, labels, *sample_weight = batch
        loss: Tensor = self.loss(self(inputs), labels, *sample_weight)
        self.log("train_loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: Sequence[Any], batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and accuracy."""
        self._evaluate("val", batch)

    def test_step(self, batch: Sequence[Any], batch_idx: int) -> None:  # noqa: ARG002
        """Log loss and accuracy."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        """Return each class's probability, of two where the network has one logit; the batch may have labels."""
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
        loss = emphasis_loss(  # of this batch alone: the parts are put together at the end of the epoch
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
        for what, (mean, log_total) in figures.items():
            figure: Any = self.figures[f"{part}_{what}"]
            figure.update(mean, log_total)
            self.log(f"{part}_{what}", figure, prog_bar=True)


class _EpochMean(Metric):  # type: ignore[misc]
    """The mean over an epoch, from means over batches and the logarithms of the totals that they were divided by.

    Logarithms, because weights of a large beta exceed any number; over several ranks there is one state of each.
    """

    full_state_update = False
    mean: Tensor
    log_total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("mean", torch.zeros((), dtype=torch.float32))
        self.add_state("log_total", torch.full((), -math.inf, dtype=torch.float32))

    def update(self, mean: Tensor, log_total: Tensor) -> None:
        """Take a batch in."""
        total = torch.logaddexp(self.log_total.float(), log_total.float())
        share = torch.where(log_total == -math.inf, 0.0, (log_total - total).exp())
        self.mean = self.mean.float() + share * (mean - self.mean)
        self.log_total = total

    def compute(self) -> Tensor:
        """Return the mean over the ranks as well, 0 where nothing counted."""
        share = torch.where(self.log_total == -math.inf, 0.0, self.log_total.flatten().softmax(0))
        return (share * self.mean).sum()


def _storable(weighting: Weighting) -> dict[str, Any]:
    """Return {"weighting": its dictionary}, or that it is not saved if it has none that may be read from a file."""
    try:
        said = weighting.to_dict()
        return {"weighting": said if from_dict(said) == weighting else _NOT_SAVED}
    except (TypeError, ValueError):
        return {"weighting": _NOT_SAVED}


def _columns(logits: Tensor) -> Tensor:
    """Return the binary form with one logit z as the two columns (0, z), and others as they are."""
    return torch.stack((torch.zeros_like(logits), logits), 1) if logits.dim() == 1 else logits


def _log_total(loss: EmphasisLoss, logits: Tensor, labels: Tensor, sample_weight: Tensor | None) -> Tensor:
    """Return the logarithm of what a mean over the batch is divided by: the sum of weights, under "batch" times w."""
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
        if soft:  # one for each class; that of the largest logit, whose 1-p may be tiny, is exact
            log_p = logits - torch.logaddexp(log_rest, logits.gather(1, index))
            margin = (log_p - torch.log(-torch.expm1(log_p))).scatter(1, index, margin)
        share = torch.where(valid, log_share.exp(), 0.0)
        log_share = log_share + log_weight_of(margin, lead, logits, share, loss.options)
    return torch.where(valid, log_share, -math.inf).flatten().logsumexp(0)
