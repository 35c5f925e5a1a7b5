"""Pretrained encoders of texts: where they are found, what they return, and what is refused."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
from made_up_texts import text_table, tiny_encoder

from emphasis.datasets.embedding_cache import EmbeddingCache
from emphasis.datasets.errors import DamagedFileError, DataNotFoundError
from emphasis.datasets.table import TableOptions, prepare_table
from emphasis.datasets.table_report import TableError
from emphasis.datasets.text_encoder import TextEncoder, find_encoder, folder_digest

transformers = pytest.importorskip("transformers", reason="needs the extra transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def copy(folder, target, pooling=None, normalize=False):
    """Copy an encoder in the layout of sentence-transformers."""
    shutil.copytree(folder, target)
    modules = [{"path": "", "type": "sentence_transformers.models.Transformer"}]
    if pooling:
        (target / "1_Pooling").mkdir()
        (target / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
        modules.append({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"})
    if normalize:
        modules.append({"path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (target / "modules.json").write_text(json.dumps(modules))
    return target


TEXTS = ["simmer the garlic", "anchor", "", "x" * 100_000, "今天天气很好", "\ud800 half", "we sail " * 400]


def test_the_mean_of_the_tokens_is_taken_whatever_else_is_in_the_batch(folder):
    import torch

    vectors = TextEncoder(str(folder))(TEXTS)
    assert vectors.shape == (len(TEXTS), 32)
    assert np.isfinite(vectors).all()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModel.from_pretrained(folder).eval()
    for text, vector in zip(TEXTS[:3], vectors, strict=False):
        with torch.no_grad():
            expected = network(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(vector, expected.numpy(), atol=1e-5)


def test_layouts_of_sentence_transformers_pool_as_they_say(folder, tmp_path):
    plain = TextEncoder(str(folder))(TEXTS)
    old = {"word_embedding_dimension": 32, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}
    both = TextEncoder(str(copy(folder, tmp_path / "both", old, normalize=True)))(TEXTS)
    assert both.shape == (len(TEXTS), 64)
    np.testing.assert_allclose((both**2).sum(1), 1.0, rtol=1e-5)
    mean = TextEncoder(str(copy(folder, tmp_path / "mean", {"pooling_mode": "mean"})))(TEXTS)
    np.testing.assert_allclose(mean, plain, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: (f / "config.json").unlink(), "holds no encoder"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "weights in safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut short"), "cannot be read"),
        (lambda f: (f / "modules.json").write_text("[1]"), r"modules\.json is damaged"),
        (lambda f: (f / "modules.json").write_text('[{"type": "x.Dense", "path": ""}]'), "of the kind 'Dense'"),
        (lambda f: (f / "modules.json").write_text('[{"type": "x.Transformer", "path": "../.."}]'), "outside"),
    ],
)
def test_an_encoder_that_is_damaged_or_of_another_kind_is_named(folder, tmp_path, change, match):
    change(shutil.copytree(folder, tmp_path / "e") and (tmp_path / "e"))
    with pytest.raises(DamagedFileError, match=match):
        TextEncoder(str(tmp_path / "e"))(["one"])


def test_a_configuration_cannot_have_code_run(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "e")
    config = json.loads((tmp_path / "e" / "config.json").read_text())
    config["auto_map"] = {"AutoModel": "code.Model", "AutoConfig": "code.Config"}
    (tmp_path / "e" / "config.json").write_text(json.dumps(config))
    (tmp_path / "e" / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    TextEncoder(str(tmp_path / "e"))(["one"])
    assert not (tmp_path / "ran").exists()


def test_nothing_is_downloaded_unless_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **k: asked.append(k["local_files_only"]) or 1 / 0
    )
    with pytest.raises(DataNotFoundError, match=r"'no/such-encoder' is neither a folder nor .* --download"):
        find_encoder("no/such-encoder")
    with pytest.raises(DataNotFoundError, match="division by zero"):
        find_encoder("no/such-encoder", download=True)
    assert asked == [True, False]


def test_vectors_are_kept_by_text_and_encoder_and_a_damaged_cache_is_begun_anew(folder, own_cache):
    progress = []
    first = TextEncoder(str(folder), progress=lambda *state: progress.append(state))(TEXTS)
    assert progress == [(f"encoding texts with {folder.name}", 0, len(TEXTS))]
    again = TextEncoder(str(folder), progress=lambda *state: progress.append(state))(TEXTS[::-1])
    np.testing.assert_array_equal(first[::-1], again)
    assert len(progress) == 1
    other = TextEncoder(str(tiny_encoder(own_cache / "other", seed=1)))(TEXTS)
    assert (first != other).any()
    with EmbeddingCache(folder_digest(folder)) as cache:
        assert len(cache.get(["anchor", "never seen"])) == 1
    for path in (own_cache / "emphasis" / "embeddings").iterdir():
        path.write_bytes(b"no database" * 100)
    np.testing.assert_allclose(TextEncoder(str(folder))(TEXTS), first, atol=1e-5)
    with EmbeddingCache(folder_digest(folder)) as cache:
        assert len(cache.get(["anchor"])) == 1


def test_a_cache_that_cannot_be_written_is_done_without(folder, own_cache):
    own_cache.write_text("a file where the folder would be")
    assert TextEncoder(str(folder))(["one"]).shape == (1, 32)


def test_an_encoder_without_a_column_of_text_is_named(folder):
    table = pd.DataFrame({"x": np.arange(30) % 7, "y": ["a", "b"] * 15})
    with pytest.raises(TableError, match=r"has no column of text for the encoder .* name one with text"):
        prepare_table(table, "y", TableOptions.of(encoder=str(folder)))


def test_features_are_standardized_by_training_rows(folder):
    table, _ = text_table(60)
    prepared = prepare_table(table.assign(body=table.body.where(table.index != 5, "")), "topic",
                             TableOptions.of(encoder=str(folder), text="body"))  # fmt: skip
    features = prepared.encoder.transform(prepared.frame)
    assert features.shape == (60, 1 + 32 + 1)
    np.testing.assert_allclose(features[:, 1:33].mean(0), 0.0, atol=1e-4)
    np.testing.assert_allclose(features[:, 1:33].std(0), 1.0, atol=1e-3)
    assert features[:, 33].tolist() == [float(i == 5) for i in range(60)]
    assert f"by the encoder {folder}" in prepared.report.lines()[0]
