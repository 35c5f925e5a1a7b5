"""A pretrained encoder of texts that `emphasis fit --fine-tune` trains with the loss."""

import importlib.util
import json
import random
import re
import shlex
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from made_up_texts import text_table, tiny_encoder

from emphasis import CCE, DM, Relative
from emphasis.cli.main import main
from emphasis.datasets.errors import DamagedFileError
from emphasis.errors import EmphasisValueError
from emphasis.tabular import fit_table, load_model
from emphasis.tabular.fine_tuned import FineTunedClassifier, check_settings

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("transformers", "accelerate")),
    reason="needs the extra transformers",
)

FAST = ("--set", "learning_rate=0.005", "--folds", "2", "--no-progress")


@pytest.fixture(autouse=True)
def _only_transformers(monkeypatch):
    # tests/datasets passes for Hugging Face's package of that name.
    import transformers.trainer

    monkeypatch.setattr(transformers.trainer, "is_datasets_available", lambda: False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoders") / "tiny-bert")


@pytest.fixture(scope="module")
def letters(tmp_path_factory):
    """A table with 10 % wrong topics."""
    path = tmp_path_factory.mktemp("letters") / "letters.csv"
    text_table(noise=0.1)[0].to_csv(path, index=False)
    return path


def fit_command(letters, encoder, folder, *more):
    command = ["fit", str(letters), "--label", "topic", "--text", "body", "--encoder", str(encoder), "--fine-tune"]
    return [*command, *FAST, "--out", str(folder), *more]


@pytest.fixture(scope="module")
def fitted(letters, encoder, tmp_path_factory):
    """The folder of a fit, and what the command printed."""
    import transformers.trainer

    folder = tmp_path_factory.mktemp("fine-tuned") / "fit"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformers.trainer, "is_datasets_available", lambda: False)
        assert main(fit_command(letters, encoder, folder, "--weighting", "GCE q=0.7", "--no-calibration")) == 0
    return folder


def test_the_folder_of_a_fit_is_read_by_transformers_and_predicts_the_same(fitted, tmp_path, capsys):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    new, topics = text_table(seed=1)
    new.to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(fitted), str(tmp_path / "new.csv"), "--out", str(tmp_path / "out.csv")]) == 0
    predicted = pd.read_csv(tmp_path / "out.csv")
    assert (predicted["predicted"] == topics).mean() > 0.9
    network = AutoModelForSequenceClassification.from_pretrained(fitted / "model" / "encoder").eval()
    tokenizer = AutoTokenizer.from_pretrained(fitted / "model" / "encoder")
    assert network.config.id2label == {0: "cooking", 1: "sailing"}
    with torch.no_grad():
        p = network(**tokenizer(list(new["body"]), padding=True, return_tensors="pt")).logits.softmax(1).numpy()
    np.testing.assert_allclose(predicted[["p_cooking", "p_sailing"]], p, atol=1e-6)


def test_held_out_scores_stand_beside_those_of_cross_entropy(fitted, encoder):
    scores = json.loads((fitted / "metrics.json").read_text())
    assert list(scores["methods"])[1] == "cross-entropy"
    assert scores["methods"]["cross-entropy"]["accuracy"]["value"] > 0.8
    assert "log_loss" in scores["difference"]
    request = json.loads((fitted / "fit.json").read_text())
    assert request["model"] == "fine-tuned"
    assert request["settings"] == {
        "learning_rate": 0.005,
        "epochs": 3,
        "max_steps": 0,
        "batch_size": 16,
        "weight_decay": 0.01,
        "max_tokens": 256,
    }
    findings = {finding["kind"]: finding for finding in json.loads((fitted / "table.json").read_text())["findings"]}
    assert findings["not text"]["action"] == "ignored, as the encoder is trained on 'body' only"
    assert "at most 62 tokens" in findings["text"]["action"]  # the encoder's limit, below max_tokens
    page = (fitted / "report.html").read_text()
    assert "fine-tune" in page
    assert shlex.quote(str(encoder)) in page
    assert "pipeline_tag: text-classification" in (fitted / "model" / "README.md").read_text()


def test_rows_of_the_training_table_are_recognized_and_texts_of_every_sort_are_predicted(fitted, letters, capsys):
    odd = pd.DataFrame({"body": ["", None, "word", "今天天气很好", "long " * 20_000], "topic": "cooking"})
    path = letters.with_name("odd.csv")
    pd.concat([odd, pd.read_csv(letters)]).to_csv(path, index=False)
    assert main(["predict", str(fitted), str(path), "--out", str(path.with_name("out.csv"))]) == 0
    said = capsys.readouterr().out
    assert "(n = 5)" in said
    assert "300 further rows equal rows that the model was trained on" in said


def test_a_fit_continues_with_the_folds_that_are_there_and_ends_with_the_same_numbers(
    letters, encoder, fitted, tmp_path, monkeypatch
):
    folder = tmp_path / "fit"
    shutil.copytree(fitted, folder)
    shutil.rmtree(folder / "model")
    (folder / "folds" / "1.npz").unlink()
    trained = []
    fit = FineTunedClassifier.fit
    monkeypatch.setattr(FineTunedClassifier, "fit", lambda *given, **named: trained.append(1) or fit(*given, **named))
    assert main(fit_command(letters, encoder, folder, "--weighting", "GCE q=0.7", "--no-calibration")) == 0
    assert len(trained) == 2 + 1  # two methods on one fold, and the model
    for name in ("predictions.csv", "metrics.json", "model/encoder/model.safetensors"):
        assert (folder / name).read_bytes() == (fitted / name).read_bytes()


@pytest.fixture(scope="module")
def tokens(encoder):
    """Tokens, and classes of 24 texts."""
    from transformers import AutoTokenizer

    table, topics = text_table(rows=24)
    rows = AutoTokenizer.from_pretrained(encoder)(list(table["body"]))["input_ids"]
    padded = np.full((24, 30), -1, np.float32)
    for row, numbers in enumerate(rows):
        padded[row, : len(numbers)] = numbers
    return padded, (topics == "sailing").astype(np.int64)


def train(encoder, tokens, weighting, labels=None, max_steps=12, **options):
    settings = {"learning_rate": 1e-2, "batch_size": 8, "max_steps": max_steps}
    classifier = FineTunedClassifier(weighting, 0, encoder=str(encoder), classes=["a", "b"], **settings)
    return classifier.fit(tokens[0], tokens[1] if labels is None else labels, **options).predict_proba(tokens[0])


def test_with_cross_entropy_it_is_what_the_trainer_does_by_itself_and_with_a_weighting_it_is_not(encoder, tokens):
    import torch
    from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

    torch.manual_seed(0)
    network = AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=2)
    rows = [
        {"input_ids": torch.tensor(row[row >= 0], dtype=torch.long), "labels": int(label)}
        for row, label in zip(*tokens, strict=True)
    ]

    def collate(rows):
        ids = torch.nn.utils.rnn.pad_sequence([row["input_ids"] for row in rows], batch_first=True)
        return {"input_ids": ids, "attention_mask": ids > 0, "labels": torch.tensor([row["labels"] for row in rows])}

    arguments = TrainingArguments(
        output_dir="unused",
        max_steps=12,
        warmup_steps=1,
        per_device_train_batch_size=8,
        learning_rate=1e-2,
        weight_decay=0.01,
        seed=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    Trainer(network, arguments, train_dataset=rows, data_collator=collate).train()
    with torch.no_grad():
        inputs = {name: value for name, value in collate(rows).items() if name != "labels"}
        expected = network.eval()(**inputs).logits.softmax(1).numpy()
    p = train(encoder, tokens, CCE())
    np.testing.assert_allclose(p, expected, atol=1e-5)
    assert abs(train(encoder, tokens, DM(lam=0.5, beta=4.0)) - expected).max() > 1e-3


def test_the_default_weighting_begins_with_cross_entropy_as_in_other_networks(encoder, tokens):
    for steps, is_same in ((1, True), (30, False)):
        ours, theirs = (train(encoder, tokens, weighting, max_steps=steps) for weighting in (Relative(), CCE()))
        assert np.array_equal(ours, theirs) == is_same


def test_rows_of_weight_0_have_no_influence_and_the_scale_of_weights_has_none(encoder, tokens):
    half = np.arange(24) % 3 > 0
    other = np.where(half, tokens[1], 1 - tokens[1])
    p = train(encoder, tokens, DM(), sample_weight=half.astype(float))
    np.testing.assert_array_equal(p, train(encoder, tokens, DM(), other, sample_weight=half.astype(float)))
    np.testing.assert_allclose(p, train(encoder, tokens, DM(), sample_weight=half * 8.0), atol=1e-6)
    assert abs(p - train(encoder, tokens, DM(), other)).max() > 1e-3


def test_training_leaves_the_generators_of_the_process_alone(encoder, tokens):
    import torch

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    train(encoder, tokens, CCE())
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    assert after == before


def test_max_steps_ends_the_training_and_the_steps_are_shown(letters, encoder, tmp_path):
    shown = []
    settings = {"max_steps": 4, "max_tokens": 8}
    fit = fit_table(
        letters,
        label="topic",
        text="body",
        model="fine-tuned",
        encoder=encoder,
        folds=2,
        compare=False,
        settings=settings,
        folder=tmp_path / "fit",
        progress=lambda task, done, total: shown.append((task, done, total)),
    )
    assert fit.encoder.feature_names == [f"body: token {number}" for number in range(1, 9)]
    steps = [(task, done) for task, done, _ in shown if ", step " in task]
    assert len(steps) == 3 * 4
    assert steps[3] == (f"fold 1 of 2: {fit.weighting!r}, step 4 of 4", 0)
    assert steps[-1] == ("the model, on all rows, step 4 of 4", 2)
    assert shown[-1] == ("done", 3, 3)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "lightgbm"], "--fine-tune trains the encoder of the texts, and --model lightgbm another model"),
        (["--tune"], "--tune does not search settings of --fine-tune; give them with --set learning_rate=5e-5"),
        (["--set", "n_estimators=5"], "has no setting 'n_estimators'; it has learning_rate, epochs, max_steps"),
        (["--set", "learning_rat=5"], "has no setting 'learning_rat' (did you mean 'learning_rate'?)"),
        (["--set", "max_steps=-1"], "max_steps=-1 is not allowed; use a whole number >= 0"),
        (["--drop", "body"], "the column 'body' cannot be both text and dropped"),
        (["--engine", "dask"], "--engine dask reads Parquet files"),
    ],
)
def test_what_cannot_be_combined_with_it_is_refused(letters, encoder, tmp_path, capsys, more, message):
    assert main([*fit_command(letters, encoder, tmp_path / "fit"), *more]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "fit").exists()


def test_without_an_encoder_or_a_column_of_text_there_is_nothing_to_train(letters, encoder, tmp_path, capsys):
    command = ["fit", str(letters), "--label", "topic", "--fine-tune", "--out", str(tmp_path / "fit")]
    assert main(command) == 2
    assert "--fine-tune trains a pretrained encoder of texts; name its folder" in capsys.readouterr().err
    with pytest.raises(EmphasisValueError, match="name its folder, or its name in the local cache"):
        fit_table(letters, label="topic", model="fine-tuned", folder=tmp_path / "fit")
    assert main([*command, "--encoder", "nobody/nothing"]) == 2
    assert "allow the download with --download" in capsys.readouterr().err
    table = pd.read_csv(letters)
    numbers, two = tmp_path / "numbers.csv", tmp_path / "two.csv"
    table[["pages", "topic"]].to_csv(numbers, index=False)
    table.assign(again=table["body"].str.upper()).to_csv(two, index=False)
    command[1] = str(numbers)
    assert main([*command, "--encoder", str(encoder)]) == 2
    assert "numbers.csv has no column of text for the encoder" in capsys.readouterr().err
    command[1] = str(two)
    assert main([*command, "--encoder", str(encoder)]) == 2
    said = capsys.readouterr().err
    assert "'body', 'again' hold text; leave out all but one with --drop" in said
    assert not (tmp_path / "fit").exists()


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), 10**400, True, "fast", None])
def test_a_learning_rate_is_a_finite_number_above_0(value):
    with pytest.raises(EmphasisValueError, match=re.escape(f"learning_rate={value!r} is not allowed")):
        check_settings({"learning_rate": value})


def test_a_training_that_diverges_is_an_error(encoder, tokens):
    classifier = FineTunedClassifier(CCE(), 0, encoder=str(encoder), classes=["a", "b"], learning_rate=1e38)
    with pytest.raises(EmphasisValueError, match=r"diverge.* learning rate"):
        classifier.fit(*tokens)


@pytest.mark.parametrize("package", ["transformers", "accelerate"])
def test_a_missing_package_is_named_with_its_extra(letters, encoder, tmp_path, monkeypatch, capsys, package):
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(fit_command(letters, encoder, tmp_path / "fit")) == 2
    said = capsys.readouterr().err
    assert f"needs the extra 'transformers' ({package} is missing): pip install '.[transformers]'" in said
    assert not (tmp_path / "fit").exists()


def test_a_model_has_its_own_encoder_whole_or_not_at_all(fitted, encoder, tmp_path, capsys):
    text_table(seed=1)[0].to_csv(tmp_path / "new.csv", index=False)
    assert main(["predict", str(fitted), str(tmp_path / "new.csv"), "--encoder", str(encoder)]) == 2
    assert "contains its fine-tuned encoder; leave out --encoder" in capsys.readouterr().err
    folder = tmp_path / "fit"
    shutil.copytree(fitted, folder)
    for name in ("tokenizer.json", "model.safetensors", "config.json"):
        path = folder / "model" / "encoder" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b" ")
        with pytest.raises(DamagedFileError, match="missing, incomplete or does not match"):
            load_model(folder)
        path.write_bytes(whole)
    load_model(folder)
    shutil.rmtree(folder / "model" / "encoder")
    with pytest.raises(DamagedFileError, match="missing, incomplete or does not match"):
        load_model(folder)


def test_an_export_to_onnx_is_refused(fitted):
    pytest.importorskip("onnx", reason="needs the extra export")
    from emphasis.tabular.onnx_export import export_onnx

    with pytest.raises(EmphasisValueError, match="cannot be exported, as its column holds text"):
        export_onnx(fitted)
