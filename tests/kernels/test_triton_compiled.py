"""The Triton kernels as they are compiled, started and traced for a GPU, which needs none.

A driver that compiles for an H100 and starts nothing stands in for CUDA's.
"""

import itertools
import operator
from types import SimpleNamespace

import pytest
import torch

from triton_device import IGNORED, INTERPRETED

triton = pytest.importorskip("triton", reason="Triton is not installed")

from torch._higher_order_ops.triton_kernel_wrap import kernel_side_table, triton_kernel_wrapper_functional  # noqa: E402
from torch._library.triton import get_triton_kernels_for_op  # noqa: E402
from torch._subclasses import FakeTensorMode  # noqa: E402
from torch._subclasses.functional_tensor import dispatch_functionalize  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402

from emphasis.kernels import gpu_ops, triton_launch  # noqa: E402, F401  # the operators
from emphasis.kernels.gpu import GPU, GpuBackend  # noqa: E402

pytestmark = [
    pytest.mark.skipif("nvidia" not in triton.backends.backends, reason="this Triton has no compiler for NVIDIA's GPUs")
]
DEVICES = itertools.count(99)  # that no machine has, one for each test, as Triton keeps what it compiled
FREE = (operator.getitem, torch.ops.aten.view.default)  # of nodes that take no time


def on_host(test):
    """Collect the test only outside the interpreter."""
    test.__test__ = not INTERPRETED
    return test


@pytest.fixture
def started(monkeypatch):
    """What would have been started: a kernel's name, its grid, its arguments and what says how it was compiled."""
    launches, device = [], next(DEVICES)

    def launcher(source, metadata):
        def launch(x, y, z, stream, function, packed, of_launch, on_entry, on_exit, *arguments):
            launches.append((source.fn.fn.__name__, (x, y, z), arguments, metadata.hash))

        return launch

    shared = {"max_shared_mem": 232448, "multiprocessor_count": 132, "warpSize": 32}
    utils = SimpleNamespace(
        get_device_properties=lambda _: shared,
        load_binary=lambda *arguments: (1, 1, 32, 0, 1024),
        unload_module=lambda module: None,
    )
    stand_in = SimpleNamespace(
        utils=utils,
        launcher_cls=launcher,
        get_current_device=lambda: device,
        get_current_stream=lambda _: 0,
        get_current_target=lambda: GPUTarget("cuda", 90, 32),
    )
    monkeypatch.setattr(driver, "_active", stand_in)
    monkeypatch.setattr(triton_launch, "_compiled", {})
    return launches


def starts(shape, dtype, of_targets):
    """What a backend starts for all that it does, with and without what is optional."""
    found = []

    def begin(kernel, grid, arguments, options):
        found.append((kernel, grid, arguments, options))
        if kernel.fn.__name__ == "likeliest":  # nothing runs, and what it would have written is read
            arguments[4].zero_()

    backend = GpuBackend(begin, lambda dtype, device: torch.empty((), dtype=dtype))
    logits, labels = torch.randn(shape).to(dtype), torch.randint(shape[1], (shape[0], *shape[2:]))
    table, factor = torch.zeros(6 + 18 * 60 + 1, dtype=torch.float64), torch.rand(labels.shape, dtype=torch.float64)
    if of_targets:
        given = logits, torch.rand(shape), torch.rand(shape[1], dtype=torch.float64), factor, table, torch.zeros(12, 32)
        backend.loss_of_targets(*given, "mean", False, "new memory")
        backend.loss_of_targets(*given[:2], None, None, table, None, "none", True, "new memory")
        backend.loss_of_targets(*given, "mean", False, "new memory", (1.0, 0.2))
        backend.loss_of_targets(*given[:2], None, None, table, None, "none", True, "new memory", (1.0, 0.2))
        return found
    backend.loss_of_labels(logits, labels, factor, table, IGNORED, "mean", False, "new memory")
    backend.loss_of_labels(logits, labels, None, table, IGNORED, "sum", False, "the logits")
    backend.loss_of_labels(logits, labels, None, table, 2**40, "none", False, "nothing")
    backend.loss_of_labels(logits, labels, factor, table, IGNORED, "mean", True, "new memory")
    backend.loss_of_labels(logits, labels, None, table, IGNORED, "none", True, "nothing")
    backend.loss_of_labels(logits, labels, factor, table, IGNORED, "mean", False, "new memory", (1.0, 0.2))
    backend.loss_of_labels(logits, labels, None, table, IGNORED, "none", True, "new memory", (1.0, 0.2))
    margin, _, state = backend.margins(logits, labels, IGNORED, "new memory")
    gradient = backend.derivative(logits, labels, margin, state, IGNORED, "new memory")
    backend.scale(gradient, torch.ones(()), torch.ones((), dtype=torch.float64))
    return found


@on_host
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((128, 10), torch.float32),
        ((7, 1000), torch.float16),
        ((4, 32000), torch.bfloat16),
        ((2, 19, 70), torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("of_targets", [False, True])
def test_every_kernel_compiles_and_starts_the_second_time_as_the_first(shape, dtype, of_targets, started, monkeypatch):
    """The interpreter takes Python that the compiler does not; and the short way to a launch has to be the long one."""
    if of_targets and dtype != torch.float16:
        return
    every = starts(shape, dtype, of_targets)
    for one in every:
        triton_launch.start(*one)
    first = started.copy()
    assert [name for name, *_ in first] == [kernel.fn.__name__ for kernel, *_ in every]
    monkeypatch.setattr(type(every[0][0]), "run", None)  # from here on nothing may go the long way
    for one in every:
        triton_launch.start(*one)
    for (name, grid, arguments, how), (again, same_grid, same, same_how) in zip(
        first, started[len(first) :], strict=True
    ):
        assert (name, grid, how) == (again, same_grid, same_how)
        assert len(arguments) == len(same)
        for one, other in zip(arguments, same, strict=True):
            assert one is other or (type(one) is type(other) is not torch.Tensor and one == other), name


@on_host
def test_memory_that_is_not_aligned_takes_a_kernel_compiled_for_that(started):
    memory, one = torch.randn(4 * 8 + 1), torch.ones(())
    for start in (0, 1, 1, 0):
        GPU.scale(memory[start : start + 32].view(4, 8), one, 1.0)
    first, second, third, fourth = (how for *_, how in started)
    assert first == fourth
    assert second == third
    assert first != second


# --- traced -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def given():
    """Arguments on a GPU that need none: of labels, and of targets."""
    with FakeTensorMode():
        logits = torch.empty((128, 10), dtype=torch.float16, device="cuda")
        labels, factor = (torch.empty(128, dtype=dtype, device="cuda") for dtype in (torch.int64, torch.float64))
        table, class_weight = (torch.empty(n, dtype=torch.float64, device="cuda") for n in (1087, 10))
        targets, compact = (torch.empty(shape, device="cuda") for shape in ((128, 10), (12, 32)))
        yield (logits, labels, factor, table), (logits, targets, class_weight, factor, table, compact)


OPERATORS = (torch.ops.emphasis.loss_of_labels_on_gpu, torch.ops.emphasis.loss_of_targets_on_gpu)


@on_host
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("is_batch", [False, True])
def test_a_compiler_knows_what_the_operators_return(given, reduction, is_batch):
    for of_library, own, more in zip(OPERATORS, given, ((IGNORED,), ()), strict=True):
        for with_gradient in (True, False):
            loss, gradient, pending = of_library(*own, *more, reduction, is_batch, with_gradient)
            assert (loss.shape, loss.dtype) == ((128,) if reduction == "none" else (), torch.float32)
            assert (gradient.shape, gradient.dtype) == ((128, 10) if with_gradient else (0,), torch.float16)
            defers = with_gradient and (is_batch or reduction == "mean")
            assert pending.shape == (() if defers else (0,))
            assert all(tensor.device.type == "cuda" for tensor in (loss, gradient, pending))


@on_host
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")  # torch asks for a compiler's default options
@pytest.mark.parametrize(
    ("is_batch", "of_labels", "of_targets"),
    [
        (
            False,
            [("count", ["work"]), ("fused", ["out", "loss", "work", "pending"])],
            [("count_targets", ["work"]), ("targets_fused", ["out", "loss", "work", "pending"])],
        ),
        (
            True,
            [("margins", ["state", "work"]), ("add_up", ["work", "loss", "pending"]), ("write", ["out"])],
            [("targets_log_weights", ["work"]), ("add_up", ["work", "loss", "pending"]), ("targets_fused", ["out"])],
        ),
    ],
)
def test_a_compiled_graph_holds_the_launches_and_copies_nothing(given, is_batch, of_labels, of_targets, started):
    """What a kernel is thought to write to is copied first, unless it is new: the logits must not be among that."""
    for of_library, own, more, wanted in zip(OPERATORS, given, ((IGNORED,), ()), (of_labels, of_targets), strict=True):

        def call(*tensors, of_library=of_library, more=more):
            return of_library(*tensors, *more, "mean", is_batch, True)

        graph = make_fx(dispatch_functionalize(call))(*own).graph
        launches = []
        for node in graph.nodes:
            if node.target is triton_kernel_wrapper_functional:
                kernel = kernel_side_table.get_kernel(node.kwargs["kernel_idx"])
                function = kernel.fn.fn if hasattr(kernel.fn, "fn") else kernel.fn
                launches.append((function.__name__, list(node.kwargs["tensors_to_clone"])))
            else:
                assert node.op != "call_function" or "empty" in str(node.target) or node.target in FREE, node
        assert launches == wanted


@on_host
def test_a_compiler_knows_what_the_operators_return_for_a_weighting_that_depends_on_the_batch(given):
    for of_library, own, more in zip(OPERATORS, given, ((IGNORED,), ()), strict=True):
        loss, gradient, pending = of_library(*own, *more, "mean", False, True, 1.0, 0.2)
        assert (loss.shape, gradient.shape, pending.shape) == ((), (128, 10), ())
        assert gradient.dtype == torch.float16


@on_host
def test_a_cache_of_compiled_graphs_knows_the_kernels_text():
    """What is in its key: another version's kernels must not be taken for these."""
    found = {
        kernel.fn.__name__
        for name in ("labels", "targets")
        for kernel in get_triton_kernels_for_op(f"emphasis::loss_of_{name}_on_gpu")
    }
    assert found == {
        "count",
        "fused",
        "margins",
        "add_up",
        "write",
        "count_targets",
        "targets_fused",
        "targets_log_weights",
        "likeliest",
        "add_classes",
    }


@on_host
def test_an_exported_program_holds_the_operator():
    class Loss(torch.nn.Module):
        def forward(self, logits, labels, table):
            return OPERATORS[0](logits, labels, None, table, IGNORED, "mean", False, False)[0]

    shapes = torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64), torch.zeros(1087, dtype=torch.float64)
    program = torch.export.export(Loss(), shapes)
    assert OPERATORS[0].default in [node.target for node in program.graph.nodes]
