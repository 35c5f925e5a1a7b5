"""Networks by name, and loading of pretrained parameters.

`build` makes a network, `options_of` lists its options, and `load_pretrained` loads its parameters from a file.
`emphasis.models.stacked` holds many multilayer perceptrons as one batched computation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emphasis.models.registry import NAMES, build, options_of

if TYPE_CHECKING:
    from emphasis.models.pretrained import PretrainedError, load_pretrained

__all__ = ["NAMES", "PretrainedError", "build", "load_pretrained", "options_of"]


def __getattr__(name: str) -> Any:
    # Listing the names of networks must not import torch.
    if name in {"PretrainedError", "load_pretrained"}:
        from emphasis.models import pretrained

        return getattr(pretrained, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
