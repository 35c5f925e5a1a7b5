"""What the tests of training share: one thread, so that numbers are alike, and Fabric on the CPU."""

import pytest
import torch

from emphasis.training.fabric import make_fabric
from emphasis.training.settings import Execution


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def fabric():
    return make_fabric(Execution(accelerator="cpu"))
