"""An audit of a folder of images, of a table and of texts, without training."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import hostile
from emphasis.experiments.studies.label_audit import audit_predictions
from emphasis.review.examples import write_examples

CLASSES = ("ant", "bee", hostile.HTML)


def planted(n, classes, rate, seed=0):
    """Return labels with wrong ones among them, the true ones, and probabilities that mostly tell."""
    rng = np.random.default_rng(seed)
    true = np.arange(n) % classes
    wrong = rng.random(n) < rate
    labels = np.where(wrong, (true + rng.integers(1, classes, n)) % classes, true)
    logits = 4.0 * np.eye(classes)[true] + rng.normal(size=(n, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return labels, true, probabilities


@pytest.fixture(scope="session")
def image_audit(tmp_path_factory):
    """(audit folder, image folder, true class names by file)"""
    base = tmp_path_factory.mktemp("images")
    photos, folder = base / "photos", base / "audit"
    labels, true, probabilities = planted(60, 3, 0.2)
    names = ("ant", "bee", "cat")
    sources = []
    for index, (label, truth) in enumerate(zip(labels, true, strict=True)):
        source = f"{names[label]}/{index:02d}.png"
        (photos / names[label]).mkdir(parents=True, exist_ok=True)
        shade = np.full((40, 60, 3), 60 + 80 * truth, np.uint8)
        shade[:, :, truth] += index
        Image.fromarray(shade).save(photos / source)
        sources.append(source)
    audit = dataclasses.replace(
        audit_predictions(labels, probabilities, class_names=names),
        title="The images in photos",
        sources=tuple(sources),
        features=np.eye(3, dtype=np.float16)[true],
        data={"kind": "images", "folder": str(photos)},
    )
    write_examples(audit.to_examples(), folder)
    return folder, photos, dict(zip(sources, (names[t] for t in true), strict=True))


@pytest.fixture(scope="session")
def table_audit(tmp_path_factory):
    """(audit folder, file, true class names); a table with hostile names and values"""
    base = tmp_path_factory.mktemp("table")
    labels, true, probabilities = planted(80, 3, 0.2, seed=1)
    rng = np.random.default_rng(2)
    frame = pd.DataFrame(
        {
            "noise": rng.normal(size=80).round(3),
            hostile.SCRIPT: (true + 0.1 * rng.normal(size=80)).round(3),
            "kind": [hostile.HTML if index == 0 else "plain" for index in range(80)],
            "class": [CLASSES[label] for label in labels],
        }
    )
    file = base / "insects.csv"
    frame.to_csv(file, index=False)
    audit = dataclasses.replace(
        audit_predictions(labels, probabilities, class_names=CLASSES),
        title=f"The column class of {hostile.HTML}",
        features=np.eye(3, dtype=np.float16)[true],
        data={"kind": "table", "file": str(file), "label": "class", "read": {}},
    )
    write_examples(audit.to_examples(), base / "audit")
    return base / "audit", file, [CLASSES[t] for t in true]


@pytest.fixture(scope="session")
def text_audit(tmp_path_factory):
    """(audit folder, file, true class names); sentences, some hostile"""
    base = tmp_path_factory.mktemp("texts")
    labels, true, probabilities = planted(60, 3, 0.2, seed=3)
    texts = [f"Sentence {index} about {CLASSES[t][:3]}, long enough to be one. {hostile.ALL[index % 8]}"
             for index, t in enumerate(true)]  # fmt: skip
    file = base / "texts.csv"
    pd.DataFrame({"text": texts, "class": [CLASSES[label] for label in labels]}).to_csv(file, index=False)
    audit = dataclasses.replace(
        audit_predictions(labels, probabilities, class_names=CLASSES),
        title="Texts",
        features=np.eye(3, dtype=np.float16)[true],
        data={"kind": "table", "file": str(file), "label": "class", "read": {}},
    )
    write_examples(audit.to_examples(), base / "audit")
    return base / "audit", file, [CLASSES[t] for t in true]
