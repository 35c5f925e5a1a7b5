import importlib.util
import pickle
import re
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")),
    reason="needs the extra transformers",
)

VOCABULARY, CLASSES, ROWS, LENGTH = 40, 4, 24, 10
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


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


def trained(task, folder, loss, accumulation, batch, callbacks=(), resume=None, **options):
    from transformers import Trainer, TrainingArguments

    model = make(task)
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=batch,
        learning_rate=0.1,
        gradient_accumulation_steps=accumulation,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        logging_strategy="no",
        **{"save_strategy": "no", **options},
    )
    trainer = Trainer(model, arguments, train_dataset=rows(task), compute_loss_func=loss, callbacks=list(callbacks))
    trainer.train(resume_from_checkpoint=resume)
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


@pytest.mark.parametrize("task", ["classes", "causal"])
def test_sample_weights_of_0_and_1_are_labels_that_are_ignored_or_not(task):
    from emphasis import DM
    from emphasis.huggingface import compute_loss_func

    loss = compute_loss_func(DM(lam=0.5, beta=4))
    tokens, labels = (torch.stack([row[name] for row in rows(task)]) for name in ("input_ids", "labels"))
    kept = torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.5
    outputs = make(task)(tokens)
    weighted = loss(outputs, labels, 100, sample_weight=kept.float())
    torch.testing.assert_close(weighted, loss(outputs, torch.where(kept, labels, -100), 100))
    torch.testing.assert_close(2 * weighted, loss(outputs, labels, 100, sample_weight=2.0 * kept))
    assert abs(weighted - loss(outputs, labels, 100)) > 0.01


@pytest.mark.filterwarnings("ignore")
def test_a_warm_up_lasts_a_fifth_of_the_steps_and_goes_on_after_an_interruption(tmp_path):
    from transformers import TrainerCallback

    from emphasis import CCE, Relative
    from emphasis.huggingface import WarmUp, compute_loss_func

    class Watch(TrainerCallback):
        def __init__(self, loss_func):
            self.loss_func, self.seen = loss_func, []

        def on_substep_end(self, *_, **__):  # in the middle of a step of two batches
            self.seen.append(self.loss_func.args[0].weighting)

    def run(resume=None):
        loss_func = compute_loss_func()
        watch = Watch(loss_func)
        options = {"max_steps": 10, "save_strategy": "steps", "save_steps": 1}
        found = trained("classes", tmp_path, loss_func, 2, 6, [WarmUp(loss_func), watch], resume, **options)
        return found, watch.seen

    whole, seen = run()
    assert seen == [Relative(q=0.0, doubt=0.2)] * 2 + [Relative(q=1.0, doubt=0.0)] * 8
    resumed, rest = run(str(tmp_path / "checkpoint-1"))
    assert rest == seen[1:]
    torch.testing.assert_close(resumed, whole, rtol=0.0, atol=0.0)

    loss_func = compute_loss_func(CCE())
    WarmUp(loss_func).on_step_begin(None, type("State", (), {"global_step": 0, "max_steps": 10}), None)
    assert loss_func.args[0].weighting == CCE()  # other weightings have no warm-up unless one is given
    with pytest.raises(TypeError, match="compute_loss_func"):
        WarmUp(lambda outputs, labels: 0.0)


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


TEXT = {"vocab_size": VOCABULARY, "num_attention_heads": 2, "num_hidden_layers": 1, "hidden_size": 16}
VISION = {**TEXT, "intermediate_size": 32, "image_size": 8, "patch_size": 4}
OPT = {**TEXT, "model_type": "opt", "ffn_dim": 32, "word_embed_proj_dim": 16}
T5 = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 8,
    "d_ff": 32,
    "num_layers": 1,
    "num_heads": 2,
}
GPT2 = {"vocab_size": VOCABULARY, "n_embd": 16, "n_layer": 1, "n_head": 2}
BART = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "decoder_layers": 1,
    "decoder_ffn_dim": 32,
    "decoder_attention_heads": 2,
}
KOSMOS = {"vocab_size": VOCABULARY, "embed_dim": 16, "layers": 1, "ffn_dim": 32, "attention_heads": 2}
PATCHES = {**TEXT, "intermediate_size": 32, "head_dim": 8, "patch_embed_hidden_size": 12, "patch_size": 2}
XLNET = {"vocab_size": VOCABULARY, "d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "num_labels": CLASSES}
QFORMER = {**TEXT, "intermediate_size": 32, "encoder_hidden_size": 16, "cross_attention_frequency": 1}
IMAGE = VOCABULARY - 1  # the token whose place an image takes


def blip(language, **options):
    return {
        "vision_config": VISION,
        "qformer_config": QFORMER,
        "text_config": language,
        "num_query_tokens": 2,
        "image_token_index": IMAGE,
        **options,
    }


# Model, configuration, its settings, and `causal`: None where the output's name says it.
OWN = {
    "Llama": ("LlamaForCausalLM", "LlamaConfig", SMALL, None),
    "Mamba": ("MambaForCausalLM", "MambaConfig", {**TEXT, "state_size": 4}, None),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", GPT2, True),
    "decoder of BART": ("BartForCausalLM", "BartConfig", BART, False),
    "BERT, tokens": ("BertForTokenClassification", "BertConfig", {**SMALL, "num_labels": CLASSES}, None),
    "BERT, classes": ("BertForSequenceClassification", "BertConfig", {**SMALL, "num_labels": CLASSES}, None),
    "BERT, masked": ("BertForMaskedLM", "BertConfig", SMALL, None),
    "XLNet, tokens": ("XLNetForTokenClassification", "XLNetConfig", XLNET, None),
    "T5": ("T5ForConditionalGeneration", "T5Config", T5, None),
    "BLIP-2, OPT": ("Blip2ForConditionalGeneration", "Blip2Config", blip(OPT), None),
    "BLIP-2, T5": ("Blip2ForConditionalGeneration", "Blip2Config", blip(T5), None),
    "InstructBLIP, OPT": ("InstructBlipForConditionalGeneration", "InstructBlipConfig", blip(OPT), None),
    "Kosmos-2": (
        "Kosmos2ForConditionalGeneration",
        "Kosmos2Config",
        {"text_config": KOSMOS, "vision_config": VISION, "latent_query_num": 2},
        None,
    ),
    "Kosmos-2.5": (
        "Kosmos2_5ForConditionalGeneration",
        "Kosmos2_5Config",
        {"text_config": KOSMOS, "vision_config": PATCHES, "latent_query_num": 2},
        None,
    ),
}


def model_and_inputs(name):
    """A tiny model with random weights, what it takes, and labels of which some are -100."""
    import transformers

    kind, config, settings, causal = OWN[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()
    tokens = torch.randint(5, VOCABULARY - 2, (3, 8))
    labels = torch.randint(CLASSES, (3, 8)) if "tokens" in name else tokens.clone()
    labels[0, 6:] = -100
    labels[:, :2] = -100
    inputs = {"input_ids": tokens}
    if "classes" in name:
        labels = torch.randint(CLASSES, (3,))
    if "BLIP" in name:
        tokens[:, :2] = IMAGE
        inputs["pixel_values"] = torch.randn(3, 3, 8, 8)
    if "Instruct" in name:
        inputs["qformer_input_ids"] = tokens[:, 2:]
    if "Kosmos" in name:
        inputs["image_embeds_position_mask"] = (torch.arange(8) < 2).long().expand(3, -1)
        if name == "Kosmos-2":
            inputs["pixel_values"] = torch.randn(3, 3, 8, 8)
        else:  # each patch behind its row and column
            places = torch.cartesian_prod(torch.arange(1.0, 3.0), torch.arange(1.0, 3.0)).expand(3, -1, -1)
            inputs["flattened_patches"] = torch.cat((places, torch.rand(3, 4, 12)), 2)
    if "T5" in name:
        inputs["decoder_input_ids"] = torch.cat((torch.zeros(3, 1, dtype=torch.long), labels[:, :-1].clamp(min=0)), 1)
    return model, inputs, labels, causal


@pytest.mark.parametrize("name", OWN)
def test_cce_is_the_models_own_loss(name):
    from emphasis import CCE
    from emphasis.huggingface import compute_loss_func

    model, inputs, labels, causal = model_and_inputs(name)
    own = model(**inputs, labels=labels).loss
    outputs = model(**inputs)
    if causal is not None:
        with pytest.raises(ValueError, match=f"a {type(outputs).__name__} does not say .*causal=True.* causal=False"):
            compute_loss_func(CCE())(outputs, labels)
    ours = compute_loss_func(CCE(), causal=causal)(outputs, labels)
    torch.testing.assert_close(ours, own)
    parameters = [p for p in model.parameters() if p.requires_grad]
    for loss in (ours, own):
        assert loss.requires_grad
    gradients = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, own))
    for of_ours, of_own in zip(*gradients, strict=True):
        assert (of_ours is None) == (of_own is None)
        if of_own is not None:
            torch.testing.assert_close(of_ours, of_own, rtol=0.0, atol=1e-4 * of_own.abs().max().item() + 1e-7)


def test_outputs_named_for_causal_models_are_of_such_alone():
    """By transformers' sources: who returns a kind taken to be causal shifts labels, who an aligned one does not."""
    import transformers

    from emphasis.huggingface import _ALIGNED, _CAUSAL

    causal, aligned, odd = 0, 0, set()
    for path in Path(transformers.__file__).parent.glob("models/*/modeling_*.py"):
        for text in re.split(r"\n(?=class |def )", path.read_text(encoding="utf-8")):
            name = re.match(r"class (\w+)", text)
            kinds = re.findall(r"return (\w+)\(", text)
            if name is None or "labels" not in text:
                continue
            shifts = re.search(r"self\.loss_function\(|labels\[(\.\.\.|:), 1:\]", text) is not None
            tells = re.search(r"shift_labels=labels|loss_type = .ForMaskedLM", text) is not None
            other = re.search(r"For(MaskedLM|TokenClassification)$", name[1]) is not None  # which `loss_function` knows
            if any(map(_CAUSAL.fullmatch, kinds)):
                causal += 1
                odd |= {name[1]} if tells or not shifts else set()
            if any(map(_ALIGNED.fullmatch, kinds)):
                aligned += 1
                odd |= {name[1]} if shifts and not (tells or other or "shift_labels=" in text) else set()
    assert causal > 50
    assert aligned > 50
    # Kosmos leaves it to the language model in it, Bark and PI0 have no labels of tokens, Moshi's is part of another.
    odd -= {"Kosmos2ForConditionalGeneration", "Kosmos2_5ForConditionalGeneration", "BarkCausalModel"}
    odd -= {"PI0ForConditionalGeneration", "MoshiDepthDecoder"}
    assert odd <= {"CpmAntForCausalLM"}


@pytest.mark.parametrize("normalization", ["integral", "batch", None])
def test_no_labels_to_count_are_a_loss_of_zero_with_a_graph(normalization):
    from transformers.modeling_outputs import CausalLMOutputWithPast

    from emphasis import DM
    from emphasis.huggingface import compute_loss_func

    loss = compute_loss_func(DM(lam=0.5, beta=4), normalization=normalization)
    for labels in (torch.full((2, 3), -100), torch.tensor([[1, -100, -100], [2, -100, -100]])):
        for items in (None, 0, torch.tensor(0), torch.tensor(0.0)):
            logits = torch.randn(2, 3, 4, requires_grad=True)
            value = loss(CausalLMOutputWithPast(logits=logits), labels, items)
            value.backward()
            assert value.item() == 0.0
            assert not logits.grad.any()
    half = torch.tensor(0.5)  # the Trainer's count over the devices of a tensor-parallel model
    outputs = CausalLMOutputWithPast(logits=torch.randn(2, 3, 4))
    torch.testing.assert_close(
        loss(outputs, torch.ones(2, 3).long(), half), 2 * loss(outputs, torch.ones(2, 3).long(), 1)
    )


def test_what_an_output_is_of_is_read_or_asked_for():
    from transformers import modeling_outputs
    from transformers.modeling_outputs import CausalLMOutputWithPast, SequenceClassifierOutput, TokenClassifierOutput

    from emphasis.huggingface import compute_loss_func
    from emphasis.torch import emphasis_loss

    class OfMine(CausalLMOutputWithPast):
        pass

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
    classes, of_class = SequenceClassifierOutput(logits=logits[:, 0]), emphasis_loss(logits[:, 0], labels[:, 0], "GCE")
    torch.testing.assert_close(loss(classes, labels[:, 0]), of_class)
    torch.testing.assert_close(loss(classes, labels[:, :1]), of_class)
    ambiguous = ("CausalLMOutput", "CausalLMOutputWithCrossAttentions", "SequenceClassifierOutput")
    for kind in (*ambiguous, "SemanticSegmenterOutput"):
        with pytest.raises(ValueError, match=f"a {kind} does not say"):
            loss(getattr(modeling_outputs, kind)(logits=logits), labels)
    torch.testing.assert_close(loss(OfMine(logits=logits), labels), shifted)
    with pytest.raises(
        ValueError, match=r"logits of shape \(3, 5, 4\), .* need integer labels of shape \(3, 5\); got "
    ):
        loss(TokenClassifierOutput(logits=logits), labels[:, 1:])
    with pytest.raises(ValueError, match=r"need integer labels of shape \(3,\); got torch.float32 of shape \(3, 4\)"):
        loss(classes, torch.rand(3, 4))
    with pytest.raises(ValueError, match="no 'logits', only 'loss'"):
        loss(TokenClassifierOutput(loss=torch.ones(())), labels)
