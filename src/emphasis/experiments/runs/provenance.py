"""Where results come from: the device, the versions of libraries, and the revision of the source code."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch

import emphasis


def device_name(device: torch.device) -> str:
    """Return the name of a device: the model of a GPU, otherwise the type of the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Return the versions of the libraries that results depend on."""
    return {
        "emphasis": emphasis.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "torch": torch.__version__,
    }


def revision() -> str | None:
    """Return `git describe` of the repository that holds this package, or None if it is not in one.

    The environment variable EMPHASIS_REVISION takes precedence, for copies without their repository.
    """
    return os.environ.get("EMPHASIS_REVISION") or _described_revision()


@functools.cache  # the code that is running does not change, and git takes as long as a short job
def _described_revision() -> str | None:
    package = Path(emphasis.__file__).parent
    try:
        tracked = _git(package, "ls-files", "--error-unmatch", Path(emphasis.__file__).name)
        if tracked.returncode != 0:  # installed inside another project's repository
            return None
        described = _git(package, "describe", "--always", "--dirty", "--tags")
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
