"""How the loss behaves in a training loop: bad input, masks, transforms, precision, several processes."""

import copy
import gc
import math
import pickle
import shutil
import warnings
import weakref
from functools import lru_cache

import pytest
import torch
from torch import nn

from emphasis import CCE, DM, GCE, EmphasisWarning, from_dict
from emphasis.torch import EmphasisLoss, _options, _weighting, emphasis_loss
from emphasis.weighting import function

DM_PUBLISHED = DM(lam=0.5, beta=12)


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(12, 4, generator=generator, requires_grad=True), torch.arange(12) % 4


# --- bad input ----------------------------------------------------------------------------------

Z, Y = torch.zeros(3, 4), torch.tensor([0, 1, 2])
NAN, INF = torch.tensor([[0.0, math.nan, 0.0, 0.0]] * 3), torch.tensor([[0.0, math.inf, 0.0, 0.0]] * 3)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: emphasis_loss(Z, torch.tensor([0, 4, 1]), "CCE"),
            ValueError,
            r"label 4 is outside 0\.\.3 \(C=4\)",
        ),
        (
            lambda: emphasis_loss(Z, torch.tensor([0, -1, 1]), "CCE"),
            ValueError,
            "label -1 .* ignore_index=-100",
        ),
        (lambda: emphasis_loss(Z, Y.float(), "CCE"), ValueError, r"labels\.long\(\)"),
        (lambda: emphasis_loss(Z, torch.zeros(3, 5), "CCE"), ValueError, "logits' shape"),
        (lambda: emphasis_loss(Z, Y[:2], "CCE"), ValueError, r"shape \(3,\)"),
        (lambda: emphasis_loss(Z, Y.to(torch.complex64), "CCE"), TypeError, "complex"),
        (lambda: emphasis_loss(Z, torch.full((3, 4), 0.5), "CCE"), ValueError, "sum to 1"),
        (lambda: emphasis_loss(Z, torch.full((3, 4), -0.25), "CCE"), ValueError, r"\[0, 1\]"),
        (lambda: emphasis_loss(Z, torch.full((3, 4), math.nan), "CCE"), ValueError, "NaN"),
        (lambda: emphasis_loss(Z, torch.full((3, 4), 0.25).requires_grad_(), "CCE"), ValueError, "detach"),
        (lambda: emphasis_loss(NAN, Y, "CCE"), ValueError, r"NaN or infinity.*index \(0,\)"),
        (lambda: emphasis_loss(INF, Y, "CCE"), ValueError, "diverged"),
        (lambda: emphasis_loss(-INF, Y, "CCE"), ValueError, "not -inf"),
        (lambda: emphasis_loss(Z[:, :1], Y, "CCE"), ValueError, r"C=1 .*squeeze\(1\)"),
        (lambda: emphasis_loss(torch.tensor(1.0), Y, "CCE"), ValueError, r"\(N, C\)"),
        (lambda: emphasis_loss(Z.long(), Y, "CCE"), TypeError, "floating"),
        (lambda: emphasis_loss(Y, Y, "CCE"), TypeError, "floating"),
        (lambda: emphasis_loss(Z[:, 0], Y[:2], "CCE"), ValueError, "same"),
        (lambda: emphasis_loss([[1.0, 2.0]], Y, "CCE"), TypeError, r"torch\.Tensor"),
        (lambda: emphasis_loss(Z, [0, 1, 2], "CCE"), TypeError, r"torch\.Tensor"),
        (lambda: emphasis_loss(Z, Y.to("meta"), "CCE"), ValueError, r"meta and logits on cpu.*\.to\("),
        (lambda: emphasis_loss(Z, Y, "CCE", normalization="sum"), ValueError, '"integral" or "batch"'),
        (lambda: emphasis_loss(Z, Y, "CCE", reduction="avg"), ValueError, '"mean", "sum" or "none"'),
        (lambda: emphasis_loss(Z, Y, "CCE", max_margin="x"), ValueError, "max_margin"),
        (lambda: emphasis_loss(Z, Y, "CCE", ignore_index=None), TypeError, "ignore_index"),
        (lambda: emphasis_loss(Z, Y, "CCE", normalization=["batch"]), ValueError, '"integral" or "batch"'),
        (lambda: emphasis_loss(Z, Y, "CCE", max_margin=True), TypeError, "max_margin"),
        (
            lambda: emphasis_loss(Z, Y, "CCE", sample_weight=torch.full((3,), 3e38), reduction="sum"),
            OverflowError,
            "scale the weights down",
        ),
        (lambda: emphasis_loss(Z, Y, DM(lam=0.5, beta=1e300), normalization="batch"), OverflowError, "smaller beta"),
        (lambda: emphasis_loss(Z, Y, "CEC"), ValueError, "did you mean"),
        (lambda: emphasis_loss(Z, Y, DM), TypeError, r"DM\(\.\.\.\)"),
        (
            lambda: emphasis_loss(Z, Y, "CCE", class_weight=torch.ones(3)),
            ValueError,
            r"class_weight .* \(4,\)",
        ),
        (lambda: emphasis_loss(Z, Y, "CCE", class_weight=[1, 1]), TypeError, "class_weight"),
        (
            lambda: emphasis_loss(Z, Y, "CCE", sample_weight=torch.ones(4)),
            ValueError,
            r"sample_weight .* \(3,\)",
        ),
        (lambda: emphasis_loss(Z, Y, "CCE", sample_weight=-torch.ones(3)), ValueError, "-1"),
        (lambda: emphasis_loss(Z, Y, "CCE", sample_weight=torch.full((3,), math.nan)), ValueError, "finite"),
        (
            lambda: emphasis_loss(Z, Y, "CCE", sample_weight=torch.ones(3).requires_grad_()),
            ValueError,
            "reduction",
        ),
        (lambda: emphasis_loss(Z, Y, "CCE", sample_weight=torch.ones(3, device="meta")), ValueError, "meta"),
    ],
)
def test_bad_input_names_value_allowed_set_and_cure(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_labels_of_every_integer_type_are_the_same_labels():
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 100, 255])
    expected = emphasis_loss(logits, labels, "CCE")
    for dtype in (torch.uint8, torch.int16, torch.int32):
        assert emphasis_loss(logits, labels.to(dtype), "CCE") == expected
        assert emphasis_loss(logits[:, :256], labels.to(dtype), "CCE").isfinite()
    with pytest.raises(ValueError, match="label 156"):
        emphasis_loss(Z, torch.tensor([0, 156, 1], dtype=torch.uint8), "CCE")


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
def test_nothing_to_learn_gives_a_zero_with_a_graph(normalization):
    ignored, zero = torch.full((3,), -100), torch.zeros(3)
    nan_where_ignored = torch.full((3, 4), math.nan)
    cases = [
        (torch.zeros(0, 4), torch.zeros(0, dtype=torch.long), {}),
        (torch.zeros(0, 4), torch.zeros(0, 4), {}),
        (Z.clone(), ignored, {}),
        (nan_where_ignored, ignored, {}),
        (Z.clone(), Y, {"sample_weight": zero}),
        (Z.clone(), Y, {"class_weight": torch.zeros(4)}),
        (Z.clone(), Y, {"max_margin": -50.0}),
        (Z.clone(), torch.full((3, 4), 0.25), {"sample_weight": zero}),
    ]
    for logits, labels, options in cases:
        logits.requires_grad_()
        for reduction in ("mean", "sum", "none"):
            loss = emphasis_loss(
                logits, labels, DM_PUBLISHED, normalization=normalization, reduction=reduction, **options
            )
            assert loss.shape == (labels.shape[:1] if reduction == "none" else ())
            assert (loss == 0).all()
            (got,) = torch.autograd.grad(loss.sum(), logits)
            assert (got == 0).all()


def test_ignored_examples_change_nothing(batch):
    logits, labels = batch
    masked = labels.clone()
    masked[::3] = -100
    kept = masked != -100
    broken = torch.where(kept[:, None], logits, math.nan)
    weight = torch.rand(12)
    for normalization in (None, "integral", "batch"):
        for reduction in ("mean", "sum"):
            options = {"normalization": normalization, "reduction": reduction}
            full = emphasis_loss(broken, masked, DM_PUBLISHED, sample_weight=weight, **options)
            part = emphasis_loss(logits[kept], labels[kept], DM_PUBLISHED, sample_weight=weight[kept], **options)
            torch.testing.assert_close(full, part)
            both = [torch.autograd.grad(x, logits, retain_graph=True)[0] for x in (full, part)]
            torch.testing.assert_close(*both)
    other = torch.where(kept, labels, 3)
    torch.testing.assert_close(
        emphasis_loss(logits, other, "CCE", ignore_index=3),
        emphasis_loss(logits, torch.where(other == 3, -100, other), "CCE"),
    )


def test_class_weight_is_a_sample_weight_by_label(batch):
    logits, labels = batch
    class_weight = torch.tensor([1.0, 0.0, 2.0, 0.5])
    for normalization in (None, "batch"):
        torch.testing.assert_close(
            emphasis_loss(logits, labels, DM_PUBLISHED, normalization=normalization, class_weight=class_weight),
            emphasis_loss(
                logits, labels, DM_PUBLISHED, normalization=normalization, sample_weight=class_weight[labels]
            ),
        )


def test_nan_is_never_silent_where_values_cannot_be_read():
    """Under vmap (as on an accelerator) the checks cannot look; the loss is not finite then."""
    for bad in (NAN, INF):
        for normalization in (None, "integral", "batch"):
            for weighting in (CCE(), DM_PUBLISHED):
                loss = torch.func.vmap(
                    lambda z, y, w=weighting, n=normalization: emphasis_loss(z, y, w, normalization=n)
                )(bad[None], Y[None])
                assert not loss.isfinite().any(), (normalization, weighting)


def test_large_finite_logits_are_no_infinity():
    logits = torch.full((3, 4), 3e38)
    assert emphasis_loss(logits, Y, "CCE").isfinite()


def test_the_bare_formula_warns_once_and_helpfully():
    weighting = DM(lam=0.123, beta=3)
    with pytest.warns(EmphasisWarning, match='max_margin="auto" or vanishing=True'):
        emphasis_loss(Z, Y, weighting, max_margin=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        emphasis_loss(Z, Y, weighting, max_margin=None)
        EmphasisLoss(DM(lam=0.123, beta=3), max_margin=None)
        emphasis_loss(Z, Y, CCE(), max_margin=None)
        emphasis_loss(Z, Y, DM(lam=0.123, beta=3, vanishing=True), max_margin=None)


# --- precision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(batch, dtype):
    logits, labels = batch
    half = logits.detach().to(dtype).requires_grad_()
    for normalization in (None, "integral", "batch"):
        loss = emphasis_loss(half, labels, DM_PUBLISHED, normalization=normalization)
        full = half.detach().float().requires_grad_()
        expected = emphasis_loss(full, labels, DM_PUBLISHED, normalization=normalization)
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected)
        (got,), (want,) = torch.autograd.grad(loss, half), torch.autograd.grad(expected, full)
        assert got.dtype == dtype
        assert torch.equal(got, want.to(dtype))


def test_autocast_and_gradient_scaling_train_as_float32_does():
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(32, 8, generator=generator), torch.arange(32) % 4
    start, losses = torch.randn(4, 8, generator=generator) / 8**0.5, {}
    for enabled in (False, True):
        model = nn.Linear(8, 4, bias=False)
        with torch.no_grad():
            model.weight.copy_(start)
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled)
        losses[enabled] = []
        for _ in range(30):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                logits = model(x)
                loss = EmphasisLoss(GCE(0.5))(logits, labels)
            assert logits.dtype == (torch.bfloat16 if enabled else torch.float32)
            assert loss.dtype == torch.float32
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses[enabled].append(loss.item())
    assert losses[True] == pytest.approx(losses[False], rel=2**-7)


# --- transforms ---------------------------------------------------------------------------------


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize("weighting", [CCE(), DM_PUBLISHED, lambda p: torch.sin(p)], ids=["CCE", "DM", "function"])
def test_vmap_and_grad(normalization, weighting):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(3, 8, 5, generator=generator)
    hard = torch.randint(0, 5, (3, 8), generator=generator)
    soft = torch.softmax(torch.randn(3, 8, 5, generator=generator), -1)
    hard[0, 0] = -100
    for labels in (hard, soft):

        def loss(z, y):
            return emphasis_loss(z, y, weighting, normalization=normalization)

        each = torch.stack([loss(z, y) for z, y in zip(logits, labels, strict=True)])
        torch.testing.assert_close(torch.func.vmap(loss)(logits, labels), each)
        each_grad = torch.stack([torch.func.grad(loss)(z, y) for z, y in zip(logits, labels, strict=True)])
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(logits, labels), each_grad)
        leaf = logits.clone().requires_grad_()
        torch.func.vmap(loss)(leaf, labels).sum().backward()
        torch.testing.assert_close(leaf.grad, each_grad)
        shared = torch.func.vmap(loss, in_dims=(None, 0))(logits[1], labels)
        torch.testing.assert_close(shared, torch.stack([loss(logits[1], y) for y in labels]))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # inductor's own
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_in_one_graph(batch, backend):
    if backend == "inductor" and not shutil.which("g++"):
        pytest.skip("inductor needs a C++ compiler")
    logits, labels = batch
    masked = torch.where(torch.arange(12) == 5, -100, labels)
    soft = torch.softmax(torch.randn(12, 4), 1)
    mixed = DM(lam=0.5, beta=4, vanishing=True) + 0.5 * CCE()
    criteria = [
        EmphasisLoss(DM_PUBLISHED, normalization="batch", class_weight=torch.rand(4)),
        EmphasisLoss(lambda p: torch.exp(-p)),
        EmphasisLoss(lambda p: torch.cos(p), normalization="batch"),
        lambda z, y: emphasis_loss(z, y, mixed),
        lambda z, y: emphasis_loss(z, y, DM_PUBLISHED, normalization="batch"),
        lambda z, y: emphasis_loss(z, y, {"family": "SCE"}, normalization=None, reduction="sum"),
    ]
    for criterion in criteria:
        torch._dynamo.reset()
        compiled = torch.compile(criterion, fullgraph=True, backend=backend)
        for targets in (masked, soft):
            ours, expected = compiled(logits, targets), criterion(logits, targets)
            torch.testing.assert_close(ours, expected)
            torch.testing.assert_close(*(torch.autograd.grad(x, logits)[0] for x in (ours, expected)))


def test_line_searches_work():
    """The value belongs to the derivative, so L-BFGS with strong Wolfe conditions converges."""
    torch.manual_seed(0)
    x, labels = torch.randn(60, 5), torch.arange(60) % 3
    model = nn.Linear(5, 3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=100, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = emphasis_loss(model(x), labels, DM(lam=0.5, beta=2, vanishing=True))
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    assert max(p.grad.abs().max().item() for p in model.parameters()) < 1e-4


def test_no_graph_is_built_without_need(batch):
    logits, labels = batch
    with torch.no_grad():
        assert not emphasis_loss(logits, labels, "CCE").requires_grad
    assert not emphasis_loss(logits.detach(), labels, "CCE").requires_grad


def test_the_loss_leaves_its_input_alone(batch):
    logits, labels = batch
    before = logits.detach().clone(), labels.clone()
    emphasis_loss(logits, labels, DM_PUBLISHED).backward()
    assert torch.equal(logits.detach(), before[0])
    assert torch.equal(labels, before[1])


# --- module -------------------------------------------------------------------------------------


def test_module_is_the_function_and_travels(batch):
    logits, labels = batch
    criterion = EmphasisLoss({"family": "DM", "lam": 0.5, "beta": 12}, normalization="batch", class_weight=[1, 2, 3, 4])
    expected = emphasis_loss(
        logits, labels, DM_PUBLISHED, normalization="batch", class_weight=torch.tensor([1.0, 2, 3, 4])
    )
    for each in (criterion, copy.deepcopy(criterion), pickle.loads(pickle.dumps(criterion))):
        torch.testing.assert_close(each(logits, labels), expected)
    assert criterion.weighting == from_dict({"family": "DM", "lam": 0.5, "beta": 12})
    assert repr(criterion).startswith("EmphasisLoss(DM(lam=0.5, beta=12.0), normalization='batch'")
    assert "class_weight" in criterion.state_dict()
    assert criterion.double()(logits.double(), labels).dtype == torch.float64
    assert criterion(logits, labels, sample_weight=torch.ones(12)) == criterion(logits, labels)


def test_losses_are_not_kept_alive_for_ever(monkeypatch):
    """A schedule makes a new weighting, or a new function, each step: what they enclose must be freed."""
    for module, name in ((_options, "_make_options"), (_weighting, "_same_function"), (function, "_takes_two")):
        cached = getattr(module, name)
        assert cached.cache_info().maxsize == 256
        monkeypatch.setattr(module, name, lru_cache(8)(cached.__wrapped__))  # a smaller cache is full sooner
    alive = []
    for step in range(40):
        scale = torch.tensor(1.0 + step)
        alive.append(weakref.ref(scale))
        emphasis_loss(Z, Y, lambda p, scale=scale: p * scale, normalization="batch")
        EmphasisLoss(GCE(step / 40))
    del scale
    gc.collect()
    assert sum(reference() is not None for reference in alive) <= 24  # three caches of 8
    assert len(_options._registered) < 1000
    criterion, number = EmphasisLoss(), len(_options._registered)
    for step in range(100):  # the same weightings again and again, as after a warm-up
        criterion.weighting = (CCE(), GCE(0.5))[step % 2]
    assert len(_options._registered) <= number + 2
