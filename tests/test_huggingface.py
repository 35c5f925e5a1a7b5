import importlib.util
import pickle

import pytest
import torch

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")),
    reason="needs the extra transformers",
)

VOCABULARY, CLASSES, ROWS, LENGTH = 40, 4, 24, 10
SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
    "num_attention_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def make(task):
    """A tiny model of a task with random weights, without dropout."""
    import transformers

    torch.manual_seed(0)
    if task == "causal":
        return transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, tie_word_embeddings=False))
    config = transformers.BertConfig(
        **SMALL, num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    kind = {"classes": "BertForSequenceClassification", "tokens": "BertForTokenClassification"}[task]
    return getattr(transformers, kind)(config)


def rows(task):
    """Examples of a task, tokens with ever more padding."""
    draw = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=draw)
    if task == "classes":
        labels = torch.randint(CLASSES, (ROWS,), generator=draw)
    else:
        labels = torch.randint(CLASSES, (ROWS, LENGTH), generator=draw) if task == "tokens" else tokens.clone()
        for row in range(ROWS):
            labels[row, LENGTH - row % 7 :] = -100
    return [{"input_ids": x, "labels": y} for x, y in zip(tokens, labels, strict=True)]


@pytest.fixture(autouse=True)
def _only_transformers(monkeypatch):
    # tests/datasets passes for Hugging Face's package of that name.
    import transformers.trainer

    monkeypatch.setattr(transformers.trainer, "is_datasets_available", lambda: False)


def trained(task, folder, loss, accumulation, batch):
    from transformers import Trainer, TrainingArguments

    model = make(task)
    arguments = TrainingArguments(
        output_dir=str(folder), num_train_epochs=2, per_device_train_batch_size=batch, learning_rate=0.1,
        gradient_accumulation_steps=accumulation, optim="sgd", lr_scheduler_type="constant", max_grad_norm=0.0,
        report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=True, seed=3, logging_strategy="no",
    )  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=rows(task), compute_loss_func=loss)
    trainer.train()
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.filterwarnings("ignore")  # torch's and accelerate's own, of pinned memory and the like
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("task", ["classes", "tokens", "causal"])
def test_cce_trains_as_transformers_own_loss(task, accumulation, tmp_path):
    """Of large batches: under accumulation BERT's own loss leaves out to divide by the number of labels."""
    from emphasis import CCE
    from emphasis.huggingface import compute_loss_func

    own = trained(task, tmp_path, None, 1, 4 * accumulation)
    ours = trained(task, tmp_path, compute_loss_func(CCE()), accumulation, 4)
    torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["classes", "tokens", "causal"])
def test_batches_added_up_are_one_large_batch(task, tmp_path):
    from emphasis import DM
    from emphasis.huggingface import compute_loss_func

    loss = compute_loss_func(DM(lam=0.5, beta=4))
    small, large = (trained(task, tmp_path, loss, *sizes) for sizes in ((3, 4), (1, 12)))
    torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalization", ["integral", "batch", None])
def test_without_a_count_it_is_the_mean(normalization):
    from transformers.modeling_outputs import TokenClassifierOutput

    from emphasis import GCE
    from emphasis.huggingface import compute_loss_func
    from emphasis.torch import emphasis_loss

    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 4, generator=draw), torch.randint(4, (3, 5), generator=draw)
    labels[0, 2:] = -100
    loss = compute_loss_func(GCE(0.7), normalization=normalization, class_weight=[1.0, 1.0, 1.0, 1.0])
    expected = emphasis_loss(logits.flatten(0, 1), labels.flatten(), GCE(0.7), normalization=normalization)
    torch.testing.assert_close(loss(TokenClassifierOutput(logits=logits), labels), expected)
    torch.testing.assert_close(
        pickle.loads(pickle.dumps(loss))(TokenClassifierOutput(logits=logits), labels, 24), expected * 12 / 24
    )


def test_what_an_output_is_of_is_read_or_asked_for():
    from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput

    from emphasis.huggingface import compute_loss_func
    from emphasis.torch import emphasis_loss

    draw = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 5, 4, generator=draw), torch.randint(4, (3, 5), generator=draw)
    shifted = emphasis_loss(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), "GCE")
    straight = emphasis_loss(logits.flatten(0, 1), labels.flatten(), "GCE")
    loss = compute_loss_func("GCE")
    torch.testing.assert_close(loss(CausalLMOutputWithPast(logits=logits), labels), shifted)
    torch.testing.assert_close(compute_loss_func("GCE", causal=False)({"logits": logits}, labels), straight)
    torch.testing.assert_close(compute_loss_func("GCE", causal=True)((logits,), labels), shifted)
    with pytest.raises(ValueError, match="causal=True"):
        loss({"logits": logits}, labels)
    with pytest.raises(ValueError, match="no 'labels'"):
        loss({"logits": logits}, None)
    classes = SequenceClassifierOutput(logits=logits[:, 0])
    torch.testing.assert_close(loss(classes, labels[:, 0]), emphasis_loss(logits[:, 0], labels[:, 0], "GCE"))
