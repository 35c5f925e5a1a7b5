"""Check the distributions in a folder as a user will meet them.

    python packaging/check_dist.py DIST ENVIRONMENT ABOUT

Serves the folder as a package index on loopback and installs the wheel with the extra `all` from it into a new
ENVIRONMENT, where no compiler can be found. Runs a part of the tests in the unpacked sdist. Writes the software bill of
materials and the licenses of the dependencies into ABOUT, and fails on a license that pyproject.toml does not allow.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = [
    "tests/weighting/test_objects.py",
    "tests/test_metrics.py",
    "tests/kernels/test_native.py",
    "tests/torch/test_loss.py",
]


def run(*command: str | Path, **options: object) -> None:
    """Run a command, and stop where it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(word) for word in command], check=True, **options)  # type: ignore[call-overload]


def only(folder: Path, pattern: str) -> Path:
    """Return the one file that a pattern matches."""
    paths = list(folder.glob(pattern))
    assert len(paths) == 1, f"expected one {pattern} in {folder}, got {[path.name for path in paths]}"
    return paths[0]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder of distributions as a package index, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "pypiserver", "run", "-i", "127.0.0.1", "-p", str(port), str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/simple/"
    finally:
        server.terminate()
        server.wait()


def check_contents(wheel: Path, sdist: Path) -> str:
    """Check what the distributions hold, and return their version."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = archive.read(next(name for name in names if name.endswith(".dist-info/METADATA"))).decode()
    about = Parser().parsestr(metadata)
    for needed in ("py.typed", "kernels/rows.c", "experiments/recipes/digits.toml"):
        assert f"emphasis/{needed}" in names, f"{wheel.name} lacks emphasis/{needed}"
    assert any(name.startswith("emphasis/kernels/built/") for name in names), f"{wheel.name} has no compiled kernels"
    assert not any(name.startswith("tests/") or "__pycache__" in name for name in names)
    with tarfile.open(sdist) as archive:
        inner = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("PKG-INFO", "LICENSE", "hatch_build.py", "tests/conftest.py", "docs/index.md", "constraints.txt"):
        assert needed in inner, f"{sdist.name} lacks {needed}"
    return str(about["Version"])


def check_wheel(version: str, dist: Path, environment: Path) -> None:
    """Install the wheel from an index on loopback, and use it where there is no compiler."""
    run(sys.executable, "-m", "venv", "--clear", environment)
    python = environment / "bin" / "python"
    with served(dist) as index:
        options = ["--quiet", "--disable-pip-version-check", "--extra-index-url", index, "--only-binary=emphasis-learn"]
        run(python, "-m", "pip", "install", *options, "-c", ROOT / "constraints.txt", f"emphasis-learn[all]=={version}")
    with tempfile.TemporaryDirectory() as empty:
        alone = {"PATH": str(environment / "bin"), "HOME": empty, "TMPDIR": empty}
        printed = subprocess.check_output(["emphasis", "--version"], env=alone, cwd=empty, text=True)
        assert printed == f"emphasis {version}\n", printed
        run(python, "-W", "error", ROOT / "packaging" / "check_wheel.py", env=alone, cwd=empty)
        run("emphasis", "run", "digits", "--no-progress", "--seeds", "1", "--out", "digits", env=alone, cwd=empty)


def check_sdist(sdist: Path) -> None:
    """Run a part of the tests in the unpacked sdist."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(sdist) as archive:
            archive.extractall(folder, filter="data")
        root = next(Path(folder).iterdir())
        tested = {**os.environ, "PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"}
        run(sys.executable, "-m", "pytest", "-q", "-n", "2", *TESTS, cwd=root, env=tested)


def write_about(environment: Path, about: Path) -> None:
    """Write the bill of materials and the licenses of what was installed."""
    about.mkdir(parents=True, exist_ok=True)
    python, tools = environment / "bin" / "python", Path(sys.executable).parent
    run(
        *(tools / "cyclonedx-py", "environment", "--output-reproducible", "--mc-type", "library"),
        *("--output-file", about / "sbom.json", python),
    )
    listed = ["--python", python, "--format", "markdown", "--with-urls", "--output-file", about / "licenses.md"]
    run(tools / "pip-licenses", *listed, cwd=ROOT)  # reads the allowed licenses from pyproject.toml


def main() -> None:
    """Check everything."""
    dist, environment, about = (Path(word).absolute() for word in sys.argv[1:])
    wheel, sdist = only(dist, "*.whl"), only(dist, "*.tar.gz")
    version = check_contents(wheel, sdist)
    check_wheel(version, dist, environment)
    check_sdist(sdist)
    write_about(environment, about)
    print(f"{wheel.name} and {sdist.name} are fit to be published")


if __name__ == "__main__":
    main()
