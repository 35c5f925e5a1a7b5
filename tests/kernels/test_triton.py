"""The Triton kernels against the float64 reference: on the GPU if there is one, else in Triton's interpreter.

The interpreter must be chosen before Triton is imported, and torch.compile imports it too. So without a GPU one test
here runs the others in a process of their own.
"""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, DM, GCE, Focal, Uniform
from emphasis.weighting.derivative import margin_and_direction
from emphasis.weighting.margin_table import margin_table
from reference import CASE_IDS, CASES, MARGINS, weightings

triton = pytest.importorskip("triton", reason="Triton is not installed")

from emphasis.kernels import triton_rows  # noqa: E402

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
RUNS = triton_rows.available(DEVICE)
IGNORED = -100
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# C = 2 and few; one block; two reads in small chunks, in large ones, and none; neighbours, also in chunks of classes.
SHAPES = [(1, 2, 1), (301, 2, 1), (13, 7, 1), (3, 1000, 1), (2, 9001, 1), (2, 20000, 1), (1, 40000, 1)]
SHAPES += [(3, 2, 5), (2, 7, 130), (1, 21, 600), (2, 300, 70)]


def on_device(test):
    """Collect the test only where the kernels run."""
    test.__test__ = RUNS
    return test


def on_host(test):
    """Collect the test only outside the interpreter."""
    test.__test__ = not INTERPRETED
    return test


def on_the_device(array, dtype=None):
    return torch.as_tensor(array, dtype=dtype).to(DEVICE)


def packed(weighting, setting="auto", log_normalizer=0.0):
    table = margin_table(weighting, weighting.max_margin(setting), log_normalizer)
    return None if table is None else on_the_device(table.packed)


def batch(shape, seed, dtype=torch.float32, spread=4.0):
    rng = np.random.default_rng(seed)
    logits = on_the_device(rng.normal(size=shape) * spread, dtype)
    return logits, on_the_device(rng.integers(0, shape[1], (shape[0], shape[2])))


def float64(tensor):
    return tensor.detach().cpu().double().numpy()


def expected(weighting, logits, labels, setting="auto", log_normalizer=0.0, unit=1.0):
    """The losses, their derivative and the largest weight, in float64; labels of 0 for ignored ones."""
    z, y = float64(logits), labels.cpu().numpy()
    unit = np.broadcast_to(unit, y.shape)
    margin, _ = margin_and_direction(z, y)
    loss = weighting.loss(margin, np, np.asarray, weighting.max_margin(setting), log_normalizer) * unit
    derivative = weighting.derivative(z, y, setting) * math.exp(-log_normalizer) * unit[:, None]
    return loss, derivative, math.exp(weighting.log_peak - log_normalizer) * max(1.0, np.abs(unit).max())


def check(got, loss, reference, dtype):
    """1e-5 of each element in float32 and the dtype's resolution in halves, where it is a normal number."""
    expected_loss, derivative, peak = reference
    np.testing.assert_allclose(float64(loss), expected_loss, rtol=2e-6, atol=2e-6 * max(1.0, peak))
    floor = 6.1e-8 if dtype == torch.float16 else 1.2e-38 * max(1.0, peak)
    rtol = 1e-5 if dtype == torch.float32 else 1.01 * torch.finfo(dtype).eps  # the interpreter cuts bfloat16 off
    np.testing.assert_allclose(float64(got), derivative, rtol=rtol, atol=floor)


@on_host
@pytest.mark.skipif(RUNS, reason="the kernels run on the GPU")
def test_the_kernels_in_the_interpreter(pytestconfig):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    # Coverage counts what runs in this process's child too: pytest-cov combines the file that it leaves.
    measured = ["-m", "coverage", "run", "--parallel-mode"] if pytestconfig.getoption("cov_source", None) else []
    command = [sys.executable, *measured, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        command,
        env=environment | {"TRITON_INTERPRET": "1"},
        cwd=pytestconfig.rootpath,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    assert " skipped" not in done.stdout


def test_the_kernels_are_for_gpus_and_the_interpreter():
    assert triton_rows.available(torch.device("cuda"))
    assert triton_rows.available(torch.device("cpu")) == INTERPRETED


def compiled(name, options, structure, **tensors):
    """Compile a kernel for an H100, which needs none."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(triton_rows, name)
    constants = {**structure, **{k: None for k, v in tensors.items() if v is None}}
    integers = ("ignore_index", "examples", "classes", "inner", "size")
    types = {**dict.fromkeys(integers, "i32"), **{k: f"*{v}" for k, v in tensors.items() if v is not None}}
    source = ASTSource(
        fn=kernel,
        signature={n: "constexpr" if n in constants else types[n] for n in kernel.arg_names},
        constexprs={(kernel.arg_names.index(n),): v for n, v in constants.items()},
    )
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]


@on_host
@pytest.mark.parametrize(
    ("shape", "dtype", "optional"),
    [((4, 20000, 1), "bf16", "fp32"), ((2, 19, 70), "fp32", "fp32"), ((4, 7, 1), "fp16", None)],
)
def test_every_kernel_compiles_for_a_gpu(shape, dtype, optional, tmp_path, monkeypatch):
    """The interpreter takes Python that the compiler does not."""
    if "nvidia" not in triton.backends.backends:
        pytest.skip("this Triton has no compiler for NVIDIA's GPUs")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    logits = torch.empty(shape, dtype={"bf16": torch.bfloat16, "fp32": torch.float32}.get(dtype), device="meta")
    (_, chunks), _, tile = triton_rows._layout(logits, once=False)
    options = {k: tile.pop(k) for k in ("num_warps", "enable_fp_fusion")}
    tile |= {"inner": 1} if shape[2] == 1 else {}
    fused = {**tile, **triton_rows._TABLE, "WHOLE": chunks == 1}
    rows, out = {"logits": dtype, "labels": "i64"}, optional and dtype
    state = {"peaks": "fp32", "totals": "fp32"}
    assert compiled(
        "_fused", options, fused, **rows, table="fp64", loss="fp32", factor=optional, scale=optional, out=out
    )
    if optional:
        assert compiled("_margins", options, tile, **rows, **state, margins="fp32")
        assert compiled("_write", options, tile, **rows, **state, halves="fp32", out=dtype)
        assert compiled("_scale", options, {"SPAN": 4096}, gradient=dtype, factor="fp32")


@on_device
@pytest.mark.parametrize(("normalization", "setting"), [(None, "auto"), ("integral", None)])
@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_loss_and_derivative_equal_the_reference(weighting, normalization, setting):
    log_normalizer = weighting.log_normalizer if normalization else 0.0
    table = packed(weighting, setting, log_normalizer)
    if table is None:
        assert weighting.log_peak == math.inf
        return
    for dtype in DTYPES:
        for classes in (2, 7):
            rng = np.random.default_rng(classes)
            labels = rng.integers(0, classes, len(MARGINS))
            z = rng.normal(size=(len(MARGINS), classes)) * 3
            np.put_along_axis(z, labels[:, None], -np.inf, 1)
            own = np.array(MARGINS) + np.log(np.exp(z).sum(1))
            np.put_along_axis(z, labels[:, None], own[:, None], 1)
            logits, labels = on_the_device(z[..., None], dtype), on_the_device(labels[:, None])
            out = torch.full_like(logits, math.nan)
            loss = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, out)
            check(out, loss, expected(weighting, logits, labels, setting, log_normalizer), dtype)


@on_device
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_with_factors_a_scale_and_ignored_examples(shape, dtype):
    weighting = GCE(0.3)
    logits, labels = batch(shape, 1, dtype)
    factor = on_the_device(np.random.default_rng(2).uniform(0, 3, labels.shape), torch.float32)
    scale = torch.tensor(0.25, device=DEVICE)
    ignored = on_the_device(np.random.default_rng(3).uniform(size=labels.shape) < 0.3)
    ignored[0, 0] = False
    unit = np.where(ignored.cpu(), 0.0, 0.25 * float64(factor))
    reference = expected(weighting, logits, labels, unit=unit)
    labels[ignored] = IGNORED
    out = torch.full_like(logits, math.nan)
    loss = triton_rows.loss_and_derivative(logits, labels, factor, scale, packed(weighting), IGNORED, out)
    check(out, loss, reference, dtype)


@on_device
@settings(max_examples=12)
@given(weightings(), st.integers(1, 20), st.integers(2, 40), st.integers(1, 20), st.integers(0, 2**31), st.data())
def test_random_batches(weighting, outer, classes, inner, seed, data):
    table = packed(weighting)
    if table is None:
        return
    dtype = data.draw(st.sampled_from(DTYPES))
    spread = data.draw(st.floats(0.0, 30.0))
    logits, labels = batch((outer, classes, inner), seed, dtype, spread)
    out = torch.empty_like(logits)
    loss = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, out)
    check(out, loss, expected(weighting, logits, labels), dtype)


@on_device
@pytest.mark.parametrize("shape", [(13, 7, 1), (2, 9001, 1), (2, 300, 70)], ids=str)
def test_the_derivative_may_take_the_place_of_the_logits(shape):
    logits, labels = batch(shape, 4)
    table, out = packed(DM(lam=0.5, beta=12)), torch.empty_like(logits)
    alone = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, None)
    apart = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, out)
    half = torch.rand(labels.shape, device=DEVICE)
    second, apart_in_two = logits.clone(), torch.empty_like(logits)
    _, state = triton_rows.margins(logits, labels, IGNORED)
    triton_rows.write_derivative(logits, labels, half, state, IGNORED, apart_in_two)
    triton_rows.write_derivative(second, labels, half, state, IGNORED, second)
    within = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, logits)
    assert torch.equal(alone, apart)
    assert torch.equal(within, apart)
    assert torch.equal(logits, out)
    assert torch.equal(second, apart_in_two)


@on_device
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", [(13, 7, 1), (2, 9001, 1), (2, 300, 70)], ids=str)
def test_two_steps_are_one(shape, dtype):
    logits, labels = batch(shape, 5, dtype)
    labels[0, 0] = IGNORED
    weighting, once, twice = Focal(2), torch.empty_like(logits), torch.empty_like(logits)
    triton_rows.loss_and_derivative(logits, labels, None, None, packed(weighting), IGNORED, once)
    margin, state = triton_rows.margins(logits, labels, IGNORED)
    half = (0.5 * weighting.log_weight(F.logsigmoid(margin), F.logsigmoid(-margin), torch).exp()).float()
    triton_rows.write_derivative(logits, labels, half, state, IGNORED, twice)
    assert margin[0, 0] == 0.0
    rtol = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(twice, once, rtol=rtol, atol=1e-30)
    assert not twice[0, :, 0].any()


@on_device
@pytest.mark.parametrize("beta", [8.0, 1000.0])
@pytest.mark.parametrize("shape", [(13, 7, 1), (2, 300, 70)], ids=str)
def test_the_weights_of_a_batch_sum_to_one(shape, beta):
    weighting = DM(lam=0.5, beta=beta)
    logits, labels = batch(shape, 6)
    margin, state = triton_rows.margins(logits, labels, IGNORED)
    log_w = weighting.log_weight(F.logsigmoid(margin.double()), F.logsigmoid(-margin.double()), torch)
    share = log_w.flatten().softmax(0).view(labels.shape)
    out = torch.empty_like(logits)
    triton_rows.write_derivative(logits, labels, (0.5 * share).float(), state, IGNORED, out)
    assert abs(float64(out).__abs__().sum() - 1.0) < 1e-5
    reference, direction = margin_and_direction(float64(logits), labels.cpu().numpy())
    np.testing.assert_allclose(float64(margin), reference, rtol=1e-6, atol=2e-6)
    others = np.where(direction > 0.0, float64(0.5 * share)[:, None] * direction, 0.0)
    np.testing.assert_allclose(np.where(direction > 0.0, float64(out), 0.0), others, rtol=1e-5, atol=1e-37)


@on_device
@pytest.mark.parametrize("label", [-1, 7, 2**32, 2**40 + 3, -(2**62), 2**63 - 1])
@pytest.mark.parametrize("inner", [1, 3])
def test_a_label_that_is_no_class_makes_nan_and_touches_nothing_else(label, inner):
    size, canary = 5 * 7 * inner, 12345.0
    around = torch.full((size + 512,), canary, device=DEVICE)
    out = around[256 : 256 + size].view(5, 7, inner)
    good, labels = batch((5, 7, inner), 7)
    table = packed(CCE())
    loss = triton_rows.loss_and_derivative(good, labels, None, None, table, IGNORED, out)
    clean = out.clone()
    labels[2, 0] = label
    wrong = triton_rows.loss_and_derivative(good, labels, None, None, table, IGNORED, out)
    others = torch.ones(labels.shape, dtype=torch.bool)
    others[2, 0] = False

    def only_that_one_is_wrong(per_example, derivative):
        assert per_example[2, 0].isnan()
        assert torch.equal(per_example[others], loss[others])
        assert derivative[2, :, 0].isnan().all()
        assert torch.equal(derivative.movedim(1, 2)[others], clean.movedim(1, 2)[others])
        assert (around[:256] == canary).all()
        assert (around[256 + size :] == canary).all()

    only_that_one_is_wrong(wrong, out)
    margin, state = triton_rows.margins(good, labels, IGNORED)
    triton_rows.write_derivative(good, labels, torch.sigmoid(-margin), state, IGNORED, out)
    assert margin.isnan().sum() == 1
    only_that_one_is_wrong(torch.where(others.to(DEVICE), loss, margin), torch.where(out.isnan(), out, clean))
    triton_rows.write_derivative(good, labels, torch.ones_like(margin), state, IGNORED, out)
    assert out[2, :, 0].isnan().all()


@on_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("shape", [(5, 2, 1), (2, 7, 3), (2, 9001, 1)], ids=str)
def test_a_logit_that_is_not_finite_makes_its_example_nan(shape, value):
    table = packed(DM(lam=0.5, beta=12))
    for place, label in ((0, 0), (0, shape[1] - 1), (shape[1] - 1, 0)):
        logits, labels = batch(shape, 8)
        out, clean = torch.empty_like(logits), torch.empty_like(logits)
        labels[1, 0] = label
        loss = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, clean)
        logits[1, place, 0] = value
        got = triton_rows.loss_and_derivative(logits, labels, None, None, table, IGNORED, out)
        margin, _ = triton_rows.margins(logits, labels, IGNORED)
        for nans in (got, margin):
            assert nans[1, 0].isnan()
            assert nans.isnan().sum() == 1
        assert out[1, :, 0].isnan().all()
        got[1, 0], out[1, :, 0] = loss[1, 0], clean[1, :, 0]
        assert torch.equal(got, loss)
        assert torch.equal(out, clean)


@on_device
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("ignore_index", [-100, 1, 2**40])
@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 7, 3), (3, 9001, 1)], ids=str)
def test_what_an_ignored_example_holds_does_not_matter(shape, ignore_index):
    logits, labels = batch(shape, 9)
    labels[labels == ignore_index] += 1
    labels[1, 0] = ignore_index
    logits[1, :3, 0] = torch.tensor([math.nan, math.inf, -math.inf])
    table, out = packed(Uniform()), torch.full_like(logits, math.nan)
    loss = triton_rows.loss_and_derivative(logits, labels, None, None, table, ignore_index, out)
    margin, state = triton_rows.margins(logits, labels, ignore_index)
    assert loss[1, 0] == margin[1, 0] == 0.0
    assert not out[1, :, 0].any()
    assert loss.isfinite().all()
    triton_rows.write_derivative(logits, labels, torch.ones_like(margin), state, ignore_index, out)
    assert not out[1, :, 0].any()
    assert out.isfinite().all()


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 7, 1), (3, 5000, 1), (2, 300, 70)], ids=str)
def test_scaling_in_place_multiplies(shape, dtype):
    gradient, labels = batch(shape, 10, dtype)
    of_each = torch.tensor([0.0, 1.0, -2.0, 0.5], device=DEVICE)[labels % 4]
    one = torch.ones((), device=DEVICE)
    for factor in (one, 0.5 * one, 0.0 * one, one.expand(labels.shape), (2 * one).expand(labels.shape), of_each):
        got, before = gradient.clone(), gradient.clone()
        triton_rows.scale_in_place(got, factor)
        by = factor if factor.dim() == 0 else factor[:, None]
        assert torch.equal(got, (before.float() * by).to(dtype))


@on_device
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 7, 3, 4)], ids=str)
def test_the_loss_on_these_kernels_is_that_on_torch_operators(shape, normalization, dtype, inplace, monkeypatch):
    """Every reduction, with weights and ignored examples, in place, and twice."""
    from emphasis.kernels import gpu, operators
    from emphasis.torch import _fused, emphasis_loss

    rng = np.random.default_rng(11)
    values = on_the_device(rng.normal(size=shape) * 3, dtype)
    labels = on_the_device(rng.integers(0, shape[1], shape[:1] + shape[2:]))
    labels.view(-1)[2] = IGNORED
    weight = on_the_device(rng.integers(0, 3, labels.shape), torch.float32)
    for reduction in ("mean", "sum", "none"):
        for upstream in (1.0, 64.0, None):
            results = []
            for kernels in (gpu, operators):
                monkeypatch.setattr(_fused, "kernels_on", lambda tensor, kernels=kernels: kernels)
                logits = values.clone().requires_grad_() * 1.0
                options = {"normalization": normalization, "reduction": reduction, "sample_weight": weight}
                loss = emphasis_loss(logits, labels, DM(lam=0.5, beta=4), inplace=inplace, **options)
                seed = (
                    torch.ones_like(loss) * upstream
                    if upstream
                    else torch.linspace(0, 2, loss.numel()).view(loss.shape)
                )
                results.append((loss.detach(), torch.autograd.grad(loss, logits, seed.to(loss))[0]))
            (loss, got), (expected_loss, wanted) = results
            assert got.dtype == dtype
            torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-6)
            rtol = 2e-5 if dtype == torch.float32 else 2.02 * torch.finfo(dtype).eps
            torch.testing.assert_close(got, wanted, rtol=rtol, atol=1e-7 if dtype != torch.float16 else 4e-6)


@on_device
def test_the_linear_form_on_these_kernels_is_that_on_torch_operators(monkeypatch):
    from emphasis.kernels import gpu, operators
    from emphasis.torch import linear, linear_emphasis_loss

    rng = np.random.default_rng(12)
    hidden, weight = (
        on_the_device(rng.normal(size=size), torch.float32).requires_grad_() for size in ((3, 5, 8), (40, 8))
    )
    labels = on_the_device(rng.integers(0, 40, (3, 5)))
    labels[0, 1] = IGNORED
    for normalization in (None, "integral", "batch"):
        for reduction in ("mean", "none"):
            results = []
            for kernels in (gpu, operators):
                monkeypatch.setattr(linear, "kernels_on", lambda tensor, kernels=kernels: kernels)
                loss = linear_emphasis_loss(
                    hidden, weight, labels, GCE(0.7), normalization=normalization, reduction=reduction, chunk_size=4
                )
                results.append((loss.detach(), *torch.autograd.grad(loss, (hidden, weight), torch.ones_like(loss))))
            for got, wanted in zip(*results, strict=True):
                torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
