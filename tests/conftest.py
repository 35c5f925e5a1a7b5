import os
import random
import signal
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # for reference.py, under --import-mode=importlib

# Shells start what they run in the background with Ctrl-C ignored, which processes inherit; tests send this signal.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Two cores shared with other work make any deadline a coin toss; the number of examples is what bounds the time. The
# suite draws the same examples in every run; HYPOTHESIS_PROFILE=thorough draws others, and ten times as many.
hypothesis.settings.register_profile("suite", deadline=None, max_examples=30, derandomize=True)
hypothesis.settings.register_profile("thorough", deadline=None, max_examples=300)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "suite"))

# What compilers have made of the same code is kept for the other processes and later runs, by vector width, which
# ATEN_CPU_CAPABILITY sets: Inductor would take code for one width in a process of another, where it crashes.
_WIDTH = torch.backends.cpu.get_cpu_capability().lower()
_CACHES = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
_COMPILED = _CACHES / "emphasis-tests" / _WIDTH
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_COMPILED / "inductor"))
os.environ.setdefault("TRITON_CACHE_DIR", str(_COMPILED / "triton"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_COMPILED / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# Each worker of xdist has its share of the cores. What trains, and is not told how many processes and threads it may
# use, would otherwise take those of the other workers as well, and threads that wait for each other burn them.
_CORES = max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
os.cpu_count = lambda: _CORES

DATA = Path(__file__).parents[1].parent / "shared" / "data"


# Modules with tests that take long, several processes each. They run first, so that no worker is left with one of them
# when the others have finished.
LONG = (
    "experiments/test_devices.py",
    "experiments/test_run_processes.py",
    "training/test_training.py",
    "experiments/test_stopping.py",
    "experiments/test_videos.py",
    "experiments/test_large.py",
    "test_pages.py",
    "test_sklearn.py",
    "boosting/test_dask.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests that take long to the front, all others stay in their order."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(LONG))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start each test with the same random numbers, whichever tests its process has run before."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002  # scikit-learn draws from it
    torch.manual_seed(0)


@pytest.fixture
def shared_data() -> Path:
    """The folder of real data beside the repository."""
    if not DATA.is_dir():
        pytest.skip(f"the real data is not at {DATA}")
    return DATA
