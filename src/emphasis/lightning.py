"""Emphasis in Lightning: `EmphasisModule`, a network with a weighting as its loss.

Needs the extra `lightning`.

import lightning as L
from emphasis import DM
from emphasis.lightning import EmphasisModule

L.Trainer(max_epochs=10).fit(EmphasisModule(network, DM(lam=0.5, beta=12)), train_loader, validation_loader)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from emphasis.extras import missing_extra

try:
    import lightning
    import torch
    from torch import Tensor, nn
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.lightning", "lightning", error) from None

from emphasis.torch import EmphasisLoss
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


class EmphasisModule(lightning.LightningModule):  # type: ignore[misc]
    """Trains `network` with a weighting; logs train_loss, val_loss, val_accuracy and test_accuracy.

    Batches are (inputs, labels) or (inputs, labels, sample_weight), logits and labels as `emphasis_loss` takes them.
    For another optimiser or a schedule give `optimizer`, or override `configure_optimizers`.

    Args:
        network: inputs -> logits (N, C) or (N, C, d1, ...).
        weighting: As `emphasis.torch.emphasis_loss` takes it, and so are the next five.
        normalization: Likewise.
        max_margin: Likewise.
        ignore_index: Likewise.
        class_weight: Likewise.
        process_group: Likewise: `torch.distributed.group.WORLD` to weigh over all devices under DDP.
        optimizer: Parameters -> optimiser; None for Adam with `learning_rate`.
        learning_rate: Of that Adam.
    """

    def __init__(
        self,
        network: nn.Module,
        weighting: WeightingLike,
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
        self.network = network
        self.loss = EmphasisLoss(
            weighting,
            normalization=normalization,
            max_margin=max_margin,
            ignore_index=ignore_index,
            class_weight=None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32),
            process_group=process_group,
        )
        self.make_optimizer = optimizer or partial(torch.optim.Adam, lr=learning_rate)

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
        """Return each class's probability; the batch may have labels."""
        probabilities: Tensor = self(batch[0] if isinstance(batch, (list, tuple)) else batch).softmax(1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimiser."""
        return self.make_optimizer(self.network.parameters())

    def _evaluate(self, part: str, batch: Sequence[Any]) -> None:
        inputs, labels, *sample_weight = batch
        logits = self(inputs)
        valid = labels != self.loss.ignore_index
        accuracy = (logits.argmax(1) == labels)[valid].float().mean().nan_to_num()
        figures = {f"{part}_loss": self.loss(logits, labels, *sample_weight), f"{part}_accuracy": accuracy}
        self.log_dict(figures, prog_bar=True, batch_size=max(int(valid.sum()), 1), sync_dist=True)
