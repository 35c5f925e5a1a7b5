"""DM per token for language models: python examples/language_model.py --data DIR (needs the extra transformers).

A small causal language model learns from clean movie reviews (IMDB), and is then fine-tuned on other reviews, 30 % of
whose training targets are wrong: the model reads the clean text, but where it should learn the next token it is given,
with probability 0.3, a token drawn at random from all others. So every token is an example of a classification problem
whose classes are the vocabulary. The fine-tuning starts from the same weights with every loss:

- CCE, which is transformers' own loss for causal models,
- MAE, w = 2 p (1-p): its derivative is that of `p.detach() * cross_entropy`, known as dynamic fine-tuning (DFT); by
  the "integral" normalization three times that, which Adam does not notice,
- DM, w = exp(beta p^lam (1-p)), and the form that vanishes at p = 1.

What to copy is the line with `compute_loss_func`: it makes what `transformers.Trainer` takes under that name from any
weighting.

The table has perplexity and accuracy of the next token on clean reviews of the test part; the accuracy against targets
corrupted like the training ones, on reviews held out from it, which is all that one has to choose settings by
(`--choose`); and, at the wrong targets of the training set, how often the model predicts the token that stood there
in truth, and how often it has memorized the wrong one. The vocabulary is made on the spot and the model from a
configuration: nothing is downloaded, other than the reviews if you say `--download`.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from emphasis import CCE, DM, MAE
from emphasis.corruption import symmetric
from emphasis.datasets import DataError, data_root, load_reviews
from emphasis.huggingface import IGNORED, compute_loss_func
from emphasis.weighting import WeightingLike

NOISE_RATE = 0.3
BATCH = 16


METHODS: dict[str, WeightingLike] = {
    "CCE": CCE(),
    "MAE (DFT)": MAE(),
    "DM 0.5/4": DM(lam=0.5, beta=4),
    "DM 0.1/4": DM(lam=0.1, beta=4),
    "DM 0.1/4 vanishing": DM(lam=0.1, beta=4, vanishing=True),
}
# What --choose compares. Most true tokens have a p far below the 1/3 that lam = 0.5 emphasizes: smaller lam are there.
CANDIDATES: dict[str, WeightingLike] = {
    f"DM {lam:g}/{beta:g}{' vanishing' * vanishing}": DM(lam=lam, beta=beta, vanishing=vanishing)
    for vanishing in (False, True)
    for lam, beta in ((0.5, 2), (0.5, 4), (0.5, 8), (0.1, 4), (0.1, 8))
}


@dataclass(frozen=True)
class Size:
    """How much text, how large a model, how long a training."""

    pretraining_reviews: int = 8000
    training_reviews: int = 1500
    held_out_reviews: int = 500
    length: int = 64
    vocabulary: int = 4096
    hidden: int = 128
    layers: int = 2
    pretraining_epochs: int = 1
    epochs: int = 2
    seeds: int = 3


QUICK = Size(
    pretraining_reviews=256,
    training_reviews=48,
    held_out_reviews=48,
    length=32,
    vocabulary=512,
    hidden=32,
    layers=1,
    epochs=2,
    seeds=2,
)


def make_tokenizer(texts: Iterable[str], size: Size) -> Tokenizer:
    """Return a byte-level BPE tokenizer trained on `texts`, which cuts and pads to `size.length` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size.vocabulary,
        special_tokens=["<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.enable_truncation(size.length)
    tokenizer.enable_padding(length=size.length, pad_token="<pad>", pad_id=tokenizer.token_to_id("<pad>"))
    return tokenizer


def encode(tokenizer: Tokenizer, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Return tokens and labels, (N, length) each: the same but where there is padding.

    Padding stands on the right, where a causal model never looks back at it: no attention mask is needed.
    """
    rows = tokenizer.encode_batch(texts)
    tokens = torch.tensor([row.ids for row in rows])
    padding = torch.tensor([row.attention_mask for row in rows]) == 0
    return tokens, tokens.masked_fill(padding, IGNORED)


def corrupt(labels: Tensor, vocabulary: int, seed: int) -> Tensor:
    """Return labels of which 30 % are any other token of the vocabulary, all alike."""
    noisy, valid = labels.clone(), labels != IGNORED
    corruption = symmetric(labels[valid], NOISE_RATE, num_classes=vocabulary, seed=seed)
    noisy[valid] = torch.from_numpy(corruption.labels)
    return noisy


def make_model(vocabulary: int, size: Size) -> LlamaForCausalLM:
    """Return a small Llama with random weights."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.hidden * 8 // 3,
        num_hidden_layers=size.layers,
        num_attention_heads=4,
        max_position_embeddings=size.length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return LlamaForCausalLM(config)


class Progress(TrainerCallback):
    """Moves one bar for all trainings on."""

    def __init__(self, bar: tqdm) -> None:
        self.bar = bar

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """One more step is done."""
        self.bar.update()


def train(
    model: LlamaForCausalLM,
    tokens: Tensor,
    labels: Tensor,
    weighting: WeightingLike,
    bar: tqdm,
    *,
    epochs: int,
    seed: int,
) -> float:
    """Train `model` in place by `Trainer` and return the seconds it took."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=3e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            seed=seed,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),  # it warns where there is nothing to pin for
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row, "labels": own} for row, own in zip(tokens, labels, strict=True)],
            compute_loss_func=compute_loss_func(weighting),
            callbacks=[Progress(bar)],
        )
        trainer.remove_callback(PrinterCallback)  # it prints a dictionary at the end of each training
        trainer.train()
    return time.perf_counter() - start


@torch.no_grad()
def predict(model: LlamaForCausalLM, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest next token, (N, length - 1), and -log p of the labels where they are not ignored, (M,)."""
    model.eval()
    likeliest, costs = [], []
    for inputs, targets in zip(tokens.split(32), labels[:, 1:].split(32), strict=True):
        logits = model(input_ids=inputs.to(model.device)).logits[:, :-1].float().cpu()
        likeliest.append(logits.argmax(-1))
        valid = targets != IGNORED
        costs.append(F.cross_entropy(logits[valid], targets[valid], reduction="none"))
    return torch.cat(likeliest), torch.cat(costs)


def agreement(predicted: Tensor, labels: Tensor, where: Tensor | None = None) -> float:
    """Return the share of labels, those not ignored and `where` it is true, that were predicted."""
    targets = labels[:, 1:]
    chosen = targets != IGNORED if where is None else where[:, 1:] & (targets != IGNORED)
    return (predicted == targets)[chosen].double().mean().item()


@dataclass(frozen=True)
class Texts:
    """Tokens and clean labels of each part, and the size of the vocabulary."""

    pretraining: tuple[Tensor, Tensor]
    training: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    vocabulary: int


def load_texts(data: str | None, download: bool, size: Size) -> Texts:
    """Return reviews, drawn at random but always the same, as tokens."""
    reviews = load_reviews(data_root(data), download=download)
    draw = np.random.default_rng(1)
    parts = []
    for texts, sizes in (
        (reviews.train_texts, (size.pretraining_reviews, size.training_reviews, size.held_out_reviews)),
        (reviews.test_texts, (size.held_out_reviews,)),
    ):
        order = iter(draw.permutation(len(texts)))
        # No token is longer than 16 characters on average, so that is enough of each.
        parts += [[texts[i].replace("<br />", "\n")[: 16 * size.length] for i in islice(order, n)] for n in sizes]
    tokenizer = make_tokenizer(parts[0], size)
    pretraining, training, validation, test = (encode(tokenizer, part) for part in parts)
    return Texts(pretraining, training, validation, test, tokenizer.get_vocab_size())


def measure(
    model: LlamaForCausalLM, texts: Texts, noisy_training: Tensor, noisy_validation: Tensor
) -> dict[str, float]:
    """Return what the table shows of one model, shares in percent."""
    predicted, costs = predict(model, *texts.test)
    on_validation, _ = predict(model, *texts.validation)
    some = slice(len(texts.test[0]))  # of the training reviews as many as of the others: enough, and fast
    tokens, clean, noisy = texts.training[0][some], texts.training[1][some], noisy_training[some]
    on_training, _ = predict(model, tokens, clean)
    wrong = noisy != clean
    return {
        "perplexity": costs.mean().exp().item(),
        "accuracy": 100 * agreement(predicted, texts.test[1]),
        "noisy validation": 100 * agreement(on_validation, noisy_validation),
        "true token": 100 * agreement(on_training, clean, wrong),
        "wrong token": 100 * agreement(on_training, noisy, wrong),
    }


def compare(texts: Texts, size: Size, methods: dict[str, WeightingLike], first_seed: int) -> list[dict[str, Any]]:
    """Pretrain once, fine-tune with each method and seed, and return a row for each model."""
    seeds = range(first_seed, first_seed + size.seeds)
    jobs: list[tuple[str, WeightingLike, bool]] = [("CCE, clean targets", CCE(), False)]
    jobs += [(name, weighting, True) for name, weighting in methods.items()]
    steps = size.epochs * -(-len(texts.training[0]) // BATCH) * len(jobs) * len(seeds)
    steps += size.pretraining_epochs * -(-len(texts.pretraining[0]) // BATCH)
    rows: list[dict[str, Any]] = []
    with tqdm(total=steps, disable=None, unit=" steps", desc="pretraining") as bar:
        start = make_model(texts.vocabulary, size)
        seconds = train(start, *texts.pretraining, CCE(), bar, epochs=size.pretraining_epochs, seed=0)
        for seed in seeds:
            noisy = corrupt(texts.training[1], texts.vocabulary, 2 * seed)
            noisy_validation = corrupt(texts.validation[1], texts.vocabulary, 2 * seed + 1)
            if seed == first_seed:
                measured = measure(start, texts, noisy, noisy_validation)
                rows.append({"method": "before fine-tuning", "seed": seed, **measured, "seconds": seconds})
            for name, weighting, use_noise in jobs:
                bar.set_description(f"{name}, seed {seed}")
                model = copy.deepcopy(start)
                labels = noisy if use_noise else texts.training[1]
                seconds = train(model, texts.training[0], labels, weighting, bar, epochs=size.epochs, seed=seed)
                measured = measure(model, texts, noisy, noisy_validation)
                rows.append({"method": name, "seed": seed, **measured, "seconds": seconds})
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """Return mean ± standard deviation over the seeds, a line per method."""
    columns = [key for key in rows[0] if key not in ("method", "seed")]
    lines = [f"{'':20} {'n':>2}" + "".join(f" {column:>17}" for column in columns)]
    for name in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == name]
        line = f"{name:20} {len(own):2}"
        for column in columns:
            values = [row[column] for row in own]
            digits = 2 if max(values) < 1000 else 0
            spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
            line += f" {f'{statistics.mean(values):.{digits}f}{spread}':>17}"
        lines.append(line)
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder with the IMDB reviews")
    parser.add_argument("--download", action="store_true", help="fetch them (84 MB) if they are not there")
    parser.add_argument("--quick", action="store_true", help="a tiny model, to see that it runs; no result")
    parser.add_argument("--choose", action="store_true", help="compare settings of DM, with other noise")
    parser.add_argument("--out", metavar="FILE", type=Path, help="write a line of JSON per model there as well")
    options = parser.parse_args(arguments)

    size = QUICK if options.quick else Size()
    start = time.perf_counter()
    try:
        texts = load_texts(options.data, options.download, size)
    except DataError as error:
        parser.error(str(error))
    if options.choose:
        rows = compare(texts, replace(size, seeds=1), CANDIDATES, first_seed=100)
    else:
        rows = compare(texts, size, METHODS, first_seed=0)
    print(table(rows))
    print(f"{time.perf_counter() - start:.0f} s on {torch.get_num_threads()} threads")
    if options.out:
        options.out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
