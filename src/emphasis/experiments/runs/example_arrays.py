"""What a trained network makes of its training examples: likely classes, and features by which neighbors are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from emphasis.models.stacked import StackedMLP
from emphasis.review.examples import likeliest_classes, narrow_features
from emphasis.training.evaluation import examples_at_once
from emphasis.training.loop import State
from emphasis.training.task import Task


@torch.no_grad()
def describe_examples(state: State, task: Task) -> dict[str, NDArray[Any]]:
    """Return `top_classes` and `top_probabilities` (n, K) and `features` (n, D) of the examples that were evaluated.

    Args:
        state: The state of one network; nothing is returned if it diverged.
        task: Its data, with one seed.
    """
    if bool((state.diverged_at >= 0).any()):
        return {}
    was_training = state.module.training
    state.module.eval()
    classes, probabilities, features = [], [], []
    parts = torch.split(task.eval_indices, examples_at_once(task, 1))
    for batch in task.fetch(part.unsqueeze(0) for part in parts):
        logits, seen = _logits_and_features(state.module, task.prepared(batch.inputs))
        top, p = likeliest_classes(logits.float().softmax(1).cpu().numpy())
        classes.append(top)
        probabilities.append(p)
        features.append(seen.float().cpu().numpy())
    state.module.train(was_training)
    return {
        "top_classes": np.concatenate(classes),
        "top_probabilities": np.concatenate(probabilities),
        "features": narrow_features(np.concatenate(features)),
    }


def _logits_and_features(module: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (B, C) of a stack of one network, and the input (B, D) of its last layer.

    A method may hold several networks, of which an evaluation runs one, so the last layer is the linear layer that was
    called last. Logits stand in for the features of a network without linear layers.
    """
    for part in module.modules():
        if isinstance(part, StackedMLP):
            return module(inputs)[0], part.features(inputs)[0]
    seen: list[Tensor] = []

    def keep(_layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen[:] = given[:1]

    hooks = [part.register_forward_pre_hook(keep) for part in module.modules() if isinstance(part, nn.Linear)]
    try:
        logits: Tensor = module(inputs)[0]
    finally:
        for hook in hooks:
            hook.remove()
    return logits, (seen[0] if seen else logits).flatten(1)
