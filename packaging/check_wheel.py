"""Check an installed wheel: the loss runs on the kernels that it ships, and agrees with torch."""

from pathlib import Path

import torch
from torch.nn import functional as F

import emphasis
from emphasis import CCE
from emphasis.kernels.library import BUILT, library
from emphasis.kernels.native import NATIVE
from emphasis.torch import _fused, emphasis_loss

kernels = library()
assert kernels is not None, "there are no kernels"
assert Path(kernels._name).parent == BUILT, f"the kernels in use are not the wheel's: {kernels._name}"

logits = torch.randn(64, 10, requires_grad=True)
labels = torch.arange(64) % 10
assert _fused.backend_for_labels(logits, labels) is NATIVE
(gradient,) = torch.autograd.grad(emphasis_loss(logits, labels, CCE()), logits)
(expected,) = torch.autograd.grad(F.cross_entropy(logits, labels), logits)
torch.testing.assert_close(gradient, expected)
print(f"emphasis {emphasis.__version__} runs on {Path(kernels._name).name}")
