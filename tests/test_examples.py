import bz2
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from emphasis import CCE, DM, MAE
from emphasis.torch import emphasis_loss
from forked import Program, succeed_together

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LANGUAGE_MODEL = EXAMPLES / "language_model.py"
needs_transformers = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")),
    reason="needs the extra transformers",
)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("language_model", LANGUAGE_MODEL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture
def model(example):
    size = example.Size(length=12, hidden=32, layers=1)
    return example.make_model(50, size).eval()


def batch(rows=6, length=12):
    """Tokens, and labels of which rows end in more and more padding."""
    draw = torch.Generator().manual_seed(1)
    tokens, labels = torch.randint(50, (2, rows, length), generator=draw)
    for row in range(rows):
        labels[row, length - row :] = -100
    return tokens, labels


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


def write_reviews(folder, each=190):
    """A compact file of made-up reviews, all different."""
    draw = np.random.default_rng(0)
    words = ["the", "a", "film", "plot", "was", "is", "and", "not", "good", "bad", "of", "in", "it<br />", "never"]
    rows = [
        {"split": split, "label": label, "text": f"Film {i}: " + " ".join(draw.choice(words, 60))}
        for split in ("train", "test")
        for label in (1, 0)
        for i in range(each)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "imdb.jsonl.bz2").write_bytes(bz2.compress(lines.encode()))


@pytest.mark.parametrize(("normalization", "factor"), [(None, 1.0), ("integral", 3.0)])
def test_mae_has_the_derivative_of_dynamic_fine_tuning(normalization, factor):
    draw = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(200, 30, generator=draw, dtype=torch.float64)).requires_grad_()
    labels = torch.randint(30, (200,), generator=draw)
    labels[::7] = -100

    cost = F.cross_entropy(logits, labels, reduction="none")
    p = torch.exp(-cost.detach())
    (expected,) = torch.autograd.grad((p * cost)[labels != -100].mean(), logits)
    (got,) = torch.autograd.grad(emphasis_loss(logits, labels, MAE(), normalization=normalization), logits)
    torch.testing.assert_close(got, factor * expected, rtol=1e-9, atol=1e-12)


@needs_transformers
@pytest.mark.parametrize("count", [None, 57, torch.tensor(57)])
def test_cce_is_the_models_own_loss(example, model, count):
    tokens, labels = batch()
    own = model(input_ids=tokens, labels=labels, num_items_in_batch=count).loss
    loss = example.compute_loss_func(CCE())(model(input_ids=tokens), labels, num_items_in_batch=count)
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(model, loss), gradients(model, own), rtol=1e-5, atol=1e-6)


@needs_transformers
@pytest.mark.parametrize("weighting", [CCE(), MAE(), DM(lam=0.5, beta=4), DM(lam=0.1, beta=4, vanishing=True)])
def test_padding_and_the_first_token_are_no_targets(example, model, weighting):
    tokens, labels = batch()
    loss = example.compute_loss_func(weighting)
    other = labels.clone()
    other[:, 0] = 0
    count = (labels[:, 1:] != -100).sum()
    by_count = loss(model(input_ids=tokens), labels, num_items_in_batch=count)
    torch.testing.assert_close(by_count, loss(model(input_ids=tokens), labels))
    torch.testing.assert_close(by_count, loss(model(input_ids=tokens), other))


@needs_transformers
@pytest.mark.parametrize("weighting", [CCE(), DM(lam=0.5, beta=4)])
def test_gradients_accumulated_over_uneven_batches_are_those_of_one_batch(example, tmp_path, monkeypatch, weighting):
    from transformers import Trainer, TrainingArguments

    # tests/datasets, which conftest.py puts on the path, passes for the package of that name.
    monkeypatch.setattr("transformers.trainer.is_datasets_available", lambda: False)
    tokens, labels = batch(rows=8)
    rows = [{"input_ids": row, "labels": own} for row, own in zip(tokens, labels, strict=True)]
    results = []
    for parts in (1, 2, 4):
        model = example.make_model(50, example.Size(length=12, hidden=32, layers=1))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=8 // parts,
            gradient_accumulation_steps=parts,
            max_steps=1,
            learning_rate=1.0,
            max_grad_norm=0.0,
            lr_scheduler_type="constant",
            optim="sgd",  # its step is the gradient
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            use_cpu=True,
        )
        loss = example.compute_loss_func(weighting)
        before = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        Trainer(model=model, args=arguments, train_dataset=rows, compute_loss_func=loss).train()
        results.append(before - torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    whole, *accumulated = results
    assert whole.abs().max() > 1e-3
    for result in accumulated:
        torch.testing.assert_close(result, whole, rtol=1e-6, atol=1e-6)


@needs_transformers
def test_corrupted_targets_are_other_tokens_and_padding_stays(example):
    tokens = torch.randint(40, (50, 20), generator=torch.Generator().manual_seed(0))
    tokens[:, 15:] = -100
    noisy = example.corrupt(tokens, 40, seed=3)
    assert torch.equal(noisy == -100, tokens == -100)
    assert (noisy != tokens).sum().item() == pytest.approx(0.3 * 50 * 15, abs=1)
    assert noisy.max() < 40


@needs_transformers
def test_the_language_model_runs_and_shows_every_method(tmp_path):
    write_reviews(tmp_path)
    out = tmp_path / "rows.jsonl"
    command = [
        sys.executable,
        "-W",
        "error",
        str(LANGUAGE_MODEL),
        "--quick",
        "--data",
        str(tmp_path),
        "--out",
        str(out),
    ]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    shown = {line[:20].strip(): int(line[20:23]) for line in result.stdout.splitlines()[1:-1]}
    assert shown == {
        "before fine-tuning": 1,
        "CCE, clean targets": 2,
        "CCE": 2,
        "MAE (DFT)": 2,
        "DM 0.5/4": 2,
        "DM 0.1/4": 2,
        "DM 0.1/4 vanishing": 2,
    }
    assert len(rows) == sum(shown.values())
    assert all(1 < row["perplexity"] < 512 and 0 <= row["accuracy"] <= 100 for row in rows)


@needs_transformers
def test_without_reviews_the_language_model_says_what_to_do(example, tmp_path, capsys):
    with pytest.raises(SystemExit):
        example.main(["--data", str(tmp_path)])
    assert "--download" in capsys.readouterr().err


def test_the_distributed_loop_ends_the_same_in_one_process_and_in_two(tmp_path):
    script = [EXAMPLES / "distributed_loop.py", "--steps", "20", "--save"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    alone = Program(*script, tmp_path / "alone")
    two = subprocess.run(
        [sys.executable, *torchrun, *script, tmp_path / "two", "--wrap", "fsdp", "--accumulate", "3"],
        capture_output=True,
        text=True,
    )
    assert two.returncode == 0, two.stderr
    assert two.stdout.startswith("2 processes, fsdp, 3 calls a step: ")
    succeed_together([alone])
    ours, theirs = torch.load(tmp_path / "two"), torch.load(tmp_path / "alone")
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0.0, atol=1e-6)
