"""Emphasis in Hugging Face's Trainer: `compute_loss_func`.

Needs the extra `transformers`.

from emphasis.huggingface import compute_loss_func

trainer = Trainer(model, arguments, train_dataset=data, compute_loss_func=compute_loss_func())
"""

from __future__ import annotations

import re
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
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization

IGNORED = -100  # the label that transformers leaves out

# Outputs whose name says how labels are meant: every model of transformers that returns one does the same, but for
# CPM-Ant, whose labels are not shifted. Not among them: "CausalLMOutputWithCrossAttentions" (GPT-2 shifts its labels, a
# decoder of BART does not) and "CausalLMOutput" (of CTC as well).
_CAUSAL = re.compile(r"\w*CausalLMOutputWithPast|\w+CausalLMOutput|Kosmos2(_5)?ForConditionalGenerationModelOutput")
_ALIGNED = re.compile(
    r"\w*(TokenClassifierOutput|MaskedLMOutput|Seq2SeqLMOutput|Seq2SeqMoEOutput)|XLNetForTokenClassificationOutput"
)


def compute_loss_func(
    weighting: WeightingLike = DEFAULT_WEIGHTING,
    *,
    causal: bool | None = None,
    normalization: Normalization = "integral",
    max_margin: MaxMargin = "auto",
    class_weight: Sequence[float] | Tensor | None = None,
) -> Callable[..., Tensor]:
    """Return a loss for `transformers.Trainer(compute_loss_func=...)`: of classes, of tokens, or of the next token.

    The Trainer adds up the losses of the batches of one step (gradient accumulation), and says how many labels they
    hold together, and on all devices: the loss is the sum of the examples', divided by that number, as transformers'
    own. Under "batch" each batch has one unit of emphasis times its share of those labels. What a model adds to its own
    loss (label smoothing, the balance of a mixture of experts) is not in it.

    Args:
        weighting: As `emphasis.torch.emphasis_loss` takes it.
        causal: Whether the logits of position t are for the label of position t + 1, as in causal language models,
            whose labels come unshifted. None: as the name of the model's output says, such as
            "CausalLMOutputWithPast" (it is causal) or "TokenClassifierOutput" (it is not); an error if it does not.
        normalization: As in `emphasis_loss`.
        max_margin: Likewise.
        class_weight: (C,) >= 0, multiplies w by the label's weight.

    Returns:
        A function of outputs (with logits (N, C) or (N, T, C)), labels ((N,) or (N, T), -100 where there is none) and
        num_items_in_batch. Its loss is 0, with a graph, where there are no labels to count. It can be pickled.

    Raises:
        ValueError: When called: there are no labels or no logits, or labels of another shape; `causal` is None and the
            output's name does not say what it is.
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
    if isinstance(outputs, dict) and "logits" not in outputs:
        raise EmphasisValueError(f"the model's output has no 'logits', only {', '.join(map(repr, outputs))}")
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    labels = labels.to(logits.device)
    if labels.dim() == logits.dim() and labels.shape[-1] == 1:
        labels = labels.squeeze(-1)
    needed = logits.shape[:-1]
    if labels.is_floating_point() or labels.shape != needed:
        raise EmphasisValueError(
            f"logits of shape {tuple(logits.shape)}, the classes last, need integer labels of shape {tuple(needed)}; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if _is_causal(outputs, logits) if causal is None else causal:
        labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED)  # copies less than to cut the logits
    if loss.class_weight is not None and loss.class_weight.device != logits.device:
        loss.to(logits.device)
    total: Tensor = loss(logits.flatten(0, -2), labels.flatten())
    valid = (labels != IGNORED).sum()
    if loss.options.normalization == "batch":
        total = total * valid
    items = valid if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=logits.device)
    return total * (items != 0) / torch.where(items == 0, 1, items)


def _is_causal(outputs: Any, logits: Tensor) -> bool:
    """Return whether labels are to be shifted, by the name of what the model, or the language model in it, returned."""
    kind = type(getattr(outputs, "language_model_outputs", None) or outputs)  # BLIP-2 and InstructBLIP hold another's
    names = [base.__name__ for base in kind.__mro__]
    if any(map(_CAUSAL.fullmatch, names)):
        return True
    if logits.dim() > 2 and not any(map(_ALIGNED.fullmatch, names)):
        raise EmphasisValueError(
            f"a {names[0]} does not say whether the logits of position t are for the label of position t + 1. Pass "
            "compute_loss_func(..., causal=True) if they are, as in GPT-2 (labels are then shifted by one), or "
            "causal=False if labels and logits are aligned, as in token classification and encoder-decoders"
        )
    return False
