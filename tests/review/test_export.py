"""Cleaned labels, moves of files and tasks of other tools."""

import csv
import json
import shutil

import numpy as np
import pandas as pd
import pytest

from decided import decided
from emphasis.cli.main import main
from emphasis.review.decisions import DECISIONS, DecisionLog, Decisions
from emphasis.review.examples import read_examples
from emphasis.review.export import label_columns


@pytest.fixture
def images(image_audit, tmp_path):
    """The audit and its photos, to be written to, with all but one decided by its true class."""
    folder, photos, truth = image_audit
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(folder, tmp_path / "audit")
    manifest = tmp_path / "audit" / "examples.json"
    manifest.write_text(manifest.read_text().replace(json.dumps(str(photos)), json.dumps(str(tmp_path / "photos"))))
    examples = read_examples(tmp_path / "audit")
    untouched = next(key for key in truth if key.split("/")[0] == truth[key])
    decisions = [
        decided(key, truth[key], before=examples.class_names[examples.labels[index]])
        for index, key in enumerate(examples.keys)
        if key != untouched
    ]
    DecisionLog(tmp_path / "audit" / DECISIONS).append(decisions)
    return tmp_path / "audit", tmp_path / "photos", truth


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_images_move_to_their_class_only_if_asked_and_back(images, capsys):
    audit, photos, truth = images
    before = files(photos)
    moved = [key for key in before if key.split("/")[0] != truth[key]]
    (photos / truth[moved[0]] / moved[0].split("/")[1]).write_bytes(b"taken")  # a file of that name is there
    before = files(photos)
    command = ["labels", "export", str(audit), "--format", "moves"]
    assert main(command) == 0
    assert f"{len(moved)} files would be moved" in capsys.readouterr().out
    assert files(photos) == before
    assert main([*command, "--apply"]) == 0
    after = files(photos)
    assert sorted(after.values()) == sorted(before.values())
    for key in moved:
        parts = key.split("/")[1].split(".")
        assert key not in after
        name = f"{truth[key]}/{parts[0]}{'-2' if key == moved[0] else ''}.png"
        assert after[name] == before[key]
    (journal,) = audit.glob("moves-*.jsonl")
    assert main(["labels", "undo", str(journal)]) == 0
    assert files(photos) == before
    assert main(["labels", "undo", str(journal)]) == 0  # nothing is left to move back
    assert "0 files" in capsys.readouterr().out
    journal.write_text(journal.read_text().replace(moved[0], f"../../{moved[0]}"))
    assert main(["labels", "undo", str(journal)]) == 2
    assert "outside" in capsys.readouterr().err


def test_moves_that_cannot_be_move_nothing(images, capsys):
    audit, photos, truth = images
    key = next(key for key in truth if key.split("/")[0] != truth[key])
    (photos / key).unlink()
    before = files(photos)
    assert main(["labels", "export", str(audit), "--format", "moves", "--apply"]) == 2
    assert "missing; nothing was moved" in capsys.readouterr().err
    assert files(photos) == before


def test_columns_before_after_by_whom_and_trust(images):
    audit, _, truth = images
    examples = read_examples(audit)
    columns = label_columns(examples, Decisions.read(audit))
    for index, key in enumerate(columns["source"]):
        assert (columns["before"][index], columns["after"][index]) == (key.split("/")[0], truth[key])
        assert (columns["reviewer"][index], columns["trust_weight"][index]) in (("ada", 2.0), ("", 1.0))
    assert columns["reviewer"].count("") == 1
    suspect = int(np.flatnonzero(examples.suspect)[0])
    of_suspect = label_columns(examples, Decisions())
    assert of_suspect["trust_weight"][suspect] == pytest.approx(examples.sample_weight[suspect], abs=1e-4)
    assert of_suspect["after"] == of_suspect["before"]


def test_a_table_keeps_its_cells_and_gets_cleaned_labels(table_audit, tmp_path, capsys):
    folder, file, truth = table_audit
    examples = read_examples(folder)
    decisions = [
        decided(key, truth[index], before=examples.class_names[examples.labels[index]])
        for index, key in enumerate(examples.keys[:40])
    ]
    log = DecisionLog(tmp_path / "mine.jsonl")
    log.append(decisions)
    for out in (tmp_path / "cleaned.csv", tmp_path / "cleaned.parquet"):
        assert main(["labels", "export", str(folder), "--decisions", str(log.path), "--out", str(out)]) == 0
    cleaned = pd.read_parquet(out)
    given = pd.read_csv(file)
    assert cleaned["class"].tolist() == [*truth[:40], *given["class"][40:]]
    assert cleaned["class_before"].tolist() == given["class"].tolist()
    assert set(cleaned["class_reviewer"][:40]) == {"ada"}
    assert set(cleaned["class_reviewer"][40:]) == {""}
    with file.open() as old, (tmp_path / "cleaned.csv").open() as new:
        for before, after in zip(csv.reader(old), csv.reader(new), strict=True):
            assert after[:3] == before[:3]
    assert main(["labels", "export", str(folder), "--decisions", str(log.path), "--out", str(file)]) == 2
    assert "is the table itself" in capsys.readouterr().err


def test_decisions_about_other_data_are_refused(table_audit, tmp_path, capsys):
    folder, _, _ = table_audit
    for decision, said in (
        (decided("99999", "bee"), "no example '99999'"),
        (decided("0", "bee", before="moth"), "'moth'"),
    ):
        path = tmp_path / f"{decision.example}.jsonl"
        DecisionLog(path).append([decision])
        out = str(tmp_path / "x.csv")
        assert main(["labels", "export", str(folder), "--decisions", str(path), "--out", out]) == 2
        assert said in capsys.readouterr().err


def test_label_studio_takes_the_tasks_and_its_answers_come_back(images, tmp_path, capsys):
    audit, _, truth = images
    (audit / DECISIONS).unlink()
    out = tmp_path / "tasks.json"
    assert main(["labels", "export", str(audit), "--format", "label-studio", "--out", str(out)]) == 0
    tasks = json.loads(out.read_text())
    examples = read_examples(audit)
    assert len(tasks) == examples.suspect.sum()
    config = out.with_suffix(".xml").read_text()
    assert 'name="label" toName="example"' in config
    assert tasks[0]["data"]["image"] == f"/data/local-files/?d={tasks[0]['data']['example']}"
    for number, task in enumerate(tasks):  # as Label Studio exports them
        choice = {"type": "choices", "from_name": "label", "value": {"choices": [truth[task["data"]["example"]]]}}
        task["annotations"] = [
            {
                "id": number, "completed_by": {"id": 1, "email": "ada@x.org"}, "was_cancelled": number == 0,
                "result": [] if number == 0 else [choice], "updated_at": "2026-01-01T00:00:00Z",
            }
        ]  # fmt: skip
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(tasks))
    command = ["labels", "import", str(audit), str(answers), "--format", "label-studio"]
    assert main(command) == 0
    outcomes = Decisions.read(audit).outcomes()
    assert len(outcomes) == len(tasks)
    assert outcomes[tasks[0]["data"]["example"]].status == "unsure"
    assert all(outcomes[task["data"]["example"]].label == truth[task["data"]["example"]] for task in tasks[1:])
    capsys.readouterr()
    assert main(command) == 0
    assert "0 decisions added" in capsys.readouterr().out
    answers.write_text(json.dumps(tasks).replace('"ant"]', '"yak"]'))
    assert main(command) == 2
    assert "'yak' is unknown" in capsys.readouterr().err
    for bad in ("{}", "[1]", '[{"annotations": [{"result": [{"type": "choices"}]}]}]', "[" * 50_000):
        answers.write_text(bad)
        assert main(command) == 2
        assert "answers.json" in capsys.readouterr().err


def test_argilla_takes_the_records_and_its_answers_come_back(text_audit, tmp_path):
    folder, file, truth = text_audit
    out, decided = tmp_path / "records.json", tmp_path / "mine.jsonl"
    assert main(["labels", "export", str(folder), "--format", "argilla", "--out", str(out), "--all"]) == 0
    records = json.loads(out.read_text())
    texts = pd.read_csv(file)["text"]
    assert [record["fields"]["text"] for record in records] == [texts[int(record["id"])] for record in records]
    for record in records:  # as Record.to_dict gives them
        record["responses"] = {"label": [{"value": truth[int(record["id"])], "user_id": "u1"}]}
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(records))
    command = ["labels", "import", str(folder), str(answers), "--format", "argilla", "--decisions", str(decided)]
    assert main(command) == 0
    labels, weight = Decisions.read(decided).apply(range(60), pd.read_csv(file)["class"].tolist())
    assert labels == truth
    assert np.all(weight == 2.0)
