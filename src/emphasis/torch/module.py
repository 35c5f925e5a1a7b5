"""`EmphasisLoss`: `emphasis_loss` as a module, its options checked once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from emphasis.torch._options import register_options
from emphasis.torch.functional import apply_options, resolve
from emphasis.weighting import DEFAULT_WEIGHTING, MaxMargin, Weighting, WeightingLike
from emphasis.weighting.options import Normalization, Reduction


class EmphasisLoss(nn.Module):
    """Criterion for one's own loop: `EmphasisLoss()(logits, labels)`.

    Without arguments it is the recommended loss, `Relative()`, for any number of classes: cross-entropy that holds
    back where the network is sure of another class. It keeps no state, and takes cross-entropy's learning rate.

    Args:
        weighting: As in `emphasis_loss`, and so are the others, class_weight excepted:
        class_weight: (C,) tensor or sequence >= 0; a buffer that follows `.to(device)` and is saved.

    Shape:
        logits (N, C), (N, C, d1, ...) or (N,), labels and sample_weight as in `emphasis_loss`.
    """

    class_weight: Tensor | None

    def __init__(
        self,
        weighting: WeightingLike = DEFAULT_WEIGHTING,
        *,
        normalization: Normalization = "integral",
        reduction: Reduction = "mean",
        ignore_index: int = -100,
        class_weight: Tensor | None = None,
        max_margin: MaxMargin = "auto",
        process_group: Any = None,
        inplace: bool = False,
    ) -> None:
        super().__init__()
        self.options = resolve(weighting, normalization, reduction, max_margin, process_group)
        self._options_id = register_options(self.options)
        self.ignore_index = ignore_index
        self.max_margin = max_margin
        self.inplace = inplace
        weight = class_weight
        if weight is not None and not (isinstance(weight, Tensor) and weight.is_floating_point()):
            weight = torch.as_tensor(weight, dtype=torch.float32)  # whatever the default dtype is
        self.register_buffer("class_weight", None if weight is None else weight.detach().clone())

    @property
    def weighting(self) -> Weighting:
        """The weighting in use; may be set, as a schedule does step by step (see `emphasis.scheduled`)."""
        return self.options.weighting

    @weighting.setter
    def weighting(self, weighting: Weighting) -> None:
        if weighting is not self.options.weighting:
            old = self.options
            self.options = resolve(weighting, old.normalization, old.reduction, self.max_margin, old.process_group)
            self._options_id = register_options(self.options)

    def forward(self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return `emphasis_loss(logits, labels, weighting, ...)`."""
        options = self._options_id if torch.compiler.is_compiling() else self.options
        return apply_options(logits, labels, options, self.ignore_index, self.class_weight, sample_weight, self.inplace)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Number the options anew: the number means nothing in another process."""
        super().__setstate__({**state, "_options_id": register_options(state["options"])})  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """The weighting and the options, as printed by the module."""
        return (
            f"{self.weighting!r}, normalization={self.options.normalization!r}, "
            f"reduction={self.options.reduction!r}, max_margin={self.max_margin!r}"
        )
