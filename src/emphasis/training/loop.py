"""The training loop, on Lightning Fabric, for a stack of one or more networks on any device.

With several devices, the batch of each step is split over the ranks; loss, batch normalization and gradients are those
of the whole batch. Evaluations are distributed as well. Each rank has the whole state (DDP) or a shard of it (FSDP).

The state after a step is a function of the settings and the number of the step: initialization, noise, batches, crops
and dropout are seeded by seed and iteration. On the CPU, training resumed from a checkpoint is therefore bit-identical.

On an accelerator, a step does not synchronize with the host: data stay on the device, and divergence is recorded in a
tensor on the device, which is read at the next evaluation.
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
from emphasis.training.norms import synchronized_norms
from emphasis.training.optimizers import apply_schedule, make_optimizer
from emphasis.training.settings import Execution, Objective, Solver
from emphasis.training.sharding import local_part
from emphasis.training.task import Task
from emphasis.weighting import EmphasisWarning

_DROPOUT_LAYERS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_AUGMENTATION, _DROPOUT, _EPOCH = 1, 2, 3  # purposes of `step_seed`


@dataclass(eq=False)
class State:
    """State of training of S = methods * seeds networks, ordered by method.

    Attributes:
        module: Stack of networks, set up by Fabric.
        optimizer: Optimizer of its parameters, set up by Fabric.
        num_networks: Number of networks S.
        draws: Whether the module draws random numbers during training, such as for dropout.
        iteration: Number of completed steps.
        diverged_at: (S,) int64 on the device, iteration at which the logits of a network became NaN or infinite; -1 if
            they never did.
        evaluated_at: Iterations of the evaluations so far.
        curves: One list of S numbers per evaluation for each of `CURVES` and of the evaluator's curves; NaN after
            divergence.
        p: (S, n) float32, probabilities of the training labels in the last evaluation.
        trace: The probabilities of every evaluation in float16, if they are recorded.
        predicted: (S, n) int16 predicted classes of the training examples at every evaluation, if they are recorded.
        broken: Files of images that could not be decoded.
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
        stack: Networks with their initial parameters.
        solver: Settings of the optimizer.
        fabric: Fabric from `make_fabric`.
        execution: Settings of the execution.
        rates: Learning rate of each network as a share of the solver's; if empty, all use the solver's.
    """
    module: nn.Module = stack
    dropouts = [part for part in stack.modules() if isinstance(part, _DROPOUT_LAYERS)]
    draws = isinstance(stack, LearnerStack) or any(part.p > 0.0 for part in dropouts)
    group = _group(fabric)
    if group is not None and isinstance(stack, LearnerStack):
        stack.share_out(group, fabric.device)
    elif group is not None:
        module = synchronized_norms(module, fabric.device)
    shards = isinstance(fabric.strategy, ModelParallelStrategy)  # shards must be contiguous
    if not shards and any(parameter.ndim == 4 for parameter in module.parameters()):
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if execution.compile and isinstance(stack, LearnerStack):
        stack.network.network.compile()
    elif execution.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    diverged_at = torch.full((stack.num_networks,), -1, device=fabric.device)
    prepared = fabric.setup_module(module)
    # The optimizer is created after the module is set up, since FSDP replaces its parameters.
    optimizer = make_optimizer([parameter for parameter in stack.parameters() if parameter.requires_grad], solver)
    if rates:
        at_own_rates(optimizer, rates, local_part)
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
    """Train `state` in place to the last iteration, with evaluations at 0, every `evaluate_every` steps and the end.

    Training ends early, after an evaluation, once every network has diverged.

    Args:
        state: State from `initial_state` or a checkpoint.
        task: Data, on Fabric's device.
        objectives: Objective of each method; empty if the module is a `LearnerStack`, which computes its own loss.
        seeds: Seed of each row of `task.labels`.
        solver: Settings of the optimizer.
        fabric: Fabric that `state` was set up by.
        evaluate_every: Steps between evaluations, >= 1.
        record_trace: Whether to record the probabilities and predictions of every evaluation.
        after_step: Called after each step and its evaluation, for progress and checkpoints.

    Raises:
        DamagedFileError: An image cannot be decoded and broken images are not skipped, or no image of a batch, or of
            this rank's part of it, can be decoded.
    """
    batches = task.batches(seeds, solver, task.places_device)
    group = _group(fabric)
    part_of_rank = slice(None) if group is None else rank_slice(group)
    fetched = task.fetch(
        batches.indices(iteration)[:, part_of_rank] for iteration in range(state.iteration, solver.iterations)
    )
    devices = [fabric.device] if fabric.device.type == "cuda" else []
    with warnings.catch_warnings(), torch.random.fork_rng(devices), closing(fetched):
        # Recipes may use settings that warn, to show their effect; the outcome is reported instead.
        warnings.simplefilter("ignore", EmphasisWarning)
        if state.iteration == 0 and not state.evaluated_at:
            _evaluate(state, task, record_trace, group)
        options = _options(objectives, state, solver, group)
        changing = any(objective.schedule for objective in objectives)
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
    """Return the ranks that a batch is distributed over, each of which decodes its part; None for one process."""
    return torch.distributed.group.WORLD if fabric.world_size > 1 else None


def _options(objectives: Sequence[Objective], state: State, solver: Solver, group: Any) -> list[Options]:
    """Return the options of each method for the next step; `group` has the ranks that share the batch.

    The measured noise rate is the share of training labels that differ from the network's predictions in the last
    evaluation. It is unknown before the first evaluation after a step.
    """
    progress = state.iteration / solver.iterations
    copies = state.num_networks // max(len(objectives), 1)
    result = []
    for number, objective in enumerate(objectives):
        rate = None
        if objective.measures and len(state.evaluated_at) > 1:
            rate = 1.0 - state.curves["fit_noisy"][-1][number * copies]
            rate = None if math.isnan(rate) else rate  # NaN after divergence
        options = resolve(objective.at(progress, rate), objective.normalization, "mean", objective.max_margin, group)
        result.append(with_arithmetic(options, objective.arithmetic))
    return result


def _begin_epoch(state: State, task: Task, seeds: Sequence[int], solver: Solver, batches: Batches) -> bool:
    """Call the method's hook at the beginning of an epoch; return whether the network has diverged."""
    torch.manual_seed(step_seed(seeds[0], state.iteration, _EPOCH))
    number = state.iteration // batches.per_epoch
    module = cast(LearnerStack, state.module)
    try:
        module.begin_epoch(number, state.iteration / solver.iterations, state.optimizer, task)
    except DivergedError:
        return _record_divergence(state)
    return False


def _record_divergence(state: State) -> bool:
    """Record that the only network has diverged."""
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
        rank_offset = fabric.global_rank if options else 0  # a method draws the same numbers on all ranks
        torch.manual_seed(step_seed(seeds[0], state.iteration, _DROPOUT) + rank_offset)
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
    """Take one step with the loss of a method; return whether the network is known to have diverged."""
    module = cast(LearnerStack, state.module)
    schedule = module.schedule(state.iteration, solver.iterations)
    step = module.step_of_start(state.iteration, solver.iterations) if solver.name == "adam" else state.iteration
    apply_schedule(state.optimizer, solver, step, schedule)
    state.optimizer.zero_grad(set_to_none=True)
    try:
        loss = backward(module, inputs, places, state.iteration, solver, fabric)
    except DivergedError:
        return _record_divergence(state)
    state.diverged_at = torch.where(loss.isfinite() | (state.diverged_at >= 0), state.diverged_at, state.iteration)
    if loss.device.type == "cpu" and not loss.isfinite():
        return True
    state.optimizer.step()
    state.iteration += 1
    return False


@torch.no_grad()
def _note_diverged(state: State, logits: Tensor, group: Any) -> bool:
    """Record networks whose logits are not finite; on the CPU, set them to zero and return whether there were any.

    The loss on the CPU does not accept NaN, so the parameters of diverged networks are set to zero; evaluations report
    NaN for them. On an accelerator the loss accepts NaN and the networks are independent, so nothing is read back.
    """
    # Checking sums is three times as fast. If a sum overflows, logits exceed 1e34 and the network has diverged as well.
    bad = ~logits.flatten(1).sum(1, dtype=torch.float32).isfinite()
    if group is not None:  # divergence on any rank counts, since all ranks must take the same branch
        bad_anywhere = bad.to(torch.uint8)
        torch.distributed.all_reduce(bad_anywhere, torch.distributed.ReduceOp.MAX, group)
        bad = bad_anywhere.bool()
    state.diverged_at = torch.where(bad & (state.diverged_at < 0), state.iteration, state.diverged_at)
    if logits.device.type != "cpu" or not bool(bad.any()):
        return False
    if state.num_networks == 1:  # training ends
        return True
    for parameter in state.module.parameters():
        local, lost = local_part(parameter, bad)
        local[lost] = 0.0
        for value in state.optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                local_part(value, bad)[0][lost] = 0.0
    return True


def _evaluate(state: State, task: Task, record_trace: bool, group: Any) -> None:
    """Append one point to each curve."""
    alive = (state.diverged_at < 0).cpu().numpy()
    evaluation = evaluate(state.module, state.num_networks, task, alive, group)
    finite = torch.from_numpy(evaluation.finite).to(state.diverged_at.device)
    state.diverged_at = torch.where(~finite & (state.diverged_at < 0), state.iteration, state.diverged_at)
    if state.evaluated_at and state.evaluated_at[-1] == state.iteration:  # training ended right after an evaluation
        for curve in state.curves.values():
            curve.pop()
        state.evaluated_at.pop()
        del state.trace[len(state.evaluated_at) :], state.predicted[len(state.evaluated_at) :]
    for name, values in evaluation.curves.items():
        state.curves.setdefault(name, []).append([float(value) for value in values])
    state.evaluated_at.append(state.iteration)
    state.p = evaluation.p
    state.broken |= evaluation.broken
    if record_trace:
        state.trace.append(evaluation.p.astype(np.float16))
        state.predicted.append(evaluation.predicted.astype(np.int16))


def diverged_batch(seed: int, iteration: int, task: Task, solver: Solver) -> list[int]:
    """Return the positions, from 0 to n - 1, of the training examples in the step that made a network diverge.

    Since the inputs are finite, logits that are not finite before a step are caused by the preceding step.
    """
    batches = task.batches([seed], solver, torch.device("cpu"))
    return [int(position) for position in batches.indices(max(iteration - 1, 0))[0]]
