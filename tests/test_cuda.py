"""What a GPU computes is what the CPU computes, in float64 where that is the reference; none of it waits for the host.

The kernels themselves are in kernels/test_triton.py, which takes the GPU too where there is one.
"""

import contextlib
import math

import pytest
import torch
from torch.nn import functional as F

from emphasis import CCE, DM, GCE, MAE, from_function
from emphasis.torch import EmphasisLoss, emphasis_loss, linear_emphasis_loss
from emphasis.torch.functional import resolve
from emphasis.torch.stacked import stacked_derivative
from reference import CASE_IDS, CASES

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    # torch says so once in a process, when first asked to.
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]

PUBLISHED = DM(lam=0.5, beta=12)
NORMALIZATIONS = (None, "integral", "batch")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
RTOL = {torch.float64: 1e-9, torch.float32: 5e-5, torch.bfloat16: 0.9e-2, torch.float16: 1.1e-3}
SMALLEST = {torch.float16: 2e-7}  # below its normal numbers: three steps of theirs


@contextlib.contextmanager
def no_synchronisation():
    """Let torch raise where the host waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def batch(shape, dtype, seed=0, spread=3.0):
    """Logits on the GPU, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    labels = torch.randint(shape[1], (shape[0], *shape[2:]), generator=generator)
    return logits.to("cuda", dtype), labels.cuda()


def wide(value):
    """A tensor on the CPU, in float64 if it is floating."""
    return (value.cpu().double() if value.is_floating_point() else value.cpu()) if torch.is_tensor(value) else value


def loss_and_gradient(logits, labels, weighting, inplace=False, **options):
    leaf = logits.detach().clone().requires_grad_()
    loss = emphasis_loss(leaf * 1.0 if inplace else leaf, labels, weighting, inplace=inplace, **options)
    upstream = torch.linspace(0.5, 2.0, loss.numel(), dtype=loss.dtype, device=loss.device).view(loss.shape)
    loss.backward(upstream if loss.dim() else None)
    return loss.detach(), leaf.grad


def close(got, wanted, dtype, of):
    """Each element of `got`, to the dtype's resolution."""
    floor = max(1e-12 * wanted.abs().sum().item(), SMALLEST.get(dtype, 1e-37))
    torch.testing.assert_close(wide(got), wanted, rtol=RTOL[dtype], atol=floor, msg=lambda said: f"{of}: {said}")


def check(logits, labels, weighting, **options):
    """Loss and gradient against those of the CPU in float64."""
    got = loss_and_gradient(logits, labels, weighting, **options)
    known = {name: wide(value) for name, value in options.items() if name != "inplace"}
    loss, gradient = loss_and_gradient(wide(logits), wide(labels), weighting, **known)
    of = f"{weighting!r}, {tuple(logits.shape)}, {logits.dtype}, {known}"
    arithmetic = torch.promote_types(logits.dtype, torch.float32)
    assert (got[0].dtype, got[1].dtype) == (arithmetic, logits.dtype)
    floor = 0.1 * RTOL[arithmetic] * max(1.0, loss.abs().sum().item() / max(1, loss.numel()))
    torch.testing.assert_close(wide(got[0]), loss, rtol=RTOL[arithmetic], atol=floor, msg=lambda said: f"{of}: {said}")
    close(got[1], gradient, logits.dtype, of)


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", [case[0] for case in CASES], ids=CASE_IDS)
def test_every_family_has_the_float64_loss_and_derivative(weighting):
    for dtype in DTYPES:
        for classes in (2, 10, 1000):
            for normalization in NORMALIZATIONS:
                check(*batch((37, classes), dtype, classes), weighting, normalization=normalization)


def test_a_users_function_with_a_kink_does_too():
    """Its weights are no table: torch operators between the kernels' two halves."""
    weighting = from_function(lambda p: abs(p - 0.5))
    for dtype in DTYPES[:3]:
        for normalization in NORMALIZATIONS:
            check(*batch((37, 10), dtype), weighting, normalization=normalization)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(37, 10), (3, 5000), (5, 7, 3, 11), (0, 4)], ids=str)
def test_every_option_does_too(shape, dtype):
    logits, labels = batch(shape, dtype, 1)
    generator = torch.Generator().manual_seed(2)
    class_weight = torch.rand(shape[1], generator=generator).cuda()
    sample_weight = torch.randint(3, labels.shape, generator=generator).float().cuda()
    ignored = labels.clone()
    ignored.view(-1)[1::3] = 1 - 2**31
    for reduction in ("mean", "sum", "none"):
        for normalization in NORMALIZATIONS:
            options = {"reduction": reduction, "normalization": normalization}
            check(logits, labels, PUBLISHED, sample_weight=sample_weight, **options)
            check(logits, ignored, PUBLISHED, ignore_index=1 - 2**31, class_weight=class_weight, **options)
            check(logits, labels, GCE(0.7), inplace=logits.numel() > 0, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_vocabulary_and_large_logits_do_too(dtype):
    for weighting in (CCE(), PUBLISHED, GCE(0.7)):
        for normalization in NORMALIZATIONS:
            check(*batch((3, 128_000), dtype, 3), weighting, normalization=normalization)
    for spread in (60.0, 1000.0):
        check(*batch((37, 10), dtype, 4, spread), CCE())
        check(*batch((37, 10), dtype, 4, spread), MAE(), reduction="sum")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(37, 10), (5, 1000), (5, 7, 3)], ids=str)
def test_soft_labels_do_too(shape, dtype):
    logits, labels = batch(shape, dtype, 5)
    soft = batch(shape, torch.float64, 6)[0].softmax(1).to(torch.promote_types(dtype, torch.float32))
    sample_weight = torch.rand(labels.shape, generator=torch.Generator().manual_seed(7)).cuda()
    for weighting in (CCE(), PUBLISHED, GCE(0.7)):
        for normalization in NORMALIZATIONS:
            options = {"normalization": normalization, "sample_weight": sample_weight}
            got = loss_and_gradient(logits, soft, weighting, **options)
            known = {name: wide(value) for name, value in options.items()}
            loss, gradient = loss_and_gradient(wide(logits), wide(soft), weighting, **known)
            assert wide(got[0]).item() == pytest.approx(
                loss.item(), rel=RTOL[torch.promote_types(dtype, torch.float32)]
            )
            # What a class has of its own and of the others' cancels: an error is one of the row's.
            error = (wide(got[1]) - gradient).abs() - RTOL[dtype] * gradient.abs()
            floor = 0.1 * RTOL[torch.promote_types(dtype, torch.float32)] * gradient.abs().sum(1, keepdim=True)
            assert (error <= floor + SMALLEST.get(dtype, 0.0)).all()


@pytest.mark.parametrize("scale", [2.0**-12, 1e-6, 1e-30, 1e30])
def test_a_mean_in_float16_does_not_depend_on_the_weights_scale(scale):
    logits, labels = batch((4096, 100), torch.float16, 13)
    weight = torch.rand(4096, generator=torch.Generator().manual_seed(14), dtype=torch.float64).cuda()
    for normalization in NORMALIZATIONS:
        loss, gradient = loss_and_gradient(logits, labels, PUBLISHED, normalization=normalization, sample_weight=weight)
        scaled = loss_and_gradient(logits, labels, PUBLISHED, normalization=normalization, sample_weight=scale * weight)
        torch.testing.assert_close(scaled[0], loss, rtol=1e-6, atol=0.0)
        torch.testing.assert_close(scaled[1], gradient, rtol=1e-3, atol=1.2e-7)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_what_is_not_allowed_is_nan_and_not_an_error(normalization):
    for spoil in ("label", "logit", "probabilities"):
        logits, labels = batch((37, 10), torch.float32)
        if spoil == "probabilities":
            labels = F.one_hot(labels, 10).float()
            labels[3] *= 2.0
        elif spoil == "label":
            labels[3] = 10
        else:
            logits[3, 1] = math.nan
        loss, gradient = loss_and_gradient(logits, labels, PUBLISHED, normalization=normalization)
        assert loss.isnan()
        assert gradient[3].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_the_loss_takes_one_buffer_and_in_place_none(dtype):
    logits, labels = batch((512, 32_000), dtype)
    size = logits.numel() * logits.element_size()
    for inplace, buffers in ((False, 1.0), (True, 0.0)):
        for _ in range(2):  # the first compiles, and brings the weighting's table over
            output = logits.detach().clone().requires_grad_() * 1.0
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            loss = emphasis_loss(output, labels, PUBLISHED, inplace=inplace)
            torch.autograd.grad(loss, output)
            extra = torch.cuda.max_memory_allocated() - before
        assert abs(extra / size - buffers) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_the_linear_form_is_the_loss_of_the_linear_layers_logits(normalization, dtype):
    generator = torch.Generator().manual_seed(7)
    hidden, weight, bias = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to("cuda", dtype).requires_grad_()
        for shape in ((5, 7, 16), (1000, 16), (1000,))
    )
    labels = torch.randint(1000, (5, 7), generator=generator).cuda()
    labels[1, 2] = -100
    parts = (hidden, weight, bias)
    exact = [part.detach().cpu().double().requires_grad_() for part in parts]
    logits = F.linear(*exact).flatten(0, 1)
    wanted = emphasis_loss(logits, labels.cpu().flatten(), PUBLISHED, normalization=normalization)
    expected = torch.autograd.grad(wanted, exact)
    loss = linear_emphasis_loss(*parts[:2], labels, PUBLISHED, bias=bias, normalization=normalization, chunk_size=8)
    rtol = 1e-4 if dtype is torch.float32 else 2e-2
    assert loss.item() == pytest.approx(wanted.item(), rel=rtol)
    for got, known in zip(torch.autograd.grad(loss, parts), expected, strict=True):
        assert float((wide(got) - known).norm() / known.norm()) < rtol


def test_autocast_gives_a_float32_loss_of_half_logits():
    layer = torch.nn.Linear(8, 10, device="cuda")
    inputs, labels = batch((37, 8), torch.float32)[0], batch((37, 10), torch.float32)[1]
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cuda", dtype):
            logits = layer(inputs)
            loss = emphasis_loss(logits, labels, PUBLISHED)
            linear = linear_emphasis_loss(inputs, layer.weight, labels, PUBLISHED, bias=layer.bias)
        assert logits.dtype == dtype
        assert loss.dtype == linear.dtype == torch.float32
        gradient = torch.autograd.grad(loss, logits)[0]
        assert torch.equal(gradient, loss_and_gradient(logits, labels, PUBLISHED)[1])
        torch.testing.assert_close(linear, loss, rtol=1e-2, atol=0.0)


@pytest.mark.filterwarnings("ignore")  # torch.compile's own, which differ from version to version
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("normalization", [None, "batch"])
def test_compiled_is_not_compiled(normalization, soft, dtype):
    criterion = EmphasisLoss(PUBLISHED, normalization=normalization)
    logits, labels = batch((37, 10), dtype, 8)
    if soft:
        labels = (0.9 * F.one_hot(labels, 10) + 0.01).to(torch.promote_types(dtype, torch.float32))
    torch._dynamo.reset()
    compiled = torch.compile(criterion, fullgraph=True)
    ways = []
    for way in (criterion, compiled):
        leaf = logits.clone().requires_grad_()
        loss = way(leaf, labels)
        loss.backward()
        ways.append((loss.detach(), leaf.grad))
    for got, wanted in zip(ways[1], ways[0], strict=True):
        rtol, floor = (2e-3, 1.2e-7) if got.dtype == torch.float16 else (1e-4, 1e-6 * float(wanted.abs().max()))
        torch.testing.assert_close(got, wanted, rtol=rtol, atol=floor)


def test_the_operators_of_compiled_graphs_are_what_they_say():
    """Schema, fake tensors and what autograd is told."""
    logits, labels = batch((37, 10), torch.float16, 8)
    tables = resolve(PUBLISHED, None, "mean", "auto", None).tables_for(logits.device, logits.dtype)
    soft = 0.9 * F.one_hot(labels, 10).float() + 0.01
    from emphasis.kernels import gpu_ops  # noqa: F401  # imports Triton, and registers the operators

    for is_batch in (False, True):
        of_labels = (logits, labels, None, tables[0], -100, "mean", is_batch, True)
        of_targets = (logits, soft, None, None, *tables, "mean", is_batch, True)
        for name, arguments in (("labels", of_labels), ("targets", of_targets)):
            operator = getattr(torch.ops.emphasis, f"loss_of_{name}_on_gpu").default
            torch.library.opcheck(operator, arguments, test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize(
    ("normalization", "wanted"),
    [
        (None, ["count", "fused", "scale"]),
        ("batch", ["margins", "add_up", "write", "scale"]),
    ],
)
def test_a_loss_takes_few_launches(normalization, wanted):
    logits, labels = batch((37, 10), torch.float32)
    loss_and_gradient(logits, labels, PUBLISHED, normalization=normalization)
    leaf = logits.clone().requires_grad_()
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        torch.autograd.grad(emphasis_loss(leaf, labels, PUBLISHED, normalization=normalization), leaf)
        torch.cuda.synchronize()
    names = [event.name for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    if not names:
        pytest.skip("the profiler sees no kernels here")
    assert [name for name in names if "FillFunctor" not in name] == wanted  # but what a backward pass starts from


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("inplace", [False, True])
def test_a_cuda_graph_replays_the_loss_and_nothing_waits_for_the_device(inplace, normalization, dtype):
    """What is captured may read nothing on the host; replayed on other logits, it is what they give."""
    labels = batch((37, 10), dtype, 9)[1]
    static = batch((37, 10), dtype, 9)[0].requires_grad_()

    def run():
        output = static * 1.0
        loss = emphasis_loss(output, labels, PUBLISHED, normalization=normalization, inplace=inplace)
        return loss.detach(), torch.autograd.grad(loss, static)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    with no_synchronisation():
        run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    other = batch((37, 10), dtype, 10)[0]
    with torch.no_grad():
        static.copy_(other)
    graph.replay()
    for got, wanted in zip(
        captured, loss_and_gradient(other, labels, PUBLISHED, normalization=normalization), strict=True
    ):
        assert torch.equal(got, wanted)


def test_a_stack_of_networks_has_each_ones_derivative():
    options = [
        resolve(one, n, "mean", "auto", None)
        for one, n in ((CCE(), None), (PUBLISHED, "batch"), (GCE(0.7), "integral"))
    ]
    for dtype in DTYPES[:3]:
        logits = batch((6 * 37, 10), dtype, 11)[0].view(6, 37, 10)
        labels = batch((2 * 37, 10), dtype, 12)[1].view(2, 37)
        got = stacked_derivative(logits, labels, options)
        with no_synchronisation():
            stacked_derivative(logits, labels, options)
        for number in range(6):
            one, z, y = options[number // 2], wide(logits[number]), wide(labels[number % 2])
            wanted = loss_and_gradient(z, y, one.weighting, normalization=one.normalization)[1]
            close(got[number], wanted, dtype, f"network {number}")
