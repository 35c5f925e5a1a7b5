"""The one training loop, on Lightning Fabric: a stack of networks, which may be one, on any device.

Over several devices each step's batch is split: every rank learns from its part, and the loss, batch norm and the
gradients are the whole batch's. Evaluations are shared out as well. A rank has the whole state (DDP) or a shard of it
(FSDP).

The state of a run after a step is a function of its settings and that step's number alone: initialization, noise,
batches, crops and dropout are seeded by seed and iteration. A checkpoint therefore resumes bit for bit on the CPU.

On an accelerator the step reads nothing back: data stay on the device, and a network that diverges is noted in a
tensor there, which is read at the next evaluation.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.baselines.learner import DivergedError
from emphasis.compatibility.fabric import Fabric, ModelParallelStrategy
from emphasis.datasets.errors import DamagedFileError
from emphasis.models.stacked import Stack, at_own_rates
from emphasis.torch._options import Options
from emphasis.torch.distributed import rank_slice
from emphasis.torch.functional import resolve
from emphasis.training.arithmetic import derivative, with_arithmetic
from emphasis.training.augmentation import random_crop_flip
from emphasis.training.batches import Batches, step_seed
from emphasis.training.evaluation import CURVES, evaluate
from emphasis.training.fetching import Fetched
from emphasis.training.methods import LearnerStack, backward, whole_batch
from emphasis.training.norms import synchronised_norms
from emphasis.training.optimizers import apply_schedule, make_optimizer
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.sharding import held
from emphasis.training.task import Task
from emphasis.weighting import EmphasisWarning

_DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_AUGMENTATION, _DROPOUT, _EPOCH = 1, 2, 3  # purposes of `step_seed`


@dataclass(eq=False)
class State:
    """Everything that changes during training; S = methods * seeds networks, method by method.

    Attributes:
        module: The stack, set up by Fabric.
        optimizer: Over its parameters, likewise.
        num_networks: S.
        draws: Whether the module draws random numbers in training, as dropout and many methods do.
        iteration: Steps taken.
        diverged_at: (S,) int64 on the device, the iteration at which a network's logits became NaN or infinite;
            -1 if never.
        evaluated_at: Iterations of the evaluations so far.
        curves: For each of `CURVES`, and of the task's evaluator, one list of S numbers per evaluation; NaN once
            diverged.
        p: (S, n) float32 of the last evaluation, the probability of each label trained on and looked at.
        trace: The same at every evaluation in float16, if they are recorded.
        predicted: (S, n) int16 at every evaluation, the class predicted of each training example, likewise.
        broken: Files of images that were met and could not be decoded.
    """

    module: nn.Module
    optimizer: Any
    num_networks: int
    draws: bool
    iteration: int
    diverged_at: Tensor
    evaluated_at: list[int] = field(default_factory=list)
    curves: dict[str, list[list[float]]] = field(default_factory=lambda: {name: [] for name in CURVES})
    p: NDArray[np.float32] | None = None
    trace: list[NDArray[np.float16]] = field(default_factory=list)
    predicted: list[NDArray[np.int16]] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)


def initial_state(
    stack: Stack, solver: Solver, fabric: Fabric, execution: Execution, rates: Sequence[float] = ()
) -> State:
    """Return the state before the first step.

    Args:
        stack: The networks as they start.
        solver: The optimiser's settings.
        fabric: From `make_fabric`.
        execution: How it runs.
        rates: Of each network, as a share of the solver's learning rate; none: all have that.
    """
    module: nn.Module = stack
    dropouts = [part for part in stack.modules() if isinstance(part, _DROPOUT_LAYERS)]
    draws = isinstance(stack, LearnerStack) or any(part.p > 0.0 for part in dropouts)
    group = _group(fabric)
    if group is not None and isinstance(stack, LearnerStack):
        stack.share_out(group, fabric.device)
    elif group is not None:
        module = synchronised_norms(module, fabric.device)
    shards = isinstance(fabric.strategy, ModelParallelStrategy)  # which have to be contiguous
    if not shards and any(parameter.ndim == 4 for parameter in module.parameters()):
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if execution.compile and isinstance(stack, LearnerStack):
        stack.network.network.compile()
    elif execution.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    diverged_at = torch.full((stack.num_networks,), -1, device=fabric.device)
    prepared = fabric.setup_module(module)
    # After the module, whose parameters FSDP puts others in place of.
    optimizer = make_optimizer([one for one in stack.parameters() if one.requires_grad], solver)
    if rates:
        at_own_rates(optimizer, rates, held)
    for name in getattr(stack, "FORWARD_METHODS", ()):
        prepared.mark_forward_method(name)
    return State(prepared, fabric.setup_optimizers(optimizer), stack.num_networks, draws, 0, diverged_at)


def train(
    state: State,
    task: Task,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    solver: Solver,
    fabric: Fabric,
    *,
    evaluate_every: int,
    record_trace: bool = False,
    after_step: Callable[[State], None] = lambda _: None,
) -> None:
    """Train `state` in place to the last iteration, evaluating at 0, every `evaluate_every` steps and at the end.

    It ends early, after an evaluation, once every network has diverged.

    Args:
        state: From `initial_state` or a checkpoint.
        task: The data, on Fabric's device.
        objectives: One per method; none if the module is a `LearnerStack`, which has its own.
        seeds: One per row of `task.labels`.
        solver: The optimiser's settings.
        fabric: The one that `state` was set up by.
        evaluate_every: Steps between evaluations, >= 1.
        record_trace: Whether every evaluation's probabilities and predictions are kept.
        after_step: Called after each step and its evaluation; progress and checkpoints go here.

    Raises:
        DamagedFileError: An image cannot be decoded, and such are not skipped; or none of a batch, or of this rank's
            part of it, can.
    """
    batches = task.batches(seeds, solver, task.places_device)
    group = _group(fabric)
    mine = slice(None) if group is None else rank_slice(group)
    fetched = task.fetch(batches.indices(iteration)[:, mine] for iteration in range(state.iteration, solver.iterations))
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices), closing(fetched):
        # A recipe may ask for the bare formula, to show what it does; the outcome is then reported, not warned of.
        warnings.simplefilter("ignore", EmphasisWarning)
        if state.iteration == 0 and not state.evaluated_at:
            _evaluate(state, task, record_trace, group)
        options = _options(objectives, state, solver, group)
        changing = any(one.schedule for one in objectives)
        while state.iteration < solver.iterations:
            if changing:
                options = _options(objectives, state, solver, group)
            begins = not options and state.iteration % batches.per_epoch == 0
            ended = begins and _begin_epoch(state, task, seeds, solver, batches)
            ended = ended or _step(state, task, next(fetched), options, seeds, solver, fabric)
            due = state.iteration % evaluate_every == 0 or state.iteration == solver.iterations
            if due or ended:
                _evaluate(state, task, record_trace, group)
                if bool((state.diverged_at >= 0).all()):
                    break
            after_step(state)


def _group(fabric: Fabric) -> Any:
    """Return the ranks that a batch is spread over, each of which decodes its part; None: there is one process."""
    return torch.distributed.group.WORLD if fabric.world_size > 1 else None


def _options(objectives: Sequence[Objective], state: State, solver: Solver, group: Any) -> list[Options]:
    """Return each method's options in the next step; `group`: the ranks that the batch is spread over.

    The noise rate that a method measures is the share of training labels that its network contradicted when it was
    last looked at; before the first step it has said nothing.
    """
    progress = state.iteration / solver.iterations
    copies = state.num_networks // max(len(objectives), 1)
    found = []
    for number, one in enumerate(objectives):
        rate = None
        if one.measures and len(state.evaluated_at) > 1:
            rate = 1.0 - state.curves["fit_noisy"][-1][number * copies]
            rate = None if math.isnan(rate) else rate  # it has diverged
        options = resolve(one.at(progress, rate), one.normalization, "mean", one.max_margin, group)
        found.append(with_arithmetic(options, one.arithmetic))
    return found


def _begin_epoch(state: State, task: Task, seeds: Sequence[int], solver: Solver, batches: Batches) -> bool:
    """Let a learner's method do what is due; return whether the network is found to have diverged."""
    torch.manual_seed(step_seed(seeds[0], state.iteration, _EPOCH))
    number = state.iteration // batches.per_epoch
    module = cast(LearnerStack, state.module)
    try:
        module.begin_epoch(number, state.iteration / solver.iterations, state.optimizer, task)
    except DivergedError:
        return _lost(state)
    return False


def _lost(state: State) -> bool:
    """Note that the one network has diverged."""
    state.diverged_at = torch.where(state.diverged_at < 0, state.iteration, state.diverged_at)
    return True


def _step(
    state: State,
    task: Task,
    batch: Fetched,
    options: Sequence[Options],
    seeds: Sequence[int],
    solver: Solver,
    fabric: Fabric,
) -> bool:
    """Take one step of the optimizer with every network; return whether all are known to have diverged."""
    places, inputs, group = batch.places, batch.inputs, _group(fabric)
    if batch.broken is not None:
        if bool(batch.broken.all(1).any()):
            raise DamagedFileError(f"no image of a batch can be decoded, from {batch.names[0]} to {batch.names[-1]}")
        state.broken.update(batch.names)
    if not options and group is not None:
        places, inputs = whole_batch((places, inputs), solver.batch_size, group)
    if task.augment:
        generator = torch.Generator(fabric.device).manual_seed(step_seed(seeds[0], state.iteration, _AUGMENTATION))
        padding, size = (0, task.crop) if task.crop else (4, None)
        part = None
        if options and group is not None:
            number = len(inputs) * solver.batch_size
            rows = torch.arange(number, device=fabric.device).view(len(inputs), -1)
            part = number, rows[:, rank_slice(group)].flatten()
        flat = random_crop_flip(inputs.flatten(0, 1), generator, padding=padding, size=size, part=part)
        inputs = flat.view(*inputs.shape[:2], *flat.shape[1:])
    if state.draws:
        own = fabric.global_rank if options else 0  # a method draws alike on all ranks
        torch.manual_seed(step_seed(seeds[0], state.iteration, _DROPOUT) + own)
    if not options:
        return _learner_step(state, task.prepared(inputs), places, solver, fabric)
    labels = task.labels.gather(1, places)
    logits = state.module(task.prepared(inputs))
    if _note_diverged(state, logits, options[0].process_group):
        if bool((state.diverged_at >= 0).all()):
            return True
        logits = state.module(task.prepared(inputs))
    apply_schedule(state.optimizer, solver, state.iteration)
    state.optimizer.zero_grad(set_to_none=True)
    fabric.backward(logits, derivative(logits, labels, options))
    state.optimizer.step()
    state.iteration += 1
    return False


def _learner_step(state: State, inputs: Tensor, places: Tensor, solver: Solver, fabric: Fabric) -> bool:
    """Take one step by a method's own loss; return whether the network is known to have diverged."""
    module = cast(LearnerStack, state.module)
    schedule = module.schedule(state.iteration, solver.iterations)
    own = module.step_of_start(state.iteration, solver.iterations) if solver.name == "adam" else state.iteration
    apply_schedule(state.optimizer, solver, own, schedule)
    state.optimizer.zero_grad(set_to_none=True)
    try:
        loss = backward(module, inputs, places, state.iteration, solver, fabric)
    except DivergedError:
        return _lost(state)
    state.diverged_at = torch.where(loss.isfinite() | (state.diverged_at >= 0), state.diverged_at, state.iteration)
    if loss.device.type == "cpu" and not loss.isfinite():
        return True
    state.optimizer.step()
    state.iteration += 1
    return False


@torch.no_grad()
def _note_diverged(state: State, logits: Tensor, group: Any) -> bool:
    """Note which networks' logits are not finite; on the CPU, zero those, and return whether there were any.

    Zeroed networks stay harmless in the stack, whose loss refuses NaN; evaluation reports NaN for them from then on.
    An accelerator's loss lets NaN through, and networks do not mix, so there nothing is read back.
    """
    # Of the sums: three times as fast. Logits whose sum overflows are beyond 1e34, and their network lost as well.
    bad = ~logits.flatten(1).sum(1, dtype=torch.float32).isfinite()
    if group is not None:  # on any rank: all must go on alike
        found = bad.to(torch.uint8)
        torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MAX, group)
        bad = found.bool()
    state.diverged_at = torch.where(bad & (state.diverged_at < 0), state.iteration, state.diverged_at)
    if logits.device.type != "cpu" or not bool(bad.any()):
        return False
    if state.num_networks == 1:  # all is lost, and training ends
        return True
    for parameter in state.module.parameters():
        own, lost = held(parameter, bad)
        own[lost] = 0.0
        for value in state.optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                held(value, bad)[0][lost] = 0.0
    return True


def _evaluate(state: State, task: Task, record_trace: bool, group: Any) -> None:
    """Append one point to each curve."""
    alive = (state.diverged_at < 0).cpu().numpy()
    found = evaluate(state.module, state.num_networks, task, alive, group)
    finite = torch.from_numpy(found.finite).to(state.diverged_at.device)
    state.diverged_at = torch.where(~finite & (state.diverged_at < 0), state.iteration, state.diverged_at)
    if state.evaluated_at and state.evaluated_at[-1] == state.iteration:  # it ended where it had just been evaluated
        for curve in state.curves.values():
            curve.pop()
        state.evaluated_at.pop()
        del state.trace[len(state.evaluated_at) :], state.predicted[len(state.evaluated_at) :]
    for name, values in found.curves.items():
        state.curves.setdefault(name, []).append([float(value) for value in values])
    state.evaluated_at.append(state.iteration)
    state.p = found.p
    state.broken |= found.broken
    if record_trace:
        state.trace.append(found.p.astype(np.float16))
        state.predicted.append(found.predicted.astype(np.int16))


def diverged_batch(seed: int, iteration: int, task: Task, solver: Solver) -> list[int]:
    """Return the training examples of the step that made a network of `seed` diverge, places of 0 to n - 1.

    Logits that are not finite before a step are the doing of the step before it, since the inputs are finite.
    """
    batches = task.batches([seed], solver, torch.device("cpu"))
    return [int(place) for place in batches.indices(max(iteration - 1, 0))[0]]
