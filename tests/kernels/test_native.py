"""The kernels for the CPU: every level of the instruction set against torch operators; a library that never raises."""

import logging
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from emphasis import Relative
from emphasis.kernels import compiler, library, native
from emphasis.kernels.native import NATIVE
from emphasis.kernels.operators import OPERATORS
from emphasis.torch import _fused, emphasis_loss
from forked import Program
from reference import CASES

COMMAND = compiler.compiler_command()
needs_compiler = pytest.mark.skipif(COMMAND is None, reason="no C compiler")
IGNORED = -100
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2**-7, torch.float16: 2**-10}
SCRIPT = """
import torch
from emphasis import DM
from emphasis.kernels.native import NATIVE
from emphasis.torch import emphasis_loss
logits = torch.linspace(-3, 3, 60).view(6, 10).requires_grad_()
loss = emphasis_loss(logits, torch.arange(6), DM(lam=0.5, beta=12))
loss.backward()
print(NATIVE.takes(torch.float32), f"{loss.item():.5f} {logits.grad.abs().sum().item():.5f}")
"""


# --- every level of the instruction set -----------------------------------------------------------


def can_run(level):
    order = compiler.levels()
    return order.index(level) <= order.index(library.level())


@pytest.fixture(scope="module", params=compiler.levels())
def level(request, tmp_path_factory):
    """The kernels compiled for one level, which has vectors of its own width: none is taken apart by the compiler."""
    if COMMAND is None or not can_run(request.param):
        pytest.skip(f"this machine cannot compile or run {request.param}")
    path = tmp_path_factory.mktemp("kernels") / "rows.so"
    version = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True).stdout
    strict = () if "clang" in version else ("-Wall", "-Wextra", "-Wvector-operation-performance", "-Werror")
    compiler.compile_to(path, request.param, COMMAND, *strict)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: found)
        found = library.opened(path)
        yield request.param


def gradient(backend, logits, labels, weighting, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_fused, "backend_on", lambda tensor: backend)
        leaf = logits.detach().clone().requires_grad_()
        loss = emphasis_loss(leaf, labels, weighting, **options)
        seed = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype).view(loss.shape)
        return loss.detach(), torch.autograd.grad(loss, leaf, seed)[0]


@pytest.mark.filterwarnings("ignore:.*max_margin=None:emphasis.EmphasisWarning")
@given(
    st.sampled_from([case[0] for case in CASES]),
    st.sampled_from([None, "integral", "batch"]),
    st.sampled_from(["mean", "sum", "none"]),
    st.sampled_from(list(TOLERANCE)),
    st.sampled_from(["labels", "targets", "one logit", "probabilities of one logit"]),
    st.integers(2, 70),
    st.sampled_from([(), (5,), (3, 11)]),
    st.booleans(),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 3.0, 20.0, 200.0]),
)
@settings(max_examples=250, deadline=None)
def test_kernels_of_every_level_equal_torch_operators(
    level, weighting, normalization, reduction, dtype, kind, classes, inner, weighted, seed, scale
):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    one_logit = "one logit" in kind
    if weighting.log_peak > (9.0 if dtype == torch.float16 else 80.0) and normalization is None:
        return  # more than the dtype holds, which is an error
    shape = (5,) if one_logit else (5, classes, *inner)
    logits = ((random(*shape) * 2 - 1) * scale).to(dtype)
    options = {"normalization": normalization, "reduction": reduction}
    if kind == "labels":
        labels = torch.randint(classes, shape[:1] + shape[2:], generator=generator)
        labels.view(-1)[2] = IGNORED
    elif kind == "targets":
        labels = (random(*shape) * (random(*shape) < 0.5) + 1e-3).to(torch.promote_types(dtype, torch.float32))
        labels[1] = torch.eye(classes)[0].view(-1, *[1] * len(inner))
        labels = labels / labels.sum(1, keepdim=True)
    else:
        labels = torch.randint(2, shape, generator=generator)
        if "probabilities" in kind:
            labels = random(*shape).to(torch.promote_types(dtype, torch.float32))
    if weighted:
        options["class_weight"] = random(2 if one_logit else classes)
        options["sample_weight"] = random(*shape[:1], *shape[2:]) * (random(*shape[:1], *shape[2:]) < 0.8)
    exact = labels.double() if labels.is_floating_point() else labels
    expected = gradient(OPERATORS, logits.double(), exact, weighting, **options)
    loss, got = gradient(NATIVE, logits, labels, weighting, **options)
    assert got.dtype == dtype
    tolerance = TOLERANCE[dtype]
    size = expected[1].abs().amax().item()
    floor = 6e-8 if dtype == torch.float16 else 2e-38  # below the least normal number there is 0, or that number
    # A float32 margin of 200 is right to 1e-5, and so is the weight where the weighting is steep.
    steep = 1.0 + (scale if dtype != torch.float64 else 0.0) * 0.1
    torch.testing.assert_close(got.double(), expected[1], rtol=tolerance * steep, atol=tolerance * steep * size + floor)
    reach = expected[0].abs().amax().item()
    torch.testing.assert_close(
        loss.double(),
        expected[0].double(),
        rtol=min(tolerance, 1e-4) * steep,
        atol=min(tolerance, 1e-4) * steep * (reach + 1e-6),
    )


@pytest.mark.parametrize("kind", ["labels", "probabilities"])
@pytest.mark.parametrize("reach", [2.0, 14.9, 40.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_many_examples_of_one_logit_equal_float64(level, reach, dtype, kind):
    """Margins within the reach of the smaller table, up to its end, and beyond; an ignored one may be anything."""
    logits = torch.linspace(-reach, reach, 1001).to(dtype)
    labels = torch.arange(1001) % 3 % 2
    if kind == "probabilities":
        labels = torch.linspace(0.0, 1.0, 1001)
    else:
        labels[5], logits[5] = IGNORED, torch.nan
    for weighting in (case[0] for case in CASES if case[0].log_peak < 80.0):
        exact = labels.double() if labels.is_floating_point() else labels
        expected = gradient(OPERATORS, logits.double(), exact, weighting, reduction="none")
        for got, wanted in zip(gradient(NATIVE, logits, labels, weighting, reduction="none"), expected, strict=True):
            rounding = max(1e-5, torch.finfo(got.dtype).eps)
            torch.testing.assert_close(got.double(), wanted.double(), rtol=rounding, atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 8, 16, 17, 40, 300])
@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_many_rows_of_probabilities_equal_float64(level, classes, normalization):
    """Several steps of several rows, with ties for the likeliest class, in every place of a block."""
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randn(301, classes, generator=generator)
    logits[torch.arange(301), torch.arange(301) % classes] = 3.0
    logits[::2, -1] = 3.0
    targets = torch.softmax(3.0 * torch.randn(301, classes, generator=generator), 1)
    targets[7] = torch.eye(classes)[-1]
    for weighting in (case[0] for case in CASES if case[0].log_peak < 80.0):
        expected = gradient(OPERATORS, logits.double(), targets.double(), weighting, normalization=normalization)
        got = gradient(NATIVE, logits, targets, weighting, normalization=normalization)
        for one, other in zip(got, expected, strict=True):
            size = other.abs().amax().item()
            torch.testing.assert_close(one.double(), other.double(), rtol=2e-5, atol=2e-6 * size)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_number_added_to_all_logits_changes_nothing(level, normalization, kind):
    logits = torch.randint(-200, 200, (33, 21)) / 64.0  # exact in float32 beside the number
    labels = torch.arange(33) % 21 if kind == "labels" else torch.softmax(2.0 * torch.randn(33, 21), 1)
    for weighting in (CASES[0][0], Relative()):
        pairs = (
            gradient(NATIVE, logits + number, labels, weighting, normalization=normalization) for number in (0, 8192)
        )
        for one, other in zip(*pairs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("shape", [(70, 40), (3, 40, 50)])
def test_bits_around_the_derivative_are_not_touched(level, shape):
    """Every write is inside the derivative, whatever is left of the last block."""
    for classes in range(2, shape[1]):
        size = (shape[0], classes, *shape[2:])
        count = torch.Size(size).numel()
        memory = torch.full((count + 128,), 7.0)
        logits = memory[64 : 64 + count].view(size)
        logits.normal_()
        labels = torch.randint(0, classes, size[:1] + size[2:])
        _, _, state = NATIVE.margins(logits, labels, IGNORED, "the logits")
        out = NATIVE.derivative(logits, labels, torch.ones(labels.shape), state, IGNORED, "the logits")
        assert out.data_ptr() == logits.data_ptr()
        assert memory[:64].eq(7).all()
        assert memory[64 + count :].eq(7).all()
        torch.testing.assert_close(out.sum(1), torch.zeros(labels.shape), atol=1e-5, rtol=0)
        torch.testing.assert_close(out.abs().sum(1), torch.full(labels.shape, 2.0))


def test_addresses_are_handed_out_for_what_was_promised_alone():
    table = torch.zeros(3, dtype=torch.float64)
    logits, labels = torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64)
    for bad in ({"logits": logits.t()}, {"labels": labels.int()}, {"labels": labels[:3]}, {"factor": torch.ones(4)}):
        given_tensors = {"logits": logits, "labels": labels, "factor": None, **bad}
        with pytest.raises(AssertionError, match="contiguous numbers"):
            NATIVE.loss_of_labels(
                **given_tensors, table=table, ignore_index=-100, reduction="mean", is_batch=False, gradient_in="nothing"
            )


# --- the library is optional, so it never raises ----------------------------------------------------


def start(cache: Path | None, **environment: str) -> Program:
    environment = {**os.environ, **({} if cache is None else {"XDG_CACHE_HOME": str(cache)}), **environment}
    return Program(SCRIPT, environment=environment)


def output(program: Program) -> tuple[list[str], str]:
    done = program.completed()
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=1), done.stderr


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The output of two processes that compile at once, and the folder in which they leave the library."""
    cache = tmp_path_factory.mktemp("cache")
    processes = [start(cache) for _ in range(2)]
    return [output(process) for process in processes], cache


@pytest.fixture
def cache(tmp_path, compiled):
    """A cache of this test's own with a library that is compiled."""
    return shutil.copytree(compiled[1], tmp_path / "cache")


@needs_compiler
def test_processes_that_compile_at_once_leave_one_library(compiled):
    (results, said), other = compiled[0]
    assert results[0] == "True"
    assert said == ""
    assert other == (results, said)
    assert len(list((compiled[1] / "emphasis" / "kernels").iterdir())) == 1


def program(path, text):
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


@needs_compiler
@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"EMPHASIS_NATIVE": "0"}, None),
        ({"CC": "no-such-compiler"}, "no-such-compiler"),
        ({"CC": "false"}, "false failed"),
        ({"PATH": "/nonexistent", "CC": ""}, "there is no C compiler"),
        ({"CC": "{babbles}"}, r"babbles failed"),
    ],
    ids=["turned off", "compiler named that is none", "compiler fails", "no compiler", "output that is not UTF-8"],
)
def test_without_it_the_result_is_the_same_and_a_warning_says_why(tmp_path, compiled, environment, reason):
    babbles = program(tmp_path / "babbles", "#!/bin/sh\nprintf '\\377\\376 no\\n' >&2\nexit 1\n")
    environment = {name: value.replace("{babbles}", babbles) for name, value in environment.items()}
    results, said = output(start(tmp_path, **environment))
    assert results == ["False", compiled[0][0][0][1]]
    if reason is None:
        assert said == ""
    else:
        assert reason in said
        assert said.count("Install a C compiler") == 1


@needs_compiler
def test_compiler_that_hangs_is_ended_with_its_children(tmp_path, monkeypatch, caplog):
    started = tmp_path / "started"
    hangs = program(tmp_path / "hangs", f"#!/bin/sh\nsleep 600 &\necho $! >{started}\nwait\n")
    monkeypatch.setenv("CC", hangs)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiler, "SECONDS_TO_COMPILE", 1.0)
    monkeypatch.setattr(library, "BUILT", tmp_path)
    with caplog.at_level(logging.WARNING, "emphasis"):
        assert library.library.__wrapped__() is None
    assert "did not end within 1 seconds" in caplog.text
    for _ in range(100):  # killed, and gone once its parent has noticed
        if not Path(f"/proc/{started.read_text().strip()}/cmdline").is_file():
            break
        if not Path(f"/proc/{started.read_text().strip()}/cmdline").read_bytes():
            break  # a zombie: whoever adopted it has not looked yet
        time.sleep(0.05)
    else:
        pytest.fail("the compiler's child still runs")
    assert not list((tmp_path / "emphasis" / "kernels").iterdir())


@needs_compiler
def test_truncated_library_is_compiled_anew(cache, compiled):
    (kept,) = (cache / "emphasis" / "kernels").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:1000])
    assert output(start(cache)) == compiled[0][0]
    (kept,) = (cache / "emphasis" / "kernels").iterdir()
    assert len(kept.read_bytes()) == len(whole)


@needs_compiler
def test_library_without_its_functions_is_done_without(tmp_path, cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(library, "BUILT", tmp_path)
    assert library.library.__wrapped__() is not None
    (kept,) = (cache / "emphasis" / "kernels").iterdir()
    source = tmp_path / "empty.c"
    source.write_text("int nothing;\n")
    subprocess.run([*COMMAND, "-shared", "-fPIC", "-o", str(tmp_path / "empty.so"), str(source)], check=True)
    content = (tmp_path / "empty.so").read_bytes()
    prefix = kept.name.rpartition("-")[0]
    kept.unlink()
    kept.with_name(f"{prefix}-{compiler.digest(content)}.so").write_bytes(content)
    assert library.library.__wrapped__() is not None


@needs_compiler
@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize("case", ["a file where a folder should be", "not to be written to", "no home"])
def test_cache_that_cannot_be_made_leaves_nothing_behind(tmp_path, case):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {"TMPDIR": str(temporary)}
    cache = tmp_path / "cache"
    cache.mkdir()
    if case == "a file where a folder should be":
        (cache / "emphasis").write_text("")
    elif case == "not to be written to":
        cache = Path("/proc")  # which root cannot write to either
    else:
        cache = None
        environment |= {"HOME": "", "XDG_CACHE_HOME": ""}
    results, said = output(start(cache, **environment))
    assert results[0] == "True"
    assert said == ""
    assert not list(temporary.iterdir())


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs root to become nobody in particular")
def test_user_without_a_name_and_a_home(tmp_path):
    """As in a container that is started with an unknown uid."""
    script = f"import os\nos.chdir('/')\nos.setgid(54321)\nos.setuid(54321)\n{SCRIPT}"
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}
    temporary = tmp_path.parent / "for-anybody"
    temporary.mkdir(mode=0o777, exist_ok=True)
    done = Program(script, environment=environment | {"TMPDIR": "/tmp"}).completed()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in ("True", "False")


@needs_compiler
def test_shipped_library_is_used_without_a_compiler(tmp_path, cache, monkeypatch):
    built = tmp_path / "built"
    built.mkdir()
    (kept,) = (cache / "emphasis" / "kernels").iterdir()
    shutil.copy(kept, built / compiler.library_name(library.level()))
    monkeypatch.setattr(library, "BUILT", built)
    monkeypatch.setattr(compiler, "compiler_command", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))
    assert library.library.__wrapped__() is not None
    assert not (tmp_path / "nothing").exists()


def test_a_compiler_is_there_in_continuous_integration():
    if os.environ.get("CI") != "true" or shutil.which("cc") is None:
        pytest.skip("only where tests without the kernels would mean nothing")
    assert NATIVE.takes(torch.float32)
