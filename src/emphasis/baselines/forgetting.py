"""Forgetting: strong dropout against memorization.

Source: D. Arpit et al., A Closer Look at Memorization in Deep Networks, ICML 2017.
The name and the range are those of L. Jiang et al., MentorNet, ICML 2018, section 5.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from emphasis.baselines.protocol import Baseline, Problem, check_range
from emphasis.errors import EmphasisValueError


class Forgetting(Baseline):
    """Cross-entropy with dropout before the last linear layer.

    Args:
        problem: The labels.
        dropout: Share of features that are set to zero, in [0, 1); 0 is cross-entropy. The paper on derivative
            manipulation (section 4.2.2) searches in (0.2, 0.9). The default was chosen for this package.

    Raises:
        ValueError: dropout is out of range.
    """

    def __init__(self, problem: Problem, *, dropout: float = 0.5) -> None:
        super().__init__(problem)
        check_range("dropout", dropout, 0.0, 1.0, ends="[)")
        self.dropout = dropout

    def prepare(self, network: nn.Module) -> None:
        """Add dropout before the last linear layer of a network.

        Raises:
            ValueError: The network has no linear layer.
        """
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise EmphasisValueError(
                "Forgetting needs a network with an nn.Linear, before the last of which it adds dropout"
            )
        linear[-1].register_forward_pre_hook(self._drop)

    def _drop(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(inputs[0], self.dropout, layer.training), *inputs[1:])

    def example_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return cross-entropy, (N,)."""
        return F.cross_entropy(logits, labels, reduction="none")
