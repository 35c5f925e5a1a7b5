"""Lightning Fabric, imported without torchmetrics.

Fabric imports torchmetrics to compare its version, and torchmetrics imports transformers and scipy where they are
installed, which takes three seconds in every process. Nothing of Fabric that is used here needs it.
"""

from __future__ import annotations

import sys

_NAME = "torchmetrics"
_hides = _NAME not in sys.modules
if _hides:
    sys.modules[_NAME] = None  # type: ignore[assignment]  # an import of it fails, as where it is not installed
try:
    from lightning_fabric import Fabric
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy
    from lightning_fabric.utilities.exceptions import MisconfigurationException
finally:
    if _hides:
        del sys.modules[_NAME]

__all__ = ["DDPStrategy", "Fabric", "MisconfigurationException", "ModelParallelStrategy"]
