"""What README.md, docs/ and examples/ print can be run as it stands.

Python runs page by page, in a folder with the files that the pages name; the blocks of README.md run one by one, each
alone. Commands are parsed by the real parser, and those that take seconds are run. The code of the notebooks of
docs/tutorials runs here as well as when the documentation is built with their output.
"""

import ast
import contextlib
import doctest
import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image
from torch import nn

import emphasis
from controls import share_of_the_way
from emphasis.extras import MissingExtraError

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
ALL_PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("tutorials/*.md")])
TUTORIALS = [page for page in ALL_PAGES if page.parent.name == "tutorials"]
ALONE = {"README.md", "index.md", "from_cross_entropy.md", "from_sklearn.md", "from_cleanlab.md"}


def read(page, otherwise=None):
    return otherwise if otherwise is not None and not page.exists() else page.read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{re.escape(language)}\n(.*?)^```", read(page), re.DOTALL | re.MULTILINE)


def name_of(page):
    return page.relative_to(ROOT).as_posix()


def commands(page):
    """The lines of a page's shell blocks that start the command `emphasis`, without comments and continuations."""
    text = "".join(blocks(page, "shell")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in text.splitlines() if "emphasis" in line]
    lines = [line[[word == "emphasis" for word in line].index(True) + 1 :] for line in lines if "emphasis" in line]
    return [[word for word in line if word != "&"] for line in lines if line != ["--version"]]


PAGES = [
    page
    for page in ALL_PAGES
    if page not in TUTORIALS and page.name not in {*ALONE, "architecture.md"} and blocks(page, "python")
]


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


@pytest.mark.parametrize("page", PAGES, ids=name_of)
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
    for block in blocks(page, "python"):
        if "torch.distributed" in block:  # needs several processes; tests/torch/ranks.py is that test
            continue
        if "emphasis.boosting.dask" in block:  # needs a cluster; tests/boosting/test_dask.py is that test
            continue
        if "onnxruntime" in block:  # tests/tabular/test_onnx_export.py runs it
            continue
        exec(block, names)


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *(DOCS / name for name in sorted(ALONE - {"README.md"}))], ids=name_of
)
def test_the_python_of_an_introduction_needs_nothing_that_is_not_printed(page):
    printed = blocks(page, "python")
    assert printed
    names = {}
    for block in printed:
        exec(block, {} if page.name == "README.md" else names)


@pytest.mark.parametrize("page", [page for page in ALL_PAGES if blocks(page, "pycon")], ids=name_of)
def test_a_dialog_on_a_page_goes_as_printed(page):
    for block in blocks(page, "pycon"):
        dialog = doctest.DocTestParser().get_doctest(block, {}, name_of(page), name_of(page), 0)
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(dialog) == (0, len(dialog.examples))


@pytest.mark.parametrize("page", TUTORIALS, ids=name_of)
def test_a_tutorial_runs(page, tmp_path, monkeypatch):
    from emphasis.cli.main import main

    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path / "my-folder")  # where nothing is that the tutorial does not make
    names = {"main": main}
    for block in blocks(page, "{code-cell}"):
        lines = (
            f"assert main({shlex.split(line[1:])[1:]!r}) == 0" if line.startswith("!emphasis ") else line
            for line in block.splitlines()
        )
        exec("\n".join(lines), names)


@pytest.mark.parametrize("page", [ROOT / "README.md", *ALL_PAGES], ids=name_of)
def test_every_command_on_a_page_is_one_that_the_parser_takes(page):
    from emphasis.cli.main import make_parser
    from emphasis.cli.options import join_negative_numbers
    from emphasis.experiments.recipes.load import recipe_names

    parser = make_parser()
    for command in commands(page):
        options, rest = parser.parse_known_args(join_negative_numbers(command))
        assert options.command == "show" or not rest, f"{command}: {rest}"
        if options.command in ("run", "search"):
            assert options.recipe in recipe_names() or options.recipe.endswith(".toml"), command


def quick(command):
    return command[0] in ("show", "recipes")


@pytest.mark.parametrize(
    "page", [p for p in [ROOT / "README.md", *ALL_PAGES] if any(map(quick, commands(p)))], ids=name_of
)
def test_the_quick_commands_on_a_page_run(page, capsys):
    from emphasis.cli.main import main

    for command in filter(quick, commands(page)):
        assert main(command) == 0
        assert capsys.readouterr().out


def test_the_stored_results_that_the_pages_name_can_be_reported(monkeypatch, capsys):
    from emphasis.cli.main import main

    stored = set(re.findall(r"emphasis report\s(results/[\w-]+)", "".join(map(read, ALL_PAGES))))
    assert stored
    monkeypatch.chdir(ROOT)
    for folder in stored:
        assert main(["report", folder, "--format", "csv"]) == 0
        assert "CCE" in capsys.readouterr().out


def test_the_recipes_of_the_experiments_page_run(tmp_path):
    from emphasis.cli.main import main
    from emphasis.experiments.recipes.load import parse_recipe

    recipe, change = blocks(DOCS / "experiments.md", "toml")
    (elr,) = (row for row in parse_recipe(change).methods if row.name == "ELR")
    assert elr.training["lam"] == 7.0
    (tmp_path / "mine.toml").write_text(recipe)
    assert (
        main(["run", "mine.toml", "--data", "my-folder", "--seeds", "1", "--iterations", "200", "--no-progress"]) == 0
    )
    rows = [json.loads(line) for line in (tmp_path / "runs" / "mine" / "results.jsonl").read_text().splitlines()]
    assert [row["method"] for row in rows] == ["CCE", "DM 0.5/8"]
    assert rows[0]["outcome"] == "learned"


def test_the_method_of_ones_own_is_one_file_and_runs_in_a_recipe(tmp_path):
    from emphasis.cli.main import main

    (rows,) = blocks(DOCS / "baselines.md", "toml")
    (own,) = (block for block in blocks(DOCS / "baselines.md", "python") if "class SmallLosses" in block)
    assert len(own.splitlines()) <= 15
    recipe = blocks(DOCS / "experiments.md", "toml")[0]
    (tmp_path / "small_losses.py").write_text(own)
    (tmp_path / "mine.toml").write_text(recipe + rows)
    command = ["run", "mine.toml", "--data", "my-folder", "--seeds", "1", "--iterations", "100", "--no-progress"]
    assert main([*command, "--workers", "1"]) == 0
    lines = (tmp_path / "runs" / "mine" / "results.jsonl").read_text().splitlines()
    results = {row["method"]: row for row in map(json.loads, lines)}
    assert list(results) == ["CCE", "DM 0.5/8", "ELR", "Small losses"]
    assert results["Small losses"]["training"] == {"name": "small_losses.py:SmallLosses", "share": 0.7}
    for name in ("ELR", "Small losses"):
        accuracy = results[name]["final_test_accuracy"]
        assert share_of_the_way(accuracy, 0.1, results["CCE"]["final_test_accuracy"]) > 0.5


def test_every_page_heading_and_picture_that_is_linked_is_there():
    broken = []
    for page in sorted([*ROOT.glob("*.md"), *ALL_PAGES, *(ROOT / "results").rglob("*.md")]):
        for target in targets(page):
            path, _, heading = target.partition("#")
            if re.match(r"\w+:", path) or path.startswith("_generated/"):  # of the web; drawn for the documentation
                continue
            linked = (page.parent / unquote(path)).resolve() if path else page
            if not linked.exists() or (heading and heading not in anchors(linked)):
                broken.append(f"{name_of(page)} links to {target}")
    assert broken == []


def tokens(page):
    for token in MarkdownIt("commonmark").enable("table").parse(read(page)):
        yield token
        yield from token.children or ()


def targets(page):
    """The targets of a page's links and pictures, and of those in HTML."""
    for token in tokens(page):
        yield from filter(None, (token.attrGet("href"), token.attrGet("src")))
        if token.type.startswith("html"):
            yield from re.findall(r"""(?:href|src)=["']([^"']+)""", token.content)


@cache
def anchors(page):
    """The fragments that GitHub and MyST give to a page's headings; the second of the same name ends in -1."""
    text = read(page)
    names = [anchor(line) for line in re.findall(r"^#+ (.*)$", re.sub(r"(?ms)^```.*?^```", "", text), re.MULTILINE)]
    repeated = {f"{name}-{number}" for name in names for number in range(1, names.count(name))}
    return {*names, *repeated}


def anchor(heading):
    heading = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_the_page_of_installation_has_every_extra():
    extras = tomllib.loads(read(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    lines = re.findall(r"^\| (`.*`) \| (.*) \|$", read(DOCS / "install.md"), re.MULTILINE)
    described = {name for names, _ in lines for name in re.findall(r"`([^`]*)`", names)}
    assert described == extras.keys() - {"test", "lint", "docs", "release"}
    (everything,) = extras["all"]
    (said,) = (text for names, text in lines if names == "`all`")
    assert re.findall(r"`([^`]*)`", said) == everything.partition("[")[2].rstrip("]").split(",")


def test_the_readme_is_short():
    assert len(read(ROOT / "README.md").splitlines()) <= 120


PACKAGES = [
    package.name
    for package in pkgutil.iter_modules(emphasis.__path__, "emphasis.")
    if "__all__" in read(Path(package.module_finder.path) / package.name.rpartition(".")[2] / "__init__.py", "")
]


def documented():
    """The qualified names that docs/api.md documents."""
    names, module = set(), ""
    directives = re.findall(r"^\.\. (?:py:)?(\w+):: ([\w.]+)", read(DOCS / "api.md"), re.MULTILINE)
    for kind, name in directives:
        if kind == "currentmodule":
            module = name
        else:
            names.add(name if name.startswith("emphasis.") else f"{module}.{name}")
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_the_api_page_documents_exactly_what_a_package_offers(package):
    names = {name.rpartition(".")[2] for name in documented() if name.rpartition(".")[0] == package}
    assert names == set(importlib.import_module(package).__all__)


def test_the_api_page_documents_what_can_be_imported_from_emphasis():
    names = {name.rpartition(".")[2] for name in documented()}
    assert set(emphasis.__all__) - {"__version__"} <= names


def test_what_the_api_page_documents_exists():
    for name in documented():
        module, _, attribute = name.rpartition(".")
        with contextlib.suppress(MissingExtraError):  # a library that is not installed, such as CatBoost
            assert hasattr(importlib.import_module(module), attribute), name


def test_code_on_the_pages_is_python():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ALL_PAGES]:
        for language in ("python", "{code-cell}"):
            for block in blocks(page, language):
                ast.parse(re.sub(r"^!.*$", "", block, flags=re.MULTILINE))


def test_the_example_runs_and_shows_what_it_says():
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "own_loop.py")], capture_output=True, text=True, check=True
    )
    accuracy = {line[:14].strip(): float(line[14:].strip(" %")) for line in result.stdout.splitlines()}
    assert min(accuracy["DM"], accuracy["DM, vanishing"]) > accuracy["cross-entropy"] + 10


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """A copy of the package with what docs/architecture.md adds to it."""
    folder = tmp_path_factory.mktemp("extended")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    page = DOCS / "architecture.md"
    for language in ("python", "toml"):
        for block in blocks(page, language):
            if block.startswith("# src/"):
                path = folder / block.partition("\n")[0].removeprefix("# ")
                assert not path.exists()
                path.write_text(block.partition("\n")[2], encoding="utf-8")
    for block in blocks(page, "diff"):
        first, *lines = block.splitlines()
        before, after = ("\n".join(line[1:] for line in lines if line[0] in signs) for signs in (" -", " +"))
        path = folder / first.removeprefix("# ")
        text = path.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{first} has not once: {before}"
        path.write_text(text.replace(before, after), encoding="utf-8")
    return folder


def run_extended(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(folder / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_loss_a_method_a_network_a_data_set_a_noise_and_a_recipe_are_added_as_the_page_says(extended):
    options = ["--no-progress", "--workers", "1", "--threads", "1", "--out", "runs/wine"]
    run_extended(extended, "-m", "emphasis", "run", "wine", *options)
    rows = [json.loads(line) for line in (extended / "runs" / "wine" / "results.jsonl").read_text().splitlines()]
    assert sorted(row["method"] for row in rows) == ["Cubic", "Trimmed"]
    assert all(row["final_test_accuracy"] > 0.6 for row in rows)


def test_the_page_uses_the_loss_that_it_adds(extended):
    (use,) = (block for block in blocks(DOCS / "architecture.md", "python") if not block.startswith("# src/"))
    assert "Cubic" in run_extended(extended, "-c", f"{use}\nprint(criterion)")


def test_a_command_is_added_as_the_page_says(extended):
    assert run_extended(extended, "-m", "emphasis", "mode", "Cubic") == "0.0000\n"
    assert "print the mode of a weighting" in run_extended(extended, "-m", "emphasis", "--help")


def test_every_file_that_the_architecture_page_names_is_there():
    text = read(DOCS / "architecture.md")
    named = re.findall(r"`(src/emphasis/[\w/.]+)`", text)
    assert len(named) > 10
    for path in named:
        assert (ROOT / path).exists(), path
    packages = re.findall(r"`([\w/]+/|\w+\.py)`", text.partition("## Where is")[0])
    for name in packages:
        assert any((ROOT / folder / name).exists() for folder in (".", "src/emphasis", "src/emphasis/diagnostics")), (
            name
        )


def test_the_map_of_the_packages_is_drawn_from_the_import_contracts(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    from make_map import draw

    assert read(DOCS / "images" / "architecture.svg") == draw(), "run python docs/make_map.py"
