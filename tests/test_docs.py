"""The Python in README.md and docs/ runs as printed, page by page, in a three-class setting."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "docs/index.md", "docs/usage.md", "docs/choosing.md"]


@pytest.mark.parametrize("page", PAGES)
def test_the_python_on_a_page_runs(page):
    torch.manual_seed(0)
    model = nn.Linear(5, 3)
    x, labels = torch.randn(12, 5), torch.arange(12) % 3
    names = {
        "model": model,
        "loader": [(x, labels)] * 2,
        "optimizer": torch.optim.SGD(model.parameters(), 0.1),
        "logits": model(x),
        "labels": labels,
        "trust": torch.rand(12),
    }
    exec("from emphasis import DM\nfrom emphasis.torch import EmphasisLoss", names)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    for block in blocks:
        if "torch.distributed" not in block:  # needs several processes; tests/torch/two_ranks.py is that test
            exec(block, names)


def test_every_page_that_is_linked_is_there():
    for page in [*PAGES, "docs/theory.md", "CONTRIBUTING.md"]:
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
