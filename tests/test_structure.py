"""Files and functions stay small, and modules import one way."""

import ast
from pathlib import Path

import networkx

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "emphasis"
MOST_LINES, MOST_PARAMETERS = 400, 8

# Functions with many keyword-only parameters that the commands and `emphasis.api` call: the settings of a study.
ENTRY_POINTS = {"studies/tune.py: tune", "studies/search.py: search", "studies/image_fit.py: fit_images"}

# Circles that exist only through imports inside of functions, so that no module needs another one to be imported.
LAZY_CIRCLES = {
    # `make_executor` imports the executor that is asked for.
    ("executors.base", "executors.local", "executors.on_ray", "executors.on_slurm"),
    # Methods that were written before `VideoMethod` are made one when their class is created.
    ("baselines.protocol", "baselines.video"),
    # Under torch.compile the losses call the module that imports the compiler, which traces their plain form.
    ("torch._compiled", "torch.functional", "torch.linear"),
}


def python_files():
    for folder in ("src", "tests", "benchmarks", "docs", "examples"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if "_build" not in path.parts)


def test_no_file_has_more_lines_than_one_can_keep_in_mind():
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in python_files()}
    assert len(lines) > 300
    assert {path: number for path, number in lines.items() if number > MOST_LINES} == {}


def test_no_function_that_runs_networks_takes_many_parameters():
    many = set()
    for folder in ("runs", "studies"):
        for path in (PACKAGE / "experiments" / folder).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                    if len(names) > MOST_PARAMETERS:
                        many.add(f"{folder}/{path.name}: {node.name}")
                        assert len(names) - len(node.args.kwonlyargs) <= MOST_PARAMETERS
    assert many == ENTRY_POINTS


def imports_of(tree, *, within_functions):
    """Yield the import statements of a module that are executed, without those for type checkers."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif within_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from imports_of(node, within_functions=within_functions)


def circles(*, within_functions):
    """Return the circles of imports among the modules of the package."""
    paths = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        paths[".".join(parts).removesuffix(".__init__")] = path
    graph = networkx.DiGraph()
    for name, path in paths.items():
        for node in imports_of(ast.parse(path.read_text(encoding="utf-8")), within_functions=within_functions):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                assert node.level == 0, f"{path}: imports are absolute"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
                targets = [target if target in paths else node.module for target in names]
            graph.add_edges_from((name, target) for target in targets if target in paths and target != name)
    assert graph.number_of_edges() > 500
    groups = networkx.strongly_connected_components(graph)
    return {tuple(sorted(name.removeprefix("emphasis.") for name in group)) for group in groups if len(group) > 1}


def test_no_modules_need_each_other_to_be_imported():
    assert circles(within_functions=False) == set()


def test_imports_inside_of_functions_close_only_the_circles_that_are_explained():
    assert circles(within_functions=True) == LAZY_CIRCLES
