"""Lightning Fabric, imported without torchmetrics.

`lightning_fabric.utilities.imports` imports torchmetrics to compare its version, and torchmetrics imports transformers
and torchvision where they are installed, which takes seconds. Here it finds a module that has the version only.
"""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

_NAME = "torchmetrics"


def _stand_in() -> ModuleType | None:
    """Return a module with the version of torchmetrics; None if it is imported already, or not installed."""
    if _NAME in sys.modules:
        return None
    module = ModuleType(_NAME)
    try:
        module.__version__ = version(_NAME)  # type: ignore[attr-defined]
    except PackageNotFoundError:
        return None
    return module


_module = _stand_in()
if _module is not None:
    sys.modules[_NAME] = _module
try:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException
finally:
    if _module is not None:
        del sys.modules[_NAME]

__all__ = ["DDPStrategy", "Fabric", "MisconfigurationException", "ModelParallelStrategy"]
