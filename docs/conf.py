from __future__ import annotations

import os
import re
import sys
import sysconfig
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from make_images import draw_edf  # noqa: E402

import emphasis  # noqa: E402

project = "emphasis"
author = "The emphasis developers"
copyright = author
release = version = emphasis.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"  # a notebook runs again when its code has changed
nb_execution_cache_path = str(DOCS / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
suppress_warnings = ["myst-nb.lexer"]  # with -D nb_execution_mode=off nothing says what language the notebooks are in
os.environ["PATH"] = os.pathsep.join((sysconfig.get_path("scripts"), os.environ["PATH"]))  # `!emphasis` in notebooks

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["reading.css"]
html_js_files = ["reading.js"]
html_title = f"emphasis {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f4e9e", "color-brand-content": "#1f4e9e"},
}

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"Array": "Array", "FloatArray": "FloatArray"}
python_maximum_signature_line_length = 100
napoleon_use_rtype = False
default_role = "code"  # docstrings write `code`, as Markdown does


def escape(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:  # noqa: ARG001
    """Keep the formulas of docstrings (|A|, 2 * p, log_) from being read as markup; code and dialogs are left alone."""
    in_dialog = False
    for i, line in enumerate(lines):
        in_dialog = line.lstrip().startswith(">>> ") or (in_dialog and bool(line.strip()))
        if in_dialog:
            continue
        parts = re.split(r"(`[^`]*`)", line)
        parts[::2] = [re.sub(r"([*|]|_(?!\w))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)
    if what == "property":
        lines[:0] = ["..", ""]  # a comment; else napoleon takes "The mode: the ..." for "type: description"


def setup(app: Any) -> None:
    draw_edf(DOCS / "_generated" / "edf.png")
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon makes markup of sections
