"""Losses for supervised fine-tuning with TRL: `EmphasisSFTTrainer`.

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
"""Key of a batch under which a data collator may pass the weights of tokens, of the shape of the labels."""

_LOG_2 = math.log(2.0)


def refuse_sequence_parallelism(config: Any) -> None:
    """Raise a ValueError if Accelerate's parallelism splits sequences, since TRL takes the model's own loss then."""
    if config is not None and config.sp_enabled:
        raise EmphasisValueError(
            f"sp_size={config.sp_size}: under sequence parallelism TRL takes the model's own loss, without the "
            "weighting; use sp_size=1"
        )


class EmphasisSFTTrainer(SFTTrainer):  # type: ignore[misc]
    """The `SFTTrainer` of TRL with a weighting as its loss.

    TRL computes the log-probabilities of the labels without storing the logits. Each is multiplied by w / (2 (1 - p)),
    a constant for differentiation, so that the derivative with respect to the logits is that of `emphasis_loss`,
    without a second forward pass. The logged loss is this weighted cross-entropy, not the value of the weighting's
    loss. `MAE()` with `normalization=None` is TRL's `loss_type="dft"`.

    Args:
        weighting: A weighting that depends on p only, see `emphasis.torch.emphasis_loss`. `Relative` is not allowed, as
            it needs the largest probability as well.
        *args: Positional arguments of `SFTTrainer`.
        normalization: See `emphasis_loss`. Under "batch" the mean emphasis of the tokens of each batch on a device is
            1.
        max_margin: See `emphasis_loss`.
        **options: Keyword arguments of `SFTTrainer`. A data collator may add `token_weight`, factors of w >= 0, (N, T).

    Raises:
        ValueError: The weighting depends on more than p, or the arguments select another loss or sequence parallelism,
            under which TRL has another loss.
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
                f"{self.emphasis.weighting!r} depends on the largest probability, which TRL does not store; "
                "use a weighting of p only, such as DM(lam=0.5, beta=4, vanishing=True), or emphasis.huggingface"
            )
        super().__init__(*args, **options)
        smoothing = self.args.label_smoothing_factor
        if self.args.loss_type != "nll" or self.compute_loss_func is not None or smoothing:
            raise EmphasisValueError(
                f"loss_type={self.args.loss_type!r}, compute_loss_func and label_smoothing_factor={smoothing} would "
                "replace the weighting; omit them"
            )
        refuse_sequence_parallelism(getattr(self.accelerator, "parallelism_config", None))

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: list[str] = self._signature_columns or []
        self._signature_columns: list[str] | None = [*dict.fromkeys([*columns, TOKEN_WEIGHT])]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the loss of TRL for weighted log-probabilities, and its other metrics."""
        inputs = dict(inputs)
        token_weight = inputs.pop(TOKEN_WEIGHT, None)

        def weighted(**arguments: Any) -> Any:
            outputs = model(**arguments)
            if arguments.get("fused_lm_head"):
                shifted = None if token_weight is None else token_weight[:, -outputs.log_probs.shape[1] :]
                outputs.log_probs = outputs.log_probs * self.factor(outputs.log_probs, outputs.label_mask, shifted)
            return outputs

        return super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def factor(self, log_p: Tensor, mask: Tensor, token_weight: Tensor | None = None) -> Tensor:
        """Return w / (2 (1 - p)) of each token, of the shape of `log_p`; 0 where there is no label or no derivative.

        Args:
            log_p: Log-probabilities of the labels, of any shape.
            mask: Whether each token has a label, of the same shape.
            token_weight: Factors of w, >= 0, of the same shape, or None for 1.

        Raises:
            ValueError: `token_weight` has another shape, or is negative or NaN somewhere.
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
