"""The Triton kernels for class labels against the float64 reference."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from emphasis import CCE, DM, GCE, Focal
from emphasis.kernels import gpu
from emphasis.kernels.gpu import GPU
from emphasis.weighting.derivative import margin_and_direction
from reference import CASE_IDS, CASES, MARGINS, weightings
from triton_device import (
    DEVICE,
    DTYPES,
    IGNORED,
    INTERPRETED,
    RUNS,
    batch,
    compute,
    float64,
    on_device,
    on_host,
    on_the_device,
    packed,
)

pytest.importorskip("triton", reason="Triton is not installed")

# C = 2 and few; one block; two reads in small chunks, in large ones, and none; neighbours, also in chunks of classes.
SHAPES = [(1, 2), (301, 2), (13, 7), (3, 1000), (2, 9001), (2, 20000), (1, 40000)]
SHAPES += [(3, 2, 5), (2, 7, 130), (1, 21, 600), (2, 100, 70)]
PUBLISHED = DM(lam=0.5, beta=12)


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
    np.testing.assert_allclose(got, derivative, rtol=rtol, atol=floor)


@on_host
@pytest.mark.skipif(RUNS, reason="the kernels run on the GPU")
def test_the_kernels_in_the_interpreter(pytestconfig):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_", "COVERAGE_"))}
    # Coverage counts what runs in this process's child too: pytest-cov combines the file that it leaves.
    measured = ["-m", "coverage", "run", "--parallel-mode"] if pytestconfig.getoption("cov_source", None) else []
    command = [sys.executable, *measured, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *map(str, Path(__file__).parent.glob("test_triton*.py"))],
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
    assert gpu.available(torch.device("cuda"))
    assert gpu.available(torch.device("cpu")) == INTERPRETED


def test_float64_is_left_to_torch_operators():
    assert [dtype for dtype in (*DTYPES, torch.float64) if GPU.takes(dtype)] == DTYPES


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
            logits, labels = on_the_device(z, dtype), on_the_device(labels)
            loss, _, got = compute(logits, labels, table)
            check(got, loss, expected(weighting, logits, labels, setting, log_normalizer), dtype)


@on_device
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_shape_and_reduction_with_factors_and_ignored_examples(shape, dtype):
    weighting, table = GCE(0.3), packed(GCE(0.3))
    logits, labels = batch(shape, 1, dtype)
    factor = on_the_device(np.random.default_rng(2).uniform(0, 3, labels.shape))
    ignored = on_the_device(np.random.default_rng(3).uniform(size=labels.shape) < 0.3)
    ignored.view(-1)[0] = False
    unit = np.where(ignored.cpu(), 0.0, float64(factor))
    losses, derivative, peak = expected(weighting, logits, labels, unit=unit)
    labels[ignored] = IGNORED
    for reduction, by in (("none", 1.0), ("mean", unit.sum())) if dtype == torch.float32 else (("sum", 1.0),):
        loss, _, got = compute(logits, labels, table, factor, reduction=reduction)
        wanted = losses if reduction == "none" else losses.sum() / by
        check(got, loss, (wanted, derivative / by, peak), dtype)


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
    loss, _, got = compute(logits, labels, table)
    check(got, loss, expected(weighting, logits, labels), dtype)


@on_device
def test_a_mean_over_many_examples_is_that_of_all():
    """One program adds up the factors of 8,192 examples, and 64 of them those of more."""
    logits, labels = batch((1, 2, 8193), 13)
    unit = np.random.default_rng(14).uniform(0, 3, labels.shape)
    unit[0, ::3] = 0.0
    losses, derivative, peak = expected(CCE(), logits, labels, unit=unit)
    factor = on_the_device(np.where(unit == 0.0, 1.0, unit))
    labels[0, ::3] = IGNORED
    loss, _, got = compute(logits, labels, packed(CCE()), factor, reduction="mean")
    check(got, loss, (losses.sum() / unit.sum(), derivative / unit.sum(), peak), torch.float32)
    each, by_each, _ = compute(logits, labels, packed(CCE()))
    loss, got, _ = compute(logits, labels, packed(CCE()), reduction="mean")
    torch.testing.assert_close(loss, each.double().mean().float() * 1.5, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(got, by_each / 5462, rtol=1e-6, atol=0.0)


@on_device
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("unit", [2.0**-12, 1e-300, 1e300])
def test_a_mean_and_a_batch_do_not_depend_on_the_weights_unit(unit, is_batch, dtype):
    logits, labels = batch((40, 7), 15, dtype)
    factor = on_the_device(np.random.default_rng(16).uniform(0.1, 1, 40))
    settings = {"reduction": "mean", "is_batch": is_batch}
    loss, gradient, wanted = compute(logits, labels, packed(PUBLISHED), factor, **settings)
    other, same, got = compute(logits, labels, packed(PUBLISHED), unit * factor, **settings)
    torch.testing.assert_close(other, loss, rtol=1e-6, atol=0.0)
    assert torch.equal(same == 0.0, gradient == 0.0)
    if dtype == torch.float16:  # whose numbers are near 1 until they are scaled
        assert 2.0**-4 < same.abs().max() < 2.0**10
    rtol = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    np.testing.assert_allclose(got, wanted, rtol=rtol, atol=2.0**-24 / 40 if dtype == torch.float16 else 1e-37)


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_without_an_example_that_counts_there_is_neither_loss_nor_derivative(reduction, is_batch):
    for dtype in DTYPES:
        logits, labels = batch((13, 7), 17, dtype)
        for none_counts in (torch.full_like(labels, IGNORED), labels):
            factor = None if none_counts is not labels else torch.zeros(13, dtype=torch.float64, device=DEVICE)
            loss, _, got = compute(
                logits, none_counts, packed(PUBLISHED), factor, reduction=reduction, is_batch=is_batch
            )
            assert not loss.any()
            assert not got.any()


@on_device
@pytest.mark.parametrize("is_batch", [False, True])
@pytest.mark.parametrize("shape", [(13, 7), (2, 9001), (2, 100, 70)], ids=str)
def test_the_derivative_may_take_the_place_of_the_logits(shape, is_batch):
    logits, labels = batch(shape, 4)
    table, settings = packed(PUBLISHED), {"is_batch": is_batch, "reduction": "mean"}
    alone = compute(logits, labels, table, where="nothing", **settings)
    apart = compute(logits, labels, table, **settings)
    assert alone[1] is None
    half = torch.rand(labels.shape, device=DEVICE)
    second = logits.clone()
    state = GPU.margins(logits, labels, IGNORED, "new memory").state
    apart_in_two = GPU.derivative(logits, labels, half, state, IGNORED, "new memory")
    assert GPU.derivative(second, labels, half, state, IGNORED, "the logits") is second
    within = compute(logits, labels, table, where="the logits", **settings)
    assert within[1] is logits
    assert torch.equal(alone[0], apart[0])
    assert torch.equal(within[0], apart[0])
    assert torch.equal(logits, apart[1])
    assert torch.equal(second, apart_in_two)


@on_device
@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("shape", [(13, 7), (2, 9001), (2, 100, 70)], ids=str)
def test_two_steps_are_one(shape, dtype):
    logits, labels = batch(shape, 5, dtype)
    labels.view(-1)[0] = IGNORED
    weighting = Focal(2)
    once = compute(logits, labels, packed(weighting))[1]
    margin, _, state = GPU.margins(logits, labels, IGNORED, "new memory")
    half = (0.5 * weighting.log_weight(F.logsigmoid(margin), F.logsigmoid(-margin), torch).exp()).float()
    twice = GPU.derivative(logits, labels, half, state, IGNORED, "new memory")
    assert margin.view(-1)[0] == 0.0
    rtol = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    torch.testing.assert_close(twice, once, rtol=rtol, atol=1e-30)
    assert not twice[0].view(shape[1], -1)[:, 0].any()


@on_device
@pytest.mark.parametrize("beta", [8.0, 1000.0])
@pytest.mark.parametrize("shape", [(13, 7), (3, 9001), (2, 100, 70)], ids=str)
def test_the_weights_of_a_batch_sum_to_one(shape, beta):
    weighting = DM(lam=0.5, beta=beta)
    logits, labels = batch(shape, 6)
    factor = on_the_device(np.random.default_rng(7).uniform(0, 3, labels.shape))
    factor.view(-1)[1], ignored = 0.0, labels.clone()
    ignored.view(-1)[2] = IGNORED
    counted = np.where(float64(ignored) == IGNORED, 0.0, float64(factor))
    margin, direction = margin_and_direction(float64(logits), labels.cpu().numpy())
    with np.errstate(divide="ignore"):
        log_w = weighting.log_weight(-np.logaddexp(0, -margin), -np.logaddexp(0, margin), np) + np.log(counted)
    share = np.exp(log_w - log_w.max())
    share /= share.sum()
    table = packed(weighting, log_normalizer=weighting.log_peak)
    losses, _, got = compute(logits, ignored, table, factor, is_batch=True)
    loss, _, same = compute(logits, ignored, table, factor, is_batch=True, reduction="mean")
    assert abs(np.abs(got).sum() - 1.0) < 1e-5
    assert np.array_equal(got, same)
    np.testing.assert_allclose(float64(losses), share * np.logaddexp(0, -margin), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(loss.item(), (share * np.logaddexp(0, -margin)).sum(), rtol=1e-6)
    others = np.where(direction > 0.0, 0.5 * share[:, None] * direction, 0.0)
    np.testing.assert_allclose(np.where(direction > 0.0, got, 0.0), others, rtol=1e-5, atol=1e-37)
