"""Draw the map of the packages from the import contracts of pyproject.toml: python docs/make_map.py.

Each row may import from the rows below it and from none above, which `make lint` checks.
"""

from __future__ import annotations

import html
import tomllib
from pathlib import Path

DOCS = Path(__file__).resolve().parent
WIDTH, ROW, GAP = 860, 54, 14
PURPOSE = {
    "cli": "the command line",
    "api": "the commands as functions",
    "experiments": "training of many networks",
    "reports": "tables, figures, pages",
    "studies": "search, tune, audit",
    "tracking": "TensorBoard, MLflow, Trackio",
    "runs": "jobs, workers, results",
    "recipes": "descriptions",
    "images": "emphasis fit of images",
    "tabular": "emphasis fit of tables",
    "training": "the training loop",
    "diagnostics": "traces, suspects, plots",
    "review": "decisions about labels",
    "comparison": "of two classifiers",
    "sklearn": "estimators",
    "boosting": "trees",
    "jax": "the losses",
    "huggingface": "trainer",
    "trl": "fine-tuning",
    "lightning": "module",
    "baselines": "other methods",
    "torch": "the losses",
    "datasets": "data",
    "models": "networks",
    "corruption": "label noise",
    "metrics": "of a run",
    "scores": "of a classifier",
    "retrieval": "mAP and ranks",
    "kernels": "C and Triton",
    "rich_text": "terminal text",
    "executors": "local processes, Ray, Slurm",
    "weighting": "the mathematics",
    "files": "safe writing",
    "loopback": "local servers",
    "extras": "optional packages",
    "json_files": "reading JSON",
    "process": "signals, ranks",
    "learning_rate": "rate search",
    "registry": "objects by name",
    "deprecation": "old names",
    "validation": "checks of values",
    "compatibility": "private APIs",
    "texts": "text helpers",
    "errors": "the root of all errors",
}
STYLE = """
  text { font-family: system-ui, sans-serif; fill: #1c1c1c; text-anchor: middle }
  .name { font-size: 14px; font-weight: 600 } .purpose { font-size: 11px; fill: #555 }
  rect { fill: #eef3fb; stroke: #1f4e9e; stroke-width: 1 } .group { fill: none; stroke-dasharray: 4 3 }
  path { stroke: #888; fill: none; stroke-width: 1.5 }
  @media (prefers-color-scheme: dark) {
    text { fill: #eee } .purpose { fill: #bbb } rect { fill: #1d2738; stroke: #7fa8e8 } .group { fill: none }
  }
"""


def layers(package: str = "emphasis") -> list[list[str]]:
    """Return the layers of a package, from the top one to the lowest, as pyproject.toml has them."""
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text(encoding="utf-8"))
    for contract in project["tool"]["importlinter"]["contracts"]:
        rows = [[part.strip() for part in layer.split("|")] for layer in contract.get("layers", [])]
        if rows and all(name.rpartition(".")[0] == package for row in rows for name in row):
            public = [[name.rpartition(".")[2] for name in row if "._" not in name] for row in rows]
            return [row for row in public if row]
    raise LookupError(f"pyproject.toml has no contract for the layers of {package}")


def draw() -> str:
    """Return the map as SVG."""
    shapes, y = [], GAP
    for number, row in enumerate(layers()):
        if number:
            shapes.append(f'<path d="M{WIDTH / 2} {y - GAP + 2} v{GAP - 6}" marker-end="url(#tip)"/>')
        if row == ["experiments"]:
            inner = layers("emphasis.experiments")
            top, y = y, y + GAP
            for place, parts in enumerate(inner):
                if place:
                    shapes.append(f'<path d="M{WIDTH / 2} {y - GAP + 2} v{GAP - 6}" marker-end="url(#tip)"/>')
                shapes += _boxes([f"experiments.{name}" for name in parts], y, 60)
                y += ROW + GAP
            shapes.append(f'<rect class="group" x="20" y="{top}" width="{WIDTH - 40}" height="{y - top}" rx="6"/>')
            y += GAP
        else:
            shapes += _boxes(row, y, 20)
            y += ROW + GAP
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
        "<title>The packages of emphasis: each row imports from the rows below it only</title>"
        f"<style>{STYLE}</style>"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
        '<path d="M0 0 L8 4 L0 8 z" fill="#888"/></marker></defs>'
    )
    return "\n".join([head, *shapes, "</svg>\n"])


def _boxes(names: list[str], y: int, margin: int) -> list[str]:
    width = (WIDTH - 2 * margin - GAP * (len(names) - 1)) / len(names)
    shapes = []
    for place, name in enumerate(names):
        x = margin + place * (width + GAP)
        purpose = PURPOSE.get(name.rpartition(".")[2], "")
        shapes.append(f'<rect x="{x:.0f}" y="{y}" width="{width:.0f}" height="{ROW}" rx="5"/>')
        shapes.append(
            f'<text class="name" x="{x + width / 2:.0f}" y="{y + (24 if purpose else 31)}">{html.escape(name)}</text>'
        )
        if purpose:
            shapes.append(f'<text class="purpose" x="{x + width / 2:.0f}" y="{y + 42}">{html.escape(purpose)}</text>')
    return shapes


if __name__ == "__main__":
    (DOCS / "images" / "architecture.svg").write_text(draw(), encoding="utf-8")
