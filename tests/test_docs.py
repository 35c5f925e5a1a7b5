"""The Python in README.md and docs/ runs as printed, page by page, in a three-class setting."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from controls import share_of_the_way

ROOT = Path(__file__).parent.parent
NAMES = (
    "index",
    "usage",
    "frameworks",
    "boosting",
    "sklearn",
    "fit",
    "speed",
    "distributed",
    "choosing",
    "data",
    "baselines",
    "suspects",
    "schedules",
    "large",
)
PAGES = ["README.md", *(f"docs/{name}.md" for name in NAMES)]


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """A folder with the table and the images that the pages speak of."""
    rng = np.random.default_rng(0)
    lines = ["id,age,plan,churned"]
    for number in range(3000):
        age = rng.integers(18, 80)
        churned = "yes" if age + rng.normal(0, 8) > 50 else "no"
        lines.append(f"c{number},{age},{rng.choice(['basic', 'full'])},{churned}")
    (tmp_path / "my-folder").mkdir()
    (tmp_path / "my-folder" / "customers.csv").write_text("\n".join(lines) + "\n")
    for number in range(20):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(70, 80, 3), dtype=np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("page", PAGES)
def test_the_python_on_a_page_runs(page):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    x, labels = torch.randn(12, 5), torch.arange(12) % 3
    names = {
        "model": model,
        "loader": [(x, labels)] * 2,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "x": x,
        "logits": model(x),
        "labels": labels,
        "trust": torch.rand(12),
        "steps": 4,
    }
    exec("from emphasis import DM\nfrom emphasis.torch import EmphasisLoss", names)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        if "torch.distributed" not in block:  # needs several processes; tests/torch/ranks.py is that test
            exec(block, names)


def test_the_recipe_of_the_experiments_page_runs(tmp_path):
    from emphasis.cli.main import main

    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "mine.toml").write_text(recipe)
    assert (
        main(["run", "mine.toml", "--data", "my-folder", "--seeds", "1", "--iterations", "200", "--no-progress"]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["CCE", "DM 0.5/8"]
    assert rows[0]["outcome"] == "learned"


def test_the_method_of_ones_own_is_one_file_and_runs_in_a_recipe(tmp_path):
    from emphasis.cli.main import main

    page = (ROOT / "docs" / "baselines.md").read_text(encoding="utf-8")
    (rows,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (own,) = (block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class SmallLosses" in block)
    assert len(own.splitlines()) <= 15
    experiments = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"```toml\n(.*?)```", experiments, re.DOTALL)
    (tmp_path / "small_losses.py").write_text(own)
    (tmp_path / "mine.toml").write_text(recipe + rows)
    command = ["run", "mine.toml", "--data", "my-folder", "--seeds", "1", "--iterations", "200", "--no-progress"]
    assert main([*command, "--workers", "2"]) == 0
    found = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in found] == ["CCE", "DM 0.5/8", "ELR", "Small losses"]
    assert found[3]["training"] == {"name": "small_losses.py:SmallLosses", "share": 0.7}
    for row in found[2:]:
        assert share_of_the_way(row["final_test_accuracy"], 0.1, found[0]["final_test_accuracy"]) > 0.5


def test_every_page_that_is_linked_is_there():
    for page in [*PAGES, "docs/theory.md", "docs/experiments.md", "docs/figures.md", "CONTRIBUTING.md"]:
        text = (ROOT / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            if not target.startswith("_generated/"):  # drawn when the documentation is built
                assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


def test_the_example_runs_and_shows_what_it_says():
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "own_loop.py")], capture_output=True, text=True, check=True
    )
    accuracy = {line[:14].strip(): float(line[14:].strip(" %")) for line in result.stdout.splitlines()}
    assert min(accuracy["DM"], accuracy["DM, vanishing"]) > accuracy["cross-entropy"] + 10
