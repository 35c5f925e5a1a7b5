import importlib.util

import numpy as np
import pytest
import torch

from emphasis.weighting import CCE, DM, GCE, MAE, MSE, Relative

pytestmark = pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs the extra trl")

VOCABULARY, LENGTH, ROWS = 40, 10, 4
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}


@pytest.fixture
def batch():
    """Tokens whose first three have no label, as a prompt's."""
    tokens = torch.randint(1, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    labels = tokens.clone()
    labels[:, :3] = -100
    return {"input_ids": tokens, "labels": labels, "attention_mask": torch.ones_like(tokens)}


def model(seed=0):
    import transformers

    torch.manual_seed(seed)
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL))
    made.lm_head.weight.data.mul_(30.0)  # so that probabilities are far from even
    return made


def collate(rows):
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


def trainer(tmp_path, *args, kind=None, loss_type="nll", collator=collate, **options):
    import datasets
    import transformers
    from trl import SFTConfig

    from emphasis.trl import EmphasisSFTTrainer

    rows = {"input_ids": [[1, 2, 3]], "labels": [[1, 2, 3]], "attention_mask": [[1, 1, 1]]}
    tokens = {f"t{i}": i for i in range(VOCABULARY)}
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(tokens, unk_token="t1")), pad_token="t0", eos_token="t2", unk_token="t1"
    )
    config = SFTConfig(
        output_dir=str(tmp_path),
        report_to=[],
        use_cpu=True,
        bf16=False,
        loss_type=loss_type,
        seed=0,
        activation_checkpointing=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    return (kind or EmphasisSFTTrainer)(
        *args,
        model=model(),
        args=config,
        train_dataset=datasets.Dataset.from_dict(rows),
        data_collator=collator,
        processing_class=tokenizer,
        **options,
    )


def gradients(one, inputs):
    one.model.zero_grad()
    loss = one.compute_loss(one.model, dict(inputs))
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in one.model.parameters()]


def expected_gradients(inputs, weighting, normalization=None, token_weight=None):
    """Those of `emphasis_loss` on the logits."""
    from emphasis.torch import emphasis_loss

    made = model()
    logits = made(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    labels = inputs["labels"][:, 1:]
    weights = None if token_weight is None else token_weight[:, 1:].flatten()
    total = emphasis_loss(
        logits.flatten(0, 1),
        labels.flatten(),
        weighting,
        normalization=normalization,
        reduction="sum",
        sample_weight=weights,
    )
    count = 1 if normalization == "batch" else (labels != -100).sum()
    (total / count).backward()
    return [parameter.grad for parameter in made.parameters()]


@pytest.mark.parametrize("normalization", [None, "integral", "batch"])
@pytest.mark.parametrize(
    "weighting", [CCE(), GCE(0.7), MSE(), DM(lam=0.5, beta=4, vanishing=True), DM(lam=1, beta=8)], ids=repr
)
def test_the_derivative_is_that_of_the_loss_of_the_logits(weighting, normalization, batch, tmp_path):
    _, found = gradients(trainer(tmp_path, weighting, normalization=normalization), batch)
    for one, other in zip(found, expected_gradients(batch, weighting, normalization), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()) + 1e-9)


def test_dft_is_mean_absolute_error(batch, tmp_path):
    from trl import SFTTrainer

    loss, found = gradients(trainer(tmp_path, MAE(), normalization=None), batch)
    theirs, expected = gradients(trainer(tmp_path, kind=SFTTrainer, loss_type="dft"), batch)
    torch.testing.assert_close(loss, theirs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("normalization", ["integral", "batch"])
def test_tokens_have_weights_of_their_own(normalization, batch, tmp_path):
    token_weight = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(2))
    token_weight[0] = 0.0
    weighting = GCE(0.7)
    _, found = gradients(
        trainer(tmp_path, weighting, normalization=normalization), {**batch, "token_weight": token_weight}
    )
    expected = expected_gradients(batch, weighting, normalization, token_weight)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 * float(other.abs().max()) + 1e-9)


def test_a_learned_token_stops_pushing(tmp_path):
    one = trainer(tmp_path, DM(lam=0.5, beta=4))
    log_p = torch.tensor([-3.0, -1e-3, -5.9e-8, 0.0, -4.0])
    mask = torch.tensor([True, True, True, True, False])
    p = np.exp(np.array([-3.0, -1e-3]))
    factor = one.factor(log_p, mask)
    expected = DM(lam=0.5, beta=4).density(p) / (2 * (1 - p))
    np.testing.assert_allclose(factor[:2].numpy(), expected, rtol=1e-5)
    assert factor[2:].tolist() == [0.0, 0.0, 0.0]


def test_it_trains(batch, tmp_path):
    one = trainer(tmp_path, DM(lam=0.5, beta=4, vanishing=True))
    before, _ = gradients(one, batch)
    optimizer = torch.optim.Adam(one.model.parameters(), 0.01)
    for _ in range(15):
        gradients(one, batch)
        optimizer.step()
    assert float(gradients(one, batch)[0]) < 0.5 * float(before)


def test_what_cannot_be_weighed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="largest probability"):
        trainer(tmp_path, Relative())
    with pytest.raises(ValueError, match="loss_type='dft'"):
        trainer(tmp_path, MAE(), loss_type="dft")
    with pytest.raises(ValueError, match="number >= 0 for each label"):
        trainer(tmp_path, MAE()).factor(torch.zeros(2, 3), torch.ones(2, 3), -torch.ones(2, 3))


def test_sequence_parallelism_is_refused_as_its_loss_is_not_weighted():
    from accelerate import ParallelismConfig

    from emphasis.trl import refuse_sequence_parallelism

    for allowed in (None, ParallelismConfig()):
        refuse_sequence_parallelism(allowed)
    with pytest.raises(ValueError, match=r"sp_size=2: under sequence parallelism .* use sp_size=1"):
        refuse_sequence_parallelism(ParallelismConfig(sp_size=2, sp_backend="deepspeed"))
