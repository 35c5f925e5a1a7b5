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
    """Criterion for training loops: `EmphasisLoss()(logits, labels)`.

    The default is `Relative()` for any number of classes: cross-entropy with less weight for labels that the network
    contradicts. It has no state and uses the learning rate of cross-entropy.

    Args:
        weighting: See `emphasis_loss`.
        normalization: See `emphasis_loss`.
        reduction: See `emphasis_loss`.
        ignore_index: See `emphasis_loss`.
        class_weight: Factors of w by class, >= 0: a tensor or sequence of shape (C,). It is registered as a buffer.
        max_margin: See `emphasis_loss`.
        process_group: See `emphasis_loss`.
        inplace: See `emphasis_loss`.

    Shape:
        - logits: (N, C), (N, C, d1, ...) or (N,).
        - labels and sample_weight: (N,) or (N, d1, ...); soft labels have the shape of the logits.
        - output: a scalar; of the shape of integer labels if the reduction is "none".

    Raises:
        TypeError, ValueError, OverflowError: See `emphasis_loss`.

    Examples:
        >>> import torch
        >>> from emphasis.torch import EmphasisLoss
        >>> criterion = EmphasisLoss()
        >>> criterion
        EmphasisLoss(Relative(q=1.0, doubt=0.2), normalization='integral', reduction='mean', max_margin='auto')
        >>> logits = torch.randn(8, 3, requires_grad=True)
        >>> labels = torch.randint(3, (8,))
        >>> criterion(logits, labels).backward()
        >>> logits.grad.shape
        torch.Size([8, 3])
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
            weight = torch.as_tensor(weight, dtype=torch.float32)  # independent of the default dtype
        self.register_buffer("class_weight", None if weight is None else weight.detach().clone())

    @property
    def weighting(self) -> Weighting:
        """The weighting, which can be set, as a schedule does before each step (see `emphasis.scheduled`)."""
        return self.options.weighting

    @weighting.setter
    def weighting(self, weighting: Weighting) -> None:
        if weighting != self.options.weighting:  # a schedule makes a new one in every step
            old = self.options
            self.options = resolve(weighting, old.normalization, old.reduction, self.max_margin, old.process_group)
            self._options_id = register_options(self.options)

    def forward(self, logits: Tensor, labels: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        """Return `emphasis_loss(logits, labels, weighting, ...)`."""
        options = self._options_id if torch.compiler.is_compiling() else self.options
        return apply_options(logits, labels, options, self.ignore_index, self.class_weight, sample_weight, self.inplace)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Register the options again, as ids are valid in one process only."""
        super().__setstate__({**state, "_options_id": register_options(state["options"])})  # type: ignore[no-untyped-call]

    def extra_repr(self) -> str:
        """The weighting and the options, as printed by the module."""
        return (
            f"{self.weighting!r}, normalization={self.options.normalization!r}, "
            f"reduction={self.options.reduction!r}, max_margin={self.max_margin!r}"
        )
