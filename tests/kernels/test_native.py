"""rows.c: compiled once, kept, and done without where it cannot be had."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from emphasis.kernels import native

needs_compiler = pytest.mark.skipif(not native.available(), reason="no C compiler")
SCRIPT = """
import torch
from emphasis import DM
from emphasis.kernels import native
from emphasis.torch import emphasis_loss
logits = torch.linspace(-3, 3, 60).view(6, 10).requires_grad_()
loss = emphasis_loss(logits, torch.arange(6), DM(lam=0.5, beta=12))
loss.backward()
print(native.available(), f"{loss.item():.6f} {logits.grad.abs().sum().item():.6f}")
"""


def start(cache: Path, **environment: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), **environment}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)


def output(process: subprocess.Popen[str]) -> list[str]:
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return printed.split(maxsplit=1)


@needs_compiler
def test_processes_that_compile_at_once_leave_one_library(tmp_path):
    processes = [start(tmp_path) for _ in range(3)]
    results = [output(process) for process in processes]
    assert all(result == results[0] for result in results)
    assert results[0][0] == "True"
    assert len(list((tmp_path / "emphasis" / "kernels").iterdir())) == 1


@needs_compiler
@pytest.mark.parametrize(
    "environment",
    [{"EMPHASIS_NATIVE": "0"}, {"CC": "no-such-compiler"}, {"CC": "false"}, {"PATH": "/nonexistent", "CC": ""}],
    ids=["turned off", "compiler named that is none", "compiler fails", "no compiler"],
)
def test_without_it_the_result_is_the_same(tmp_path, environment):
    assert output(start(tmp_path, **environment)) == ["False", output(start(tmp_path))[1]]


@needs_compiler
def test_truncated_library_is_compiled_anew(tmp_path):
    expected = output(start(tmp_path))
    (library,) = (tmp_path / "emphasis" / "kernels").iterdir()
    library.write_bytes(library.read_bytes()[:1000])
    assert output(start(tmp_path)) == expected


@needs_compiler
@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "emphasis").write_text("a file where a folder should be")
    assert output(start(tmp_path))[0] == "True"


@needs_compiler
@pytest.mark.parametrize("shape", [(70, 40), (3, 40, 50)])
def test_bits_around_the_derivative_are_not_touched(shape):
    """Every write is inside the derivative, whatever is left of the last block."""
    for classes in range(2, shape[1]):
        size = (shape[0], classes, *shape[2:])
        count = torch.Size(size).numel()
        memory = torch.full((count + 128,), 7.0)
        out = memory[64 : 64 + count].view(size)
        logits = torch.randn(size)
        labels = torch.randint(0, classes, size[:1] + size[2:])
        _, state = native.margins(logits, labels, -100, out)
        native.write_derivative(logits, labels, torch.ones(labels.shape), state, -100, out)
        assert memory[:64].eq(7).all()
        assert memory[64 + count :].eq(7).all()
        torch.testing.assert_close(out.sum(1), torch.zeros(labels.shape), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.abs().sum(1), torch.full(labels.shape, 2.0))
