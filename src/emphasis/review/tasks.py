"""Export of tasks for Label Studio and Argilla, and import of their answers as decisions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from emphasis.errors import EmphasisFileNotFoundError
from emphasis.files import write_text
from emphasis.json_files import JSONFileError, too_deep
from emphasis.review.decisions import Decision
from emphasis.review.examples import Examples, ReviewError

FORMATS = ("label-studio", "argilla")
_AGENT = "emphasis audit"
_MAX_ANSWERS_BYTES = 1 << 30


def label_studio_tasks(examples: Examples, indices: Sequence[int], texts: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return tasks in the JSON format of Label Studio, with the suggestions as predictions.

    Args:
        examples: Examples of an audit.
        indices: Indices of the examples, in the order of the tasks.
        texts: Texts to show, by index; images are referred to as local files.
    """
    probabilities = examples.probability_of(examples.suggested)
    tasks = []
    for index in indices:
        key, data = examples.keys[index], _content(examples, index, texts)
        choice: dict[str, Any] = {"choices": [examples.class_names[examples.suggested[index]]]}
        result: dict[str, Any] = {"from_name": "label", "to_name": "example", "type": "choices", "value": choice}
        prediction: dict[str, Any] = {"model_version": _AGENT, "result": [result]}
        if probabilities[index] == probabilities[index]:
            prediction["score"] = round(float(probabilities[index]), 4)
        task: dict[str, Any] = {"data": {**data, **_about(examples, index), "example": key}}
        tasks.append(task | {"predictions": [prediction]})
    return tasks


def label_studio_config(examples: Examples) -> str:
    """Return the labeling configuration (XML) for `label_studio_tasks`."""
    is_image = examples.data.get("kind") == "images"
    shown = '<Image name="example" value="$image"/>' if is_image else '<Text name="example" value="$text"/>'
    choices = "\n".join(f"    <Choice value={quoteattr(name)}/>" for name in examples.class_names)
    layout = ' layout="select"' if len(examples.class_names) > 20 else ""
    return (
        f'<View>\n  <Header value="Given: $given"/>\n  {shown}\n'
        f'  <Choices name="label" toName="example" choice="single"{layout}>\n{choices}\n  </Choices>\n</View>\n'
    )


def argilla_records(examples: Examples, indices: Sequence[int], texts: Mapping[int, str]) -> list[dict[str, Any]]:
    """Return records as accepted by Argilla's `Dataset.records.from_json` and `Record.from_dict`.

    The data set needs a text field "text" or an image field "image", and a label question "label".
    """
    probabilities = examples.probability_of(examples.suggested)
    records = []
    for index in indices:
        suggestion: dict[str, Any] = {"value": examples.class_names[examples.suggested[index]], "agent": _AGENT}
        if probabilities[index] == probabilities[index]:
            suggestion["score"] = round(float(probabilities[index]), 4)
        fields = _content(examples, index, texts)
        if "image" in fields:
            fields["image"] = str(Path(examples.data["folder"]) / examples.sources[index])
        records.append(
            {
                "id": examples.keys[index],
                "fields": fields,
                "metadata": _about(examples, index),
                "suggestions": {"label": suggestion},
                "responses": {},
                "vectors": {},
            }
        )
    return records


def write_tasks(kind: str, examples: Examples, indices: Sequence[int], texts: Mapping[int, str], out: Path) -> None:
    """Write tasks to a JSON file; for Label Studio, also write the labeling configuration (.xml).

    Raises:
        ReviewError: The kind is unknown.
    """
    if kind not in FORMATS:
        raise ReviewError(f"the format {kind!r} is unknown; use one of {', '.join(FORMATS)}")
    if kind == "label-studio":
        write_text(out.with_suffix(".xml"), label_studio_config(examples))
    make = label_studio_tasks if kind == "label-studio" else argilla_records
    write_text(out, json.dumps(make(examples, indices, texts), indent=1) + "\n")


def read_answers(kind: str, path: Path, examples: Examples) -> list[Decision]:
    """Return the answers in an export of Label Studio (JSON) or Argilla (`records.to_json`) as decisions.

    Raises:
        EmphasisFileNotFoundError, JSONFileError: The file does not exist, or is not an export.
        ReviewError: An answer is about an example or a class that the audit does not have.
    """
    if kind not in FORMATS:
        raise ReviewError(f"the format {kind!r} is unknown; use one of {', '.join(FORMATS)}")
    if not path.is_file():
        raise EmphasisFileNotFoundError(f"there is no file {path}")
    if path.stat().st_size > _MAX_ANSWERS_BYTES:
        raise JSONFileError(f"{path} is larger than {_MAX_ANSWERS_BYTES:,} bytes")
    try:
        items = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise JSONFileError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items) or too_deep(items):
        raise JSONFileError(f"{path}: not a list of {'tasks' if kind == 'label-studio' else 'records'}")
    decisions = []
    for number, item in enumerate(items, start=1):
        try:
            answers = list(_label_studio_answers(item) if kind == "label-studio" else _argilla_answers(item))
        except (LookupError, TypeError, AttributeError) as error:
            raise JSONFileError(f"{path}, item {number}: {type(error).__name__}: {error}") from error
        decisions += [_decision(examples, f"{path}, item {number}", **answer) for answer in answers]
    return decisions


def _label_studio_answers(task: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answer of each annotation of a task; a skipped task counts as unsure."""
    for annotation in task.get("annotations", []):
        by = annotation.get("completed_by", "")
        reviewer = by.get("email") or by.get("id") if isinstance(by, dict) else by
        results = [part for part in annotation.get("result", []) if part.get("type") == "choices"]
        label = results[0]["value"]["choices"][0] if results and not annotation.get("was_cancelled") else None
        if label is None and not annotation.get("was_cancelled"):
            continue
        time = annotation.get("updated_at") or annotation.get("created_at") or ""
        yield {"key": task["data"]["example"], "label": label, "reviewer": str(reviewer), "time": str(time)}


def _argilla_answers(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the answer of each user; a discarded answer counts as unsure, a draft is ignored."""
    for response in (record.get("responses") or {}).get("label", []):
        status = response.get("status", "submitted")
        if status in ("submitted", "discarded", None):
            label = None if status == "discarded" else response["value"]
            yield {"key": record["id"], "label": label, "reviewer": str(response.get("user_id", "")), "time": ""}


def _decision(examples: Examples, where: str, *, key: Any, label: Any, reviewer: str, time: str) -> Decision:
    index = examples.index_of.get(str(key))
    if index is None:
        raise ReviewError(f"{where}: there is no example {key!r} in this audit")
    before = examples.class_names[examples.labels[index]]
    suggested = examples.class_names[examples.suggested[index]]
    about: dict[str, Any] = {"example": examples.keys[index], "before": before, "suggested": suggested}
    about |= {"reviewer": reviewer, "time": time}
    if label is None:
        return Decision(action="unsure", after="", **about)
    if label not in examples.class_names:
        raise ReviewError(f"{where}: the class {label!r} is unknown")
    action: Any = "keep" if label == before else "suggestion" if label == suggested else "other"
    return Decision(action=action, after=label, **about)


def _content(examples: Examples, index: int, texts: Mapping[int, str]) -> dict[str, Any]:
    if examples.data.get("kind") == "images":
        return {"image": f"/data/local-files/?d={examples.sources[index]}"}
    return {"text": texts.get(index, examples.keys[index])}


def _about(examples: Examples, index: int) -> dict[str, Any]:
    return {
        "given": examples.class_names[examples.labels[index]],
        "suggested": examples.class_names[examples.suggested[index]],
        "score": round(float(examples.score[index]), 4),
        "row": int(examples.rows[index]),
    }
