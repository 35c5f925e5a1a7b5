"""The report of a fit: scores of the cross-validation, predictions, suspect labels, and the page."""

from __future__ import annotations

import json
import platform
import shlex
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix

import emphasis
from emphasis.comparison import CONFIDENCE
from emphasis.datasets.table import write_table
from emphasis.datasets.table_features import DateColumn, LevelsColumn, NumericColumn, as_dates
from emphasis.datasets.table_report import in_shell
from emphasis.diagnostics.plots.canvas import new_figure
from emphasis.diagnostics.plots.pages import chart, page_environment, shown
from emphasis.diagnostics.plots.palette import COLORS, FILLS
from emphasis.diagnostics.plots.reliability import reliability_figure
from emphasis.files import write_text
from emphasis.scores import METRICS as SCORES
from emphasis.tabular.card import write_card
from emphasis.tabular.models import FINE_TUNED, MODELS
from emphasis.tabular.result import METRICS, REPORT, TABLE, Fit
from emphasis.tabular.saved import FOLDER
from emphasis.texts import encodable
from emphasis.weighting import DEFAULT_WEIGHTING, FAMILIES, Weighting

if TYPE_CHECKING:
    from emphasis.images.result import ImageFit

_SUSPECTS, _SHOWN_COLUMNS, _LISTED, _MOST_SHOWN = 20, 5, 15, 300
_KINDS = {
    "xgboost": "Gradient-boosted trees (XGBoost)",
    "lightgbm": "Gradient-boosted trees (LightGBM)",
    "catboost": "Gradient-boosted trees (CatBoost)",
    "net": "A multilayer perceptron",
    "linear": "A linear model",
    FINE_TUNED: "A fine-tuned encoder of texts",
}
_DEFAULTS = {"unlabeled": "drop", "rare_classes": "keep", "merge_spellings": "form"}


def write_report(fit: Fit) -> None:
    """Write predictions, metrics.json, table.json, report.html and the model's card into the fit's folder."""
    scores = fit.scores
    write_table(predictions(fit), fit.folder / fit.predictions_name)
    write_text(fit.folder / METRICS, json.dumps(scores, indent=1, ensure_ascii=False))
    if fit.prepared is not None:
        text = json.dumps(fit.prepared.report.to_dict(), indent=1, ensure_ascii=False)
        write_text(fit.folder / TABLE, encodable(text))
    context = _context(fit)
    write_text(fit.folder / REPORT, _page(fit, context))
    spec = MODELS.find(fit.request["model"])
    words = {
        "title": f"{fit.request['label']} of {fit.source}",
        "task": "text-classification" if spec.trains_encoder else "tabular-classification",
        "kind": _KINDS[fit.request["model"]],
        "extra": "fit" if spec.extra == "fit" else f"fit,{spec.extra}",
        "module": "emphasis.tabular",
        "example": "NEW_TABLE",
        "argument": "table",
        "source": fit.source,
        "rows": "rows",
    }
    write_card(fit.folder / FOLDER, context, words=words, columns=[column.name for column in fit.encoder.columns])


def predictions(fit: Fit | ImageFit) -> Any:
    """Return the out-of-fold predictions as a pandas table, one line per row."""
    import pandas as pd

    p = _ours(fit)
    names = np.array(fit.classes)
    columns = {
        "row": fit.rows,
        **({"id": list(fit.ids)} if fit.ids else {}),
        "fold": fit.fold,
        "given": names[fit.given],
        "predicted": names[p.argmax(1)],
        "p_given": _of_given(fit),
    }
    return pd.DataFrame(columns | {f"p_{name}": p[:, column] for column, name in enumerate(fit.classes)})


def suspects(fit: Fit, most: int = _SUSPECTS) -> list[dict[str, Any]]:
    """Return the rows whose given label is least probable by out-of-fold predictions, and the predicted label."""
    p, p_given = _ours(fit), _of_given(fit)
    order = disagreeing_rows(fit)
    columns = list(fit.importances or (column.name for column in fit.encoder.columns))[:_SHOWN_COLUMNS]
    return [
        {
            "row": int(fit.rows[row]),
            **({"id": fit.ids[row]} if fit.ids else {}),
            "given": fit.classes[fit.given[row]],
            "p_given": float(p_given[row]),
            "instead": fit.classes[p[row].argmax()],
            "p_instead": float(p[row].max()),
            "values": {name: _excerpt(shown(fit.table[name].iloc[row])) for name in columns},
        }
        for row in order[:most]
    ]


def _excerpt(text: str) -> str:
    """Return the beginning of a text that is too long for a cell of a page."""
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN].rstrip()} …"


def disagreeing_rows(fit: Fit | ImageFit) -> NDArray[np.int64]:
    """Return the rows whose predicted class differs from the given class, the least probable label first."""
    order = np.argsort(_of_given(fit), kind="stable")
    return np.asarray(order[_ours(fit)[order].argmax(1) != fit.given[order]])


def _ours(fit: Fit | ImageFit) -> NDArray[np.float64]:
    """Return the out-of-fold probabilities of the weighting, shape (N, C)."""
    return next(iter(fit.probabilities.values()))


def _of_given(fit: Fit | ImageFit) -> NDArray[np.float64]:
    """Return the out-of-fold probability of each given label, shape (N,)."""
    return _ours(fit)[np.arange(len(fit.given)), fit.given]


def _context(fit: Fit) -> dict[str, Any]:
    """Return the variables that the page and the card share."""
    packages = [
        "numpy",
        "pandas",
        "scikit-learn",
        {"net": "torch", "linear": "torch", FINE_TUNED: "transformers"}.get(fit.request["model"], fit.request["model"]),
    ]
    return page_context(fit, packages)


def _page(fit: Fit, context: dict[str, Any]) -> str:
    request = fit.request
    template = page_environment("emphasis.tabular").get_template("fit.html.j2")
    return template.render(
        context,
        name=fit.source,
        columns=[_describe_column(fit, column) for column in fit.encoder.columns],
        suspects=suspects(fit),
        texts=[] if fit.prepared is None else fit.prepared.texts,
        notes=[] if fit.prepared is None else fit.prepared.report.lines(in_shell),
        importances=list(fit.importances.items())[:_LISTED],
        listed=_LISTED,
        command=command(request, fit.folder),
    )


def page_context(fit: Fit | ImageFit, packages: Sequence[str]) -> dict[str, Any]:
    """Return the variables of the page templates that all fits share.

    Args:
        fit: Result of the fit.
        packages: Packages whose versions are shown.
    """
    scores, predicted = fit.scores, _ours(fit).argmax(1)
    confusion = confusion_matrix(fit.given, predicted, labels=np.arange(len(fit.classes)))
    versions = [f"emphasis {emphasis.__version__}", f"Python {platform.python_version()}"]
    versions += [f"{package} {version(package)}" for package in packages]
    return {
        "fit": fit,
        "request": fit.request,
        "counts": np.bincount(fit.given, minlength=len(fit.classes)).tolist(),
        "scores": scores,
        "metrics": SCORES,
        "methods": list(fit.probabilities),
        "verdict": scores.get("verdict"),
        "confidence": round(100 * CONFIDENCE),
        "reliability": chart(lambda narrow: reliability_figure(scores["reliability"], narrow=narrow)),
        "confusion": confusion.tolist(),
        "largest": int(confusion.max()),
        "disagreeing": int((predicted != fit.given).sum()),
        "histogram": chart(lambda narrow: _histogram(fit, narrow)),
        "predictions": fit.predictions_name,
        "folder": shlex.quote(str(fit.folder)),
        "versions": ", ".join(versions),
    }


def _describe_column(fit: Fit, column: Any) -> dict[str, Any]:
    absent = int(fit.table[column.name].isna().sum())
    if isinstance(column, NumericColumn):
        values = fit.table[column.name]
        return {
            "name": column.name,
            "kind": "numbers",
            "about": f"{values.min():g} to {values.max():g}",
            "absent": absent,
        }
    if isinstance(column, DateColumn):
        dates = as_dates(fit.table[column.name], column.name, column.format)
        about = f"{dates.min():%Y-%m-%d} to {dates.max():%Y-%m-%d}"
        return {"name": column.name, "kind": "dates", "about": about, "absent": absent}
    if not isinstance(column, LevelsColumn):
        about = f"{fit.table[column.name].nunique():,} different texts"
        return {"name": column.name, "kind": "text", "about": about, "absent": absent}
    levels = [level for level in column.levels if level is not None]
    shown = ", ".join(levels[:6]) + (f" and {len(levels) - 6} more" if len(levels) > 6 else "")
    kind = f"{len(levels)} levels" + (" and other values" if column.others else "")
    return {"name": column.name, "kind": kind, "about": shown, "absent": absent}


def command(request: dict[str, Any], folder: Path) -> str:
    """Return the command that repeats a fit; "" if its table or weighting cannot be given on the command line."""
    if request["table"] is None:
        return ""
    defaults = MODELS.find(request["model"])
    parts = ["emphasis", "fit", request["table"], "--label", request["label"]]
    if request["model"] == FINE_TUNED:
        parts.append("--fine-tune")
    elif request["model"] != "xgboost":
        parts += ["--model", request["model"]]
    if request["weighting"] != DEFAULT_WEIGHTING.to_dict():
        weighting = weighting_text(request["weighting"])
        if not weighting:
            return ""
        parts += ["--weighting", weighting]
    if not request["compare"]:
        parts.append("--no-compare")
    if not request.get("calibrate", True):
        parts.append("--no-calibration")
    for name, default in (("folds", 5), ("seed", 0), ("max_levels", 100)):
        if request[name] != default:
            parts += [f"--{name.replace('_', '-')}", str(request[name])]
    for name in ("sep", "encoding", "decimal", "unlabeled", "rare_classes", "merge_spellings", "id_column"):
        if request.get(name, "") not in ("", _DEFAULTS.get(name)):
            parts += ["--id" if name == "id_column" else f"--{name.replace('_', '-')}", request[name]]
    for name in ("drop", "categorical", "missing", "missing_labels", "keep"):
        if request.get(name):
            parts += [f"--{name.replace('_', '-')}", *request[name]]
    for column in request.get("text", ()):
        parts += ["--text", column]
    if request.get("encoder"):
        parts += ["--encoder", request["encoder"]]
    if request["weight_column"]:
        parts += ["--weight-column", request["weight_column"]]
    for name, value in request["settings"].items():
        if defaults.settings.get(name) != value:
            parts += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return shlex.join([*parts, "--out", str(folder)])


def weighting_text(weighting: dict[str, Any]) -> str:
    """Return the dictionary of a weighting as the command line expects it, or "" if it is not of a family.

    Example: "DM lam=0.5 beta=4 vanishing".
    """
    if weighting["family"] not in FAMILIES:
        return ""
    options = [name if value is True else f"{name}={value:g}" for name, value in weighting.items() if name != "family"]
    return " ".join([weighting["family"], *options])


def _histogram(fit: Fit | ImageFit, narrow: bool) -> Figure:
    """Return the histogram of p of given labels, by agreement with the prediction, and the weighting as a curve."""
    p, agrees = _of_given(fit), _ours(fit).argmax(1) == fit.given
    figure = new_figure(4.8 if narrow else 8.0, 4.0 if narrow else 3.6)
    axis = figure.add_subplot()
    bins = np.linspace(0.0, 1.0, 26)
    labels = ["predicted as given", "predicted otherwise"]
    axis.hist([p[agrees], p[~agrees]], bins.tolist(), stacked=True, color=list(FILLS), label=labels)
    axis.set(xlabel="p of the given label of held-out rows", ylabel="rows", xlim=(0, 1))
    axis.spines[["top", "right"]].set_visible(False)
    other = axis.twinx()
    grid = np.linspace(0.0, 1.0, 501)
    weight = _finite(fit.weighting, grid)
    other.plot(grid, weight / np.nanmax(weight), color=COLORS[4], lw=1.6, label="emphasis w(p), share of its peak")
    other.set(ylim=(0, 1.08), yticks=[])
    other.spines[["top", "right"]].set_visible(False)
    handles, texts = (
        a + b for a, b in zip(axis.get_legend_handles_labels(), other.get_legend_handles_labels(), strict=True)
    )
    axis.legend(handles, texts, frameon=False, loc="lower center", ncols=1 if narrow else 3, bbox_to_anchor=(0.5, 1.0))
    return figure


def _finite(weighting: Weighting, p: NDArray[np.float64]) -> NDArray[np.float64]:
    weight = weighting(p)
    return np.where(np.isfinite(weight), weight, np.nan)
