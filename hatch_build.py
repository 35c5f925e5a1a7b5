"""Build hook: compile the kernels for the CPU into the wheel, one library for each level of the instruction set.

Without a C compiler, or for an editable installation, the wheel holds the sources alone, and the kernels are compiled
on first use. With EMPHASIS_BUILD_KERNELS=1, as in a release, a missing compiler is an error.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "src/emphasis/kernels"


def load_compiler(root: Path) -> Any:
    """Return emphasis/kernels/compiler.py on its own: a build has neither torch nor the package."""
    spec = importlib.util.spec_from_file_location("compiler", root / PACKAGE / "compiler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelsHook(BuildHookInterface):  # type: ignore[type-arg]
    """Adds `emphasis/kernels/built/*.so`, and makes the wheel one for this platform."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless the target is an editable wheel."""
        if self.target_name != "wheel" or version == "editable":
            return
        root = Path(self.root)
        compiler = load_compiler(root)
        folder = root / "build" / "kernels"
        folder.mkdir(parents=True, exist_ok=True)
        command = compiler.compiler_command()
        try:
            if command is None:
                raise FileNotFoundError("there is no C compiler")
            for level in compiler.levels():
                library = folder / compiler.library_name(level)
                compiler.compile_to(library, level, command)
                build_data["force_include"][str(library)] = f"emphasis/kernels/built/{library.name}"
        except (OSError, subprocess.SubprocessError) as error:
            if os.environ.get("EMPHASIS_BUILD_KERNELS") == "1":
                raise
            build_data["force_include"].clear()
            self.app.display_warning(f"the kernels are not compiled into this wheel: {error}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
