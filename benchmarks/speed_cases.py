"""What `speed.py` measures: cases, and for each of them contenders that do the same work in the same memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from emphasis import CCE, DM
from emphasis.kernels.operators import OPERATORS
from emphasis.models import build
from emphasis.torch import EmphasisLoss, _fused, emphasis_loss, linear_emphasis_loss

try:
    from liger_kernel.transformers import LigerCrossEntropyLoss  # type: ignore[import-not-found, unused-ignore]
except ImportError:
    LigerCrossEntropyLoss = None

WEIGHTING = DM(lam=0.5, beta=12)
INTEGRAL = math.exp(WEIGHTING.log_integral)
HIDDEN = 512  # of the linear form
LOOP_CHUNK = 256  # tokens at a time in plain PyTorch

Kind = Literal["logits", "linear", "step"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """Something to be timed.

    Attributes:
        name: For the command line.
        title: For tables and figures.
        kind: A loss of logits, the last linear layer with its loss, or a whole training step.
        shape: Of the logits.
        repeats: How often by default.
        dtype: Of the logits.
        labels: Class indices, rows of probabilities, or class indices of one logit for two classes.
        copies: Whether a copy of the logits is timed beside, for the bandwidth.
        compiles: Whether losses under torch.compile are timed beside.
    """

    name: str
    title: str
    kind: Kind
    shape: tuple[int, ...]
    repeats: int
    dtype: torch.dtype = torch.float32
    copies: bool = False
    compiles: bool = False
    labels: Literal["classes", "probabilities", "one logit"] = "classes"

    @property
    def num_classes(self) -> int:
        return 2 if self.labels == "one logit" else self.shape[1]

    @property
    def logits_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def gradient_bytes(self) -> int:
        """Of the gradients that are there afterwards, whoever computes them; those of logits go on, to the network."""
        return (self.shape[0] + self.shape[1]) * HIDDEN * self.dtype.itemsize if self.kind == "linear" else 0


@dataclass(frozen=True)
class Contender:
    """A way to do the work of a case.

    Attributes:
        name: For tables and figures.
        prepare: Puts everything as it was, outside the timed region.
        run: One forward and backward pass, or one step.
        gradients: One pass that returns its gradients; None if there are none to compare.
        computes: Contenders that compute the same have the same gradients.
    """

    name: str
    prepare: Callable[[], None]
    run: Callable[[], object]
    gradients: Callable[[], tuple[Tensor | None, ...]] | None = None
    computes: Literal["cross-entropy", "DM", "DM, batch", "Relative", "copy"] = "DM"


def cases(device: str) -> list[Case]:
    flat = [(256, 10), (256, 100), (256, 1000), (512, 32_000), (128, 128_000)]
    chosen = [
        Case(f"{rows}x{classes}", f"{rows} x {classes:,}", "logits", (rows, classes), 15, compiles=classes == 32_000)
        for rows, classes in flat
    ]
    chosen.append(Case("segmentation", "segmentation, 8 x 21 x 256 x 256", "logits", (8, 21, 256, 256), 15))
    if device == "cpu":
        chosen.append(Case("4096x1000", "4,096 x 1,000", "logits", (4096, 1000), 15, compiles=True))
        chosen += [
            Case(
                f"soft-{rows}x{classes}",
                f"soft labels, {rows} x {classes:,}",
                "logits",
                (rows, classes),
                15,
                labels="probabilities",
            )
            for rows, classes in flat[:3]
        ]
        chosen += [
            Case(
                f"float64-{rows}x{classes}",
                f"float64, {rows} x {classes:,}",
                "logits",
                (rows, classes),
                15,
                torch.float64,
            )
            for rows, classes in flat[:3]
        ]
        chosen += [
            Case(f"one-logit-{rows}", f"one logit, {rows:,}", "logits", (rows,), 15, labels="one logit")
            for rows in (256, 65_536)
        ]
    if device == "cuda":
        chosen += [
            Case("4096x1000", "4,096 x 1,000", "logits", (4096, 1000), 15, compiles=True),
            Case("4096x32000-float32", "4,096 x 32,000, float32", "logits", (4096, 32_000), 15, copies=True),
            Case(
                "4096x32000-bfloat16",
                "4,096 x 32,000, bfloat16",
                "logits",
                (4096, 32_000),
                15,
                torch.bfloat16,
                True,
                True,
            ),
            Case(
                "2048x128000-bfloat16", "2,048 x 128,000, bfloat16", "logits", (2048, 128_000), 15, torch.bfloat16, True
            ),
        ]
    chosen += [
        Case(f"linear-{classes}", f"2,048 tokens, {HIDDEN} x {classes:,}", "linear", (2048, classes), 5)
        for classes in (32_000, 128_000)
    ]
    chosen.append(Case("resnet20", "ResNet-20, batch of 128 images", "step", (128, 10), 30))
    chosen.append(Case("perceptron", "8-neuron perceptron, batch of 100", "step", (100, 2), 60))
    return chosen


def contenders(case: Case, device: str) -> list[Contender]:
    """Return the contenders of a case, the reference first; they share their tensors."""
    torch.manual_seed(0)
    make = {"logits": _of_logits, "linear": _of_linear, "step": _of_steps}[case.kind]
    return list(make(case, torch.device(device)))


def notes(device: str) -> list[str]:
    """Say what could not be measured here."""
    said = []
    if device != "cuda":
        said.append("Liger's cross-entropy is not measured: it needs a GPU.")
    elif LigerCrossEntropyLoss is None:
        said.append("Liger's cross-entropy is not measured: `liger_kernel` is not installed.")
    if not hasattr(F, "linear_cross_entropy"):
        said.append("This torch has no F.linear_cross_entropy: the reference is F.linear with F.cross_entropy.")
    return said


# --- a loss of logits -------------------------------------------------------------------------------------------------


class Output(torch.autograd.Function):
    """What a network's last layer is to the loss: logits that are no leaf, made anew, whose gradient goes on.

    The same for all contenders, so that in-place ones can take part, and cheap: no copy is made, and the gradient is
    dropped. The buffer comes in a list, as the output would count as a view of a tensor.
    """

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, buffer: list[Tensor]) -> Tensor:  # noqa: ARG004
        return buffer[0].detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:  # noqa: ARG004
        return None, None


def _of_logits(case: Case, device: torch.device) -> Iterator[Contender]:
    original = torch.randn(case.shape, device=device, dtype=case.dtype)
    labels = torch.randint(case.num_classes, case.shape[:1] + case.shape[2:], device=device)
    if case.labels == "probabilities":
        labels = torch.softmax(torch.randn_like(original), 1)
    buffer = original.clone()
    anchor = torch.zeros((), device=device, requires_grad=True)

    def prepare() -> None:
        # In-place contenders leave the derivative in the buffer. Within a block that becomes the next call's logits:
        # small numbers, none of them subnormal, which take as long.
        buffer.copy_(original)

    def contender(
        name: str, loss: Loss, computes: Literal["cross-entropy", "DM", "DM, batch", "Relative"]
    ) -> Contender:
        def run() -> None:
            loss(Output.apply(anchor, [buffer]), labels).backward()

        def gradients() -> tuple[Tensor | None]:
            logits = Output.apply(anchor, [buffer])
            logits.retain_grad()
            loss(logits, labels).backward()
            return (logits.grad,)

        return Contender(name, prepare, run, gradients, computes)

    if case.labels == "one logit":
        probability = labels.to(case.dtype)
        yield contender(
            "F.binary_cross_entropy_with_logits",
            lambda logits, _: F.binary_cross_entropy_with_logits(logits, probability),
            "cross-entropy",
        )
    else:
        yield contender("F.cross_entropy", F.cross_entropy, "cross-entropy")
    yield contender("CCE", EmphasisLoss(CCE()), "cross-entropy")
    yield contender("DM", dm, "DM")
    if case.labels == "one logit":
        return
    yield contender("Relative", EmphasisLoss(), "Relative")
    yield contender("DM, batch", EmphasisLoss(WEIGHTING, normalization="batch"), "DM, batch")
    if case.labels == "probabilities":
        return
    yield contender("DM, in place", EmphasisLoss(WEIGHTING, inplace=True), "DM")
    yield contender("DM by autograd", dm_by_autograd, "DM")
    if device.type == "cpu":
        yield contender("DM, no compiler", without_compiled_kernels, "DM")
    if case.compiles:
        yield contender("F.cross_entropy, compiled", torch.compile(F.cross_entropy), "cross-entropy")
        yield contender("DM, compiled", torch.compile(EmphasisLoss(WEIGHTING)), "DM")
    if LigerCrossEntropyLoss is not None and device.type == "cuda" and len(case.shape) == 2:
        yield contender("Liger, in place", LigerCrossEntropyLoss(), "cross-entropy")
    if case.copies:
        copy = torch.empty_like(original)
        yield Contender("copy", prepare, lambda: copy.copy_(original), computes="copy")


def dm(logits: Tensor, labels: Tensor) -> Tensor:
    """Return DM as the library computes it."""
    return emphasis_loss(logits, labels, WEIGHTING)


def without_compiled_kernels(logits: Tensor, labels: Tensor) -> Tensor:
    """Return DM as the library computes it where there is no C compiler."""
    chosen = _fused.backend_on
    _fused.backend_on = lambda _: OPERATORS
    try:
        return dm(logits, labels)
    finally:
        _fused.backend_on = chosen


def dm_by_autograd(logits: Tensor, labels: Tensor) -> Tensor:
    """Return DM as one would write it: cross-entropy, whose derivative has norm 2 (1-p), times w / (2 (1-p))."""
    cross_entropy = F.cross_entropy(logits, labels, reduction="none")
    p = torch.exp(-cross_entropy.detach())
    q = (1.0 - p).clamp_min(torch.finfo(p.dtype).eps)
    weight = torch.exp(WEIGHTING.beta * p**WEIGHTING.lam * q) / INTEGRAL
    return (weight / (2.0 * q) * cross_entropy).mean()


# --- the last layer and its loss --------------------------------------------------------------------------------------


def _of_linear(case: Case, device: torch.device) -> Iterator[Contender]:
    tokens, classes = case.shape
    hidden = torch.randn(tokens, HIDDEN, device=device, dtype=case.dtype).requires_grad_()
    weight = torch.randn(classes, HIDDEN, device=device, dtype=case.dtype).div_(math.sqrt(HIDDEN)).requires_grad_()
    labels = torch.randint(classes, (tokens,), device=device)

    def forget() -> None:
        hidden.grad = weight.grad = None

    def contender(
        name: str, work: Callable[[], object], computes: Literal["cross-entropy", "DM"] = "cross-entropy"
    ) -> Contender:
        def run() -> None:
            forget()
            work()

        def gradients() -> tuple[Tensor | None, ...]:
            run()
            return hidden.grad, weight.grad

        return Contender(name, forget, run, gradients, computes)

    def reference() -> None:
        if hasattr(F, "linear_cross_entropy"):
            F.linear_cross_entropy(hidden, weight, labels).backward()
        else:  # which is how it is defined
            F.cross_entropy(F.linear(hidden, weight), labels).backward()

    def in_chunks(**settings: Any) -> Callable[[], None]:
        options = nn.LinearCrossEntropyOptions(**settings)
        return lambda: F.linear_cross_entropy(hidden, weight, labels, options=options).backward()

    def in_a_loop() -> None:
        for part, own in zip(hidden.split(LOOP_CHUNK), labels.split(LOOP_CHUNK), strict=True):
            (F.cross_entropy(F.linear(part, weight), own, reduction="sum") / tokens).backward()

    yield contender("F.linear_cross_entropy", reference)
    if hasattr(nn, "LinearCrossEntropyOptions"):
        yield contender("the same, chunked", in_chunks())
        yield contender("the same, chunks of 128", in_chunks(batch_chunk_size=128, chunking_method=None))
    yield contender("cross-entropy in a loop", in_a_loop)
    yield contender(
        "linear_emphasis_loss, DM", lambda: linear_emphasis_loss(hidden, weight, labels, WEIGHTING).backward(), "DM"
    )
    yield contender(
        "F.linear, then DM", lambda: emphasis_loss(F.linear(hidden, weight), labels, WEIGHTING).backward(), "DM"
    )


# --- a training step --------------------------------------------------------------------------------------------------


def _of_steps(case: Case, device: torch.device) -> Iterator[Contender]:
    shape: tuple[int, ...]
    if case.name == "resnet20":
        shape, options, weight_decay = (3, 32, 32), {}, 1e-4
    else:  # of the recipe table5: eight neurons on vectors of text
        shape, options, weight_decay = (100,), {"hidden": [8]}, 2e-3
    batch, classes = case.shape
    inputs = torch.randn(batch, *shape, device=device)
    labels = torch.randint(classes, (batch,), device=device)

    def contender(name: str, criterion: Loss) -> Contender:
        model = build("mlp" if case.name == "perceptron" else case.name, shape, classes, seed=0, **options).to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=weight_decay)

        def run() -> None:
            optimizer.zero_grad()
            criterion(model(inputs), labels).backward()
            optimizer.step()

        return Contender(name, optimizer.zero_grad, run)

    yield contender("F.cross_entropy", F.cross_entropy)
    yield contender("DM", EmphasisLoss(WEIGHTING))
    yield contender("DM, batch", EmphasisLoss(WEIGHTING, normalization="batch"))
