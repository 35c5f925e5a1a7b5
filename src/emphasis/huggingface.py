"""Emphasis in Hugging Face's Trainer: `compute_loss_func`.

Needs the extra `transformers`.

from emphasis import DM
from emphasis.huggingface import compute_loss_func

trainer = Trainer(model, arguments, train_dataset=data, compute_loss_func=compute_loss_func(DM(lam=0.5, beta=4)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra

try:
    import torch
    import transformers as _transformers  # noqa: F401
    from torch import Tensor
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.huggingface", "transformers", error) from None

from emphasis.torch import EmphasisLoss
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization

IGNORED = -100  # the label that transformers leaves out


def compute_loss_func(
    weighting: WeightingLike,
    *,
    causal: bool | None = None,
    normalization: Normalization = "integral",
    max_margin: MaxMargin = "auto",
    class_weight: Sequence[float] | Tensor | None = None,
) -> Callable[..., Tensor]:
    """Return a loss for `transformers.Trainer(compute_loss_func=...)`: of classes, of tokens, or of the next token.

    The Trainer adds up the losses of the batches of one step (gradient accumulation), and says how many labels they
    hold together, and on all devices: the loss is the sum of the examples', divided by that number, as transformers'
    own. Under "batch" each batch has one unit of emphasis times its share of those labels.

    Args:
        weighting: As `emphasis.torch.emphasis_loss` takes it.
        causal: Whether the logits of position t are for the label of position t + 1, as in causal language models,
            whose labels come unshifted. None: they are if the model's output is a "CausalLM" one.
        normalization: As in `emphasis_loss`.
        max_margin: Likewise.
        class_weight: (C,) >= 0, multiplies w by the label's weight.

    Returns:
        A function of outputs (with logits (N, C) or (N, T, C)), labels ((N,) or (N, T), -100 where there is none) and
        num_items_in_batch. It can be pickled.

    Raises:
        ValueError: When called: there are no labels; `causal` is None and the output does not say what it is.
    """
    loss = EmphasisLoss(
        weighting,
        normalization=normalization,
        reduction="sum",
        max_margin=max_margin,
        class_weight=None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32),
    )
    return partial(_loss, loss, causal)


def _loss(
    loss: EmphasisLoss,
    causal: bool | None,
    outputs: Any,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
) -> Tensor:
    if labels is None:
        raise EmphasisValueError(
            "the batch has no 'labels'; emphasis weighs examples by the probability of their label"
        )
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    if causal is None:
        name = type(outputs).__name__
        if logits.dim() > 2 and name in ("dict", "tuple", "list"):
            raise EmphasisValueError(
                "say causal=True if logits are for the next token, or causal=False; the output does not"
            )
        causal = "CausalLM" in name
    if causal:  # to shift the labels copies less than to cut the logits
        labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED)
    labels = labels.to(logits.device)
    if loss.class_weight is not None and loss.class_weight.device != logits.device:
        loss.to(logits.device)
    total: Tensor = loss(logits.flatten(0, -2), labels.flatten())
    valid = (labels != IGNORED).sum()
    if loss.options.normalization == "batch":
        total = total * valid
    items = valid.clamp(min=1) if num_items_in_batch is None else num_items_in_batch
    return total / (items.to(logits.device) if isinstance(items, Tensor) else items)
