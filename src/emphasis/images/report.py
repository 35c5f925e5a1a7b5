"""The report of a fit of images: predictions, scores, and a page with pictures of the most suspicious labels."""

from __future__ import annotations

import io
import json
import shlex
from typing import Any

import numpy as np
from PIL import Image

from emphasis.datasets.image_files import image_header, read_image
from emphasis.datasets.table import write_table
from emphasis.datasets.table_report import in_shell
from emphasis.diagnostics.plots.pages import page_environment, png_uri
from emphasis.files import write_text
from emphasis.images.result import ImageFit
from emphasis.tabular.card import write_card
from emphasis.tabular.report import disagreeing_rows, page_context, predictions, weighting_text
from emphasis.tabular.result import METRICS, REPORT
from emphasis.tabular.saved import FOLDER
from emphasis.texts import encodable
from emphasis.weighting import DEFAULT_WEIGHTING

_PICTURES, _PIXELS = 60, 128  # pictures on the page, and largest number of pixels per side


def write_report(fit: ImageFit) -> None:
    """Write predictions, metrics.json, report.html and the model's card into the fit's folder."""
    table = predictions(fit).rename(columns={"id": "file"})
    table["file"] = [encodable(name) for name in table["file"]]
    write_table(table, fit.folder / fit.predictions_name)
    write_text(fit.folder / METRICS, json.dumps(fit.scores, indent=1, ensure_ascii=False))
    template = page_environment("emphasis.images", "emphasis.tabular").get_template("images.html.j2")
    context = page_context(fit, ["numpy", "torch", "pillow"])
    page = template.render(
        context,
        name=fit.source,
        suspects=_suspects(fit),
        notes=[in_shell(note) for note in fit.notes],
        command=command(fit.request, str(fit.folder)),
    )
    write_text(fit.folder / REPORT, page)
    words = {
        "title": f"Classes of {fit.source}",
        "task": "image-classification",
        "kind": "A network for images",
        "extra": "images",
        "module": "emphasis.images",
        "example": "NEW_IMAGES",
        "argument": "images",
        "source": fit.source,
        "rows": "images",
    }
    write_card(fit.folder / FOLDER, context, words=words)


def _suspects(fit: ImageFit) -> list[dict[str, Any]]:
    """Return the images whose given label is least probable, with their pictures."""
    p = next(iter(fit.probabilities.values()))
    return [
        {
            "file": fit.names[row],
            "given": fit.classes[fit.given[row]],
            "p_given": float(p[row, fit.given[row]]),
            "instead": fit.classes[p[row].argmax()],
            "p_instead": float(p[row].max()),
            "picture": _picture(fit, int(row)),
        }
        for row in disagreeing_rows(fit)[:_PICTURES]
    ]


def _picture(fit: ImageFit, row: int) -> str:
    """Return an image as a data URI, from its file, or from the network's input if the file can no longer be read."""
    path = fit.base / fit.names[row]
    try:
        pixels = read_image(path, min(*image_header(path)[:2], _PIXELS), 3, center_crop=True)
    except Exception:  # decoders fail in many ways
        pixels = np.asarray(fit.images[row : row + 1])[0]
    file = io.BytesIO()
    Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).save(file, "PNG")
    return png_uri(file.getvalue())


def command(request: dict[str, Any], folder: str) -> str:
    """Return the command that repeats a fit; "" if its weighting cannot be given on the command line."""
    parts = ["emphasis", "fit", request["source"]]
    if request["weighting"] != DEFAULT_WEIGHTING.to_dict():
        weighting = weighting_text(request["weighting"])
        if not weighting:
            return ""
        parts += ["--weighting", weighting]
    for name in (
        "label",
        "images",
        "network",
        "features",
        "weights",
        "size",
        "channels",
        "folds",
        "seed",
        "iterations",
    ):
        if request.get(name) not in (None, ""):
            parts += [f"--{name}", str(request[name])]
    parts += [part for name in ("augment",) if request.get(name) for part in (f"--{name}",)]
    if not request["compare"]:
        parts.append("--no-compare")
    if not request["calibrate"]:
        parts.append("--no-calibration")
    for name, value in request["settings"].items():
        parts += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join([*parts, "--out", folder])
