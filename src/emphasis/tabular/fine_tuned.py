"""A pretrained encoder of texts that is trained further with the loss, by the Trainer of Hugging Face."""

from __future__ import annotations

import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emphasis.datasets.text_encoder import BATCH, load_classifier, load_tokenizer, silent_loading
from emphasis.errors import EmphasisError, EmphasisTypeError, EmphasisValueError
from emphasis.extras import missing_extra, require_modules
from emphasis.process import stop_if_asked
from emphasis.texts import did_you_mean
from emphasis.weighting import Weighting

SETTINGS: Mapping[str, Any] = {
    "learning_rate": 2e-5,
    "epochs": 3,
    "max_steps": 0,
    "batch_size": 16,
    "weight_decay": 0.01,
    "max_tokens": 256,
}
"""Settings with their default values. Training ends after `epochs`, or after `max_steps` steps if these are not 0."""
_WARM_UP = 0.06  # share of the steps in which the learning rate rises
_WHOLE = {"max_steps": 0, "batch_size": 1, "max_tokens": 2}  # smallest values
_MOST = 2**31
Step = Callable[[int, int], None]


def check_request(settings: Mapping[str, Any], encoder: str) -> None:
    """Check what a fit that trains an encoder needs, before anything is read.

    Raises:
        EmphasisValueError: A setting is not allowed, or no encoder is named.
        ModuleNotFoundError: The extra "transformers" is not installed.
    """
    check_settings(settings)
    if not encoder:
        raise EmphasisValueError(
            'a fit that trains an encoder of texts (--fine-tune, model="fine-tuned") needs one: name its folder, or '
            "its name in the local cache of Hugging Face (--encoder, encoder=...)"
        )
    try:
        require_modules("torch", "transformers", "accelerate")
    except ModuleNotFoundError as error:
        raise missing_extra("fine-tuning", "transformers", error) from None


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise EmphasisValueError unless all settings exist and have allowed values."""
    for name, value in settings.items():
        if name not in SETTINGS:
            raise EmphasisValueError(
                f"settings (--set): the fine-tuning of an encoder has no setting {name!r}"
                f"{did_you_mean(name, SETTINGS)}; it has {', '.join(SETTINGS)}"
            )
        number = value if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
        if name in _WHOLE:
            is_allowed, allowed = number in range(_WHOLE[name], _MOST), f"a whole number >= {_WHOLE[name]}"
        elif name == "weight_decay":
            is_allowed, allowed = 0 <= number <= sys.float_info.max, "a finite number >= 0"
        else:
            is_allowed, allowed = 0 < number <= sys.float_info.max, "a finite number > 0"
        if not is_allowed:
            raise EmphasisValueError(f"settings (--set): {name}={value!r} is not allowed; use {allowed}")


class FineTunedClassifier:
    """An encoder with a layer for classes, both trained; its features are the tokens of a `TokenColumn`.

    Args:
        weighting: Weighting of the loss.
        seed: Seed of the layer, of the order of the texts and of dropout.
        encoder: Folder of the encoder.
        classes: Names of the C classes.
        on_step: Called as `on_step(step, steps)` after each step.
        settings: See `SETTINGS`.
    """

    def __init__(
        self,
        weighting: Weighting,
        seed: int,
        *,
        encoder: str,
        classes: Sequence[str],
        on_step: Step = lambda *_: None,
        **settings: Any,
    ) -> None:
        check_settings(settings)
        self.weighting, self.seed, self.encoder = weighting, seed, Path(encoder)
        self.classes, self.on_step = tuple(classes), on_step
        self.settings = {**SETTINGS, **settings}

    def fit(
        self, features: NDArray[np.float32], labels: NDArray[np.int64], sample_weight: NDArray[np.float64] | None = None
    ) -> FineTunedClassifier:
        """Train the network on tokens (N, L) and classes (N,), with weights (N,) in proportion to their mean.

        Raises:
            EmphasisValueError: The training diverges.
        """
        import torch

        weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        with _own_random_numbers(), silent_loading():
            torch.manual_seed(self.seed)
            network = load_classifier(self.encoder, self.classes)
            with tempfile.TemporaryDirectory() as folder:
                self._trainer(network, features, labels, weights / (weights.mean() or 1.0), folder).train()
        if not all(bool(values.isfinite().all()) for values in network.parameters()):
            raise EmphasisValueError(
                f"training diverges at learning_rate={self.settings['learning_rate']}; use a smaller one "
                "(--set learning_rate=..., settings)"
            )
        self.network_ = network.eval()
        return self

    def predict_proba(self, features: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the probabilities (N, C) of texts given by their tokens (N, L)."""
        return probabilities(self.network_, features)

    def save(self, folder: Path) -> None:
        """Write the network and the tokenizer into a folder, in the format of Hugging Face."""
        with silent_loading():
            self.network_.save_pretrained(folder)
            load_tokenizer(self.encoder)[0].save_pretrained(folder)

    def _trainer(self, network: Any, features: Any, labels: Any, weights: Any, folder: str) -> Any:
        """Return the Trainer, which writes nothing into the temporary folder that it demands."""
        import torch
        from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

        from emphasis.huggingface import WarmUp, compute_loss_func

        on_step, settings = self.on_step, self.settings
        targets, factors = torch.from_numpy(np.asarray(labels)), torch.from_numpy(np.float32(weights))
        loss = compute_loss_func(self.weighting)

        def loss_of_rows(outputs: Any, rows: Any, num_items_in_batch: Any = None) -> Any:
            rows = rows.cpu()  # the Trainer passes one number for each text, which has to give class and weight
            return loss(outputs, targets[rows], num_items_in_batch, sample_weight=factors[rows])

        def batch_of(rows: Sequence[int]) -> dict[str, Any]:
            return {**inputs_of(features[rows], network.config), "labels": torch.tensor(rows)}

        class Reports(TrainerCallback):  # type: ignore[misc]  # transformers is not typed
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
                on_step(state.global_step, state.max_steps)
                stop_if_asked()

        steps = settings["max_steps"] or math.ceil(settings["epochs"] * math.ceil(len(labels) / settings["batch_size"]))

        trainer = Trainer(
            network,
            TrainingArguments(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=settings["batch_size"],
                learning_rate=settings["learning_rate"],
                weight_decay=settings["weight_decay"],
                warmup_steps=round(_WARM_UP * steps),
                seed=self.seed,
                save_strategy="no",
                logging_strategy="no",
                report_to="none",
                disable_tqdm=True,
                remove_unused_columns=False,
                dataloader_pin_memory=torch.cuda.is_available(),
            ),
            train_dataset=list(range(len(labels))),
            data_collator=batch_of,
            compute_loss_func=loss_of_rows,
            callbacks=[WarmUp(loss), Reports()],
        )
        trainer.remove_callback(PrinterCallback)
        return trainer


def inputs_of(features: NDArray[np.float32], config: Any) -> dict[str, Any]:
    """Return the inputs of a network for tokens (n, L) that are followed by negative numbers."""
    import torch

    is_token = features >= 0.0
    longest = max(int(is_token.sum(axis=1).max(initial=0)), 1)
    tokens = np.where(is_token, features, getattr(config, "pad_token_id", None) or 0)[:, :longest]
    return {
        "input_ids": torch.from_numpy(tokens.astype(np.int64)),
        "attention_mask": torch.from_numpy(is_token[:, :longest].astype(np.int64)),
    }


def probabilities(network: Any, features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probabilities (N, C) of a network for tokens (N, L).

    Raises:
        EmphasisError: The network returns NaN or infinite numbers.
    """
    import torch

    device = next(network.parameters()).device
    order = np.argsort(-(features >= 0.0).sum(axis=1), kind="stable")  # texts of about one length in each batch
    p = np.empty((len(features), network.config.num_labels))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = {name: values.to(device) for name, values in inputs_of(features[rows], network.config).items()}
        with torch.inference_mode():
            p[rows] = network(**inputs).logits.double().softmax(1).cpu().numpy()
        stop_if_asked()
    if not np.isfinite(p).all():
        raise EmphasisError("the fine-tuned encoder returns NaN or infinite numbers")
    return p


def load_predictor(folder: Path, classes: int) -> Callable[[Any], Any]:
    """Return the function from tokens (N, L) to probabilities (N, C) of a saved classifier.

    Raises:
        DamagedFileError: The folder cannot be read.
        EmphasisTypeError: It has another number of classes.
    """
    import torch

    network = load_classifier(folder)
    if network.config.num_labels != classes:
        raise EmphasisTypeError(f"{folder} has {network.config.num_labels} classes, not {classes}")
    network = network.eval().to("cuda" if torch.cuda.is_available() else "cpu")
    return lambda features: probabilities(network, features)


@contextmanager
def _own_random_numbers() -> Iterator[None]:
    """Restore the global generators, all of which the Trainer seeds."""
    import torch

    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002
