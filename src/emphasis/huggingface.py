"""Losses for the Trainer of Hugging Face: `compute_loss_func`.

Needs the extra `transformers`.

from emphasis.huggingface import compute_loss_func

trainer = Trainer(model, arguments, train_dataset=data, compute_loss_func=compute_loss_func())

`WarmUp` adds the warm-up with which `Relative`, the default, is better where the learning rate decreases, as here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from emphasis.errors import EmphasisTypeError, EmphasisValueError
from emphasis.extras import missing_extra

try:
    import torch
    import transformers as _transformers  # noqa: F401
    from torch import Tensor
    from torch.nn import functional as F
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.huggingface", "transformers", error) from None

from emphasis.torch import EmphasisLoss
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, WeightingLike, default_schedule, scheduled
from emphasis.weighting.options import Normalization
from emphasis.weighting.schedule import Schedule

IGNORED = -100  # the label that transformers ignores

# Names of outputs that determine whether labels are shifted. All models of transformers that return one of them agree,
# except for CPM-Ant, which does not shift its labels. Not included are "CausalLMOutputWithCrossAttentions" (GPT-2
# shifts its labels, a decoder of BART does not) and "CausalLMOutput" (which CTC uses as well).
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
    """Return a loss for `transformers.Trainer(compute_loss_func=...)`: for classes, for tokens, or for the next token.

    The Trainer sums the losses of the batches of one step (gradient accumulation) and passes the number of their labels
    on all devices. The loss is the sum over examples divided by that number, as in transformers. Under "batch" the
    total emphasis of a batch is its share of those labels. Terms that a model adds to its own loss, such as label
    smoothing and the balance of a mixture of experts, are not included.

    Args:
        weighting: See `emphasis.torch.emphasis_loss`.
        causal: Whether the logits of position t are for the label of position t + 1, as in causal language models, the
            labels of which are not shifted. With None the name of the model's output decides, such as
            "CausalLMOutputWithPast" (causal) or "TokenClassifierOutput" (not causal).
        normalization: See `emphasis_loss`.
        max_margin: See `emphasis_loss`.
        class_weight: Factors of w by class, >= 0, of shape (C,).

    Returns:
        A function of outputs, with logits (N, C) or (N, T, C), labels, (N,) or (N, T) with -100 for ignored ones, and
        num_items_in_batch, and optionally sample_weight of the labels' shape, factors of w that are >= 0. It returns 0,
        with a graph, if all labels are ignored. It can be pickled.

        It raises ValueError if the batch has no labels, the output no logits, or their shapes do not match, and if
        `causal` is None and the name of the output does not decide.
    """
    loss = EmphasisLoss(
        weighting,
        normalization=normalization,
        reduction="sum",
        max_margin=max_margin,
        class_weight=None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32),
    )
    return partial(_loss, loss, causal)


class WarmUp(TrainerCallback):  # type: ignore[misc]
    """Changes the weighting of a loss during the Trainer's steps, by default to begin with cross-entropy.

    loss_func = compute_loss_func()
    trainer = Trainer(model, arguments, ..., compute_loss_func=loss_func, callbacks=[WarmUp(loss_func)])

    The weighting depends on the share of steps that have been taken, so that a resumed training has the same.

    Args:
        loss_func: From `compute_loss_func`, the one that the Trainer has.
        schedule: Schedules of parameters of its weighting by name. Defaults to
            `emphasis.weighting.default_schedule`: a fifth of the steps with cross-entropy for `Relative`, and no
            change for other weightings.

    Raises:
        TypeError: `loss_func` is not from `compute_loss_func`.
        ValueError: The weighting has no such parameter, or does not allow a value; when training starts.
    """

    def __init__(self, loss_func: Callable[..., Tensor], schedule: Schedule | None = None) -> None:
        loss = next(iter(getattr(loss_func, "args", ())), None)
        if not isinstance(loss, EmphasisLoss):
            raise EmphasisTypeError(f"loss_func must be what compute_loss_func(...) has returned; got {loss_func!r}")
        self.loss = loss
        self.weighting = loss.weighting
        self.schedule = default_schedule(loss.weighting) if schedule is None else schedule

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Set the weighting of the next step."""
        self.loss.weighting = scheduled(self.weighting, self.schedule, state.global_step / state.max_steps)


def _loss(
    loss: EmphasisLoss,
    causal: bool | None,
    outputs: Any,
    labels: Tensor | None,
    num_items_in_batch: Tensor | int | None = None,
    sample_weight: Tensor | None = None,
) -> Tensor:
    if labels is None:
        raise EmphasisValueError(
            "the batch has no 'labels'; the weight of an example depends on the probability of its label"
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
    if sample_weight is not None:
        sample_weight = sample_weight.to(logits.device).reshape(labels.shape)
    if _is_causal(outputs, logits) if causal is None else causal:
        labels = F.pad(labels[..., 1:], (0, 1), value=IGNORED)  # copies less memory than slicing the logits
        sample_weight = None if sample_weight is None else F.pad(sample_weight[..., 1:], (0, 1))
    if loss.class_weight is not None and loss.class_weight.device != logits.device:
        loss.to(logits.device)
    total: Tensor = loss(
        logits.flatten(0, -2), labels.flatten(), None if sample_weight is None else sample_weight.flatten()
    )
    valid = (labels != IGNORED).sum()
    if loss.options.normalization == "batch":
        total = total * valid
    items = valid if num_items_in_batch is None else torch.as_tensor(num_items_in_batch, device=logits.device)
    return total * (items != 0) / torch.where(items == 0, 1, items)


def _is_causal(outputs: Any, logits: Tensor) -> bool:
    """Return whether labels have to be shifted, by the type of output of the model or of the language model in it."""
    # The outputs of BLIP-2 and InstructBLIP contain that of a language model.
    kind = type(getattr(outputs, "language_model_outputs", None) or outputs)
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
