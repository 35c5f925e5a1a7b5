"""Emphasis in TRL's supervised fine-tuning: `EmphasisSFTTrainer`.

Needs the extra `trl`.

from emphasis import DM
from emphasis.trl import EmphasisSFTTrainer

trainer = EmphasisSFTTrainer(DM(lam=0.5, beta=4, vanishing=True), model=model, args=arguments, train_dataset=data)
"""

from __future__ import annotations

import math
from typing import Any

from emphasis.errors import EmphasisValueError
from emphasis.extras import missing_extra

try:
    import torch
    from torch import Tensor
    from trl import SFTTrainer
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.trl", "trl", error) from None

from emphasis.torch.functional import resolve
from emphasis.weighting import MaxMargin, WeightingLike
from emphasis.weighting.options import Normalization

TOKEN_WEIGHT = "token_weight"
"""The key of a batch under which a data collator may give each token's weight, of the shape of its labels."""

_LOG_2 = math.log(2.0)


class EmphasisSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """TRL's `SFTTrainer`, whose tokens push on the model by a weighting.

    TRL computes the log-probabilities of the labels without ever holding the logits. Each is multiplied by
    w / (2 (1 - p)), held constant for the derivative, so that the derivative with respect to the logits is that of
    `emphasis_loss`, without a second forward pass. The loss that is logged is this weighted cross-entropy, not the
    weighting's own loss value. `MAE()` with `normalization=None` is TRL's `loss_type="dft"`.

    Args:
        weighting: As `emphasis.torch.emphasis_loss` takes it, but a function of p alone: `Relative`, which needs the
            largest probability as well, is refused.
        normalization: As in `emphasis_loss`. Under "batch" each batch of a device has one unit of emphasis for each of
            its tokens.
        max_margin: As in `emphasis_loss`.
        options: What `SFTTrainer` takes. A data collator may give `token_weight`, (N, T) >= 0, which multiplies w.

    Raises:
        ValueError: The weighting depends on more than p, or `args` asks for a loss of TRL's own.
    """

    def __init__(
        self,
        weighting: WeightingLike,
        *args: Any,
        normalization: Normalization = "integral",
        max_margin: MaxMargin = "auto",
        **options: Any,
    ) -> None:
        self.emphasis = resolve(weighting, normalization, "sum", max_margin, None)
        if self.emphasis.weighting.trust[0]:
            raise EmphasisValueError(
                f"{self.emphasis.weighting!r} depends on the largest probability, which TRL does not keep; "
                "use a weighting of p alone, such as DM(lam=0.5, beta=4, vanishing=True), or emphasis.huggingface"
            )
        super().__init__(*args, **options)
        smoothing = self.args.label_smoothing_factor
        if self.args.loss_type != "nll" or self.compute_loss_func is not None or smoothing:
            raise EmphasisValueError(
                f"loss_type={self.args.loss_type!r}, compute_loss_func and label_smoothing_factor={smoothing} would "
                "take the weighting's place; leave them out"
            )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns: list[str] | None = [*dict.fromkeys([*columns, TOKEN_WEIGHT])]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return TRL's loss of the weighted log-probabilities, and what it measures besides."""
        inputs = dict(inputs)
        token_weight = inputs.pop(TOKEN_WEIGHT, None)

        def weighted(**given: Any) -> Any:
            outputs = model(**given)
            if given.get("fused_lm_head"):
                shifted = None if token_weight is None else token_weight[:, -outputs.log_probs.shape[1] :]
                outputs.log_probs = outputs.log_probs * self.factor(outputs.log_probs, outputs.label_mask, shifted)
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def factor(self, log_p: Tensor, mask: Tensor, token_weight: Tensor | None = None) -> Tensor:
        """Return w / (2 (1 - p)) of each token, of the shape of `log_p`; 0 where there is no label or no push.

        Args:
            log_p: Log-probabilities of the labels.
            mask: Where there is a label.
            token_weight: >= 0, multiplies w.
        """
        options, dtype = self.emphasis, log_p.dtype
        mask = mask.bool()
        log_p = torch.where(mask, log_p, -1.0).double().clamp(max=-torch.finfo(torch.float64).tiny)
        log_q = torch.log(-torch.expm1(log_p))
        log_w = options.weighting.log_weight(log_p, log_q, torch) - options.log_normalizer
        log_w = torch.where(mask & (log_p - log_q <= options.max_margin), log_w, -torch.inf)
        if token_weight is not None:
            if token_weight.shape != log_p.shape or not bool((token_weight >= 0.0).all()):
                raise EmphasisValueError(
                    f"{TOKEN_WEIGHT} of shape {tuple(token_weight.shape)} must have a number >= 0 for each label"
                )
            log_w = log_w + token_weight.double().log()
        if options.normalization == "batch":
            log_sum = torch.logsumexp(log_w.flatten(), 0)
            log_w = log_w - torch.where(log_sum == -torch.inf, 0.0, log_sum) + mask.sum().double().log()
        return (log_w - _LOG_2 - log_q).exp().nan_to_num(nan=0.0, posinf=torch.finfo(dtype).max).to(dtype)
