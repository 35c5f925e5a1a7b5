"""Check the coverage of each package, lines and branches together, after the tests have run.

    python tests/coverage_floors.py            # fails if a package is below its floor in coverage_floors.json
    python tests/coverage_floors.py --write    # sets the floors to the measured values, rounded down

Code that only a compiler traces, which coverage does not see, is not counted: tests/torch/test_transforms.py and
tests/kernels/test_triton_compiled.py test it, and tests/kernels/test_triton.py tests the kernels for GPUs.
"""

import json
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path

import coverage

FLOORS = Path(__file__).with_suffix(".json")
SOURCE = Path("src/emphasis")
TRACED = ("torch/_compiled.py", "kernels/gpu_ops.py", "kernels/triton_*.py")


def measured() -> dict[str, float]:
    """Return the covered share of lines and branches of each package, in percent; "emphasis" for its own modules."""
    data = coverage.Coverage()
    data.load()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "coverage.json"
        data.json_report(outfile=str(path))
        files = json.loads(path.read_text())["files"]
    covered, total = Counter[str](), Counter[str]()
    for name, entry in files.items():
        file = Path(name.replace("\\", "/")).relative_to(SOURCE)
        if any(file.match(pattern) for pattern in TRACED):
            continue
        package = file.parts[0] if len(file.parts) > 1 else "emphasis"
        summary = entry["summary"]
        covered[package] += summary["covered_lines"] + summary.get("covered_branches", 0)
        total[package] += summary["num_statements"] + summary.get("num_branches", 0)
    return {package: 100.0 * covered[package] / max(total[package], 1) for package in sorted(total)}


def below(values: dict[str, float], floors: dict[str, float]) -> list[str]:
    """Return the packages that are below their floor, or have none."""
    return [package for package, value in values.items() if value < floors.get(package, math.inf)]


def main() -> int:
    values = measured()
    if "--write" in sys.argv[1:]:
        floors = {package: math.floor(value) for package, value in values.items()}
        FLOORS.write_text(json.dumps(floors, indent=2) + "\n")
    floors = json.loads(FLOORS.read_text())
    for package, value in values.items():
        print(f"{package:14} {value:6.1f} %   floor {floors.get(package, 'none; set one with --write')}")
    failed = below(values, floors)
    if failed:
        print(f"coverage is below its floor in {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
