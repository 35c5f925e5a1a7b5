"""Emphasis in PyTorch: `EmphasisLoss` and `emphasis_loss`, exact derivatives for any weighting.

from emphasis.torch import EmphasisLoss

criterion = EmphasisLoss()
loss = criterion(logits, labels)
loss.backward()
"""

from emphasis.extras import missing_extra

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise missing_extra("emphasis.torch", "torch", error) from None

from emphasis.torch._weighting import from_function, from_loss
from emphasis.torch.distributed import Accumulation
from emphasis.torch.functional import emphasis_loss
from emphasis.torch.linear import linear_emphasis_loss
from emphasis.torch.module import EmphasisLoss

__all__ = ["Accumulation", "EmphasisLoss", "emphasis_loss", "from_function", "from_loss", "linear_emphasis_loss"]
