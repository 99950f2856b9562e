"""The site: Sphinx, with the pages of this folder as MyST Markdown (decision 61).

``make docs`` builds it into ``build/docs/html`` without a network. Pages with ``code-cell`` blocks
are executed; their results are kept in ``build/docs/cache`` until the code of the page changes.
"""

from __future__ import annotations

import inspect
import os
import re
import tomllib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import nbformat
from jupyter_cache import get_cache
from sphinx.ext.napoleon.docstring import NumpyDocstring

# Threads of PyTorch that have nothing to do should not occupy the CPUs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Before Keras is imported: PyTorch compiles nothing, so its fits are the quickest ones here.
if find_spec("torch"):
    os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HERE = Path(__file__).parent
BUILD = HERE.parent / "build" / "docs"
NOTEBOOKS = BUILD / "jupyter_execute"  # where MyST-NB writes the executed pages as notebooks

project = "Statecast"
copyright = "The Statecast authors"  # noqa: A001  Sphinx reads this name
version = release = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"][
    "version"
]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
exclude_patterns = ["**/data/**"]

# -- pages ---------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "cache"
nb_execution_cache_path = str(BUILD / "cache")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of libraries; the text says which ones matter
nb_mime_priority_overrides = [("html", "text/html", 25)]

# -- the reference -------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Keras are not ours
autodoc_typehints = "none"  # the docstrings have the types, with shapes and units
autodoc_class_signature = "mixed"
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = [
    ("Attributes", "params_style"),
    ("Call", "params_style"),
    "Stateful",
    "Result",
]
napoleon_use_param = False  # parameters that are described together stay together
add_module_names = False

# -- the theme -----------------------------------------------------------------------------

html_theme = "furo"
html_title = f"Statecast {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_search_scorer = str(HERE / "_static" / "scorer.js")
html_favicon = "_static/icon.svg"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1b5fa8",
        "color-brand-content": "#1b5fa8",
    },
    "dark_css_variables": {
        "color-brand-primary": "#7fb4ee",
        "color-brand-content": "#7fb4ee",
    },
}


def offer_notebook(
    app: Any, pagename: str, templatename: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put a link to the executed notebook below the first paragraph of a page that has one."""
    notebook = NOTEBOOKS / f"{pagename}.ipynb"
    if doctree is None or not notebook.exists():
        return
    target = Path(app.outdir) / f"{pagename}.ipynb"
    target.parent.mkdir(parents=True, exist_ok=True)
    # MyST-NB writes the notebook without its outputs if these are from the cache.
    _, found = get_cache(nb_execution_cache_path).merge_match_into_notebook(
        nbformat.read(notebook, as_version=4)
    )
    nbformat.write(found, target)
    link = f'<p class="notebook"><a href="{target.name}" download>Open as a notebook</a></p>'
    context["body"] = context["body"].replace("</p>", "</p>" + link, 1)


RETURNS = re.compile(r"^Returns\n-{3,}\n(.*?)(?=^\w+\n-{3,}$|\Z)", re.MULTILINE | re.DOTALL)


def keep_prose(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rename a section "Returns" that is prose: napoleon takes each of its lines for a type."""
    text = "\n".join(lines)
    found = RETURNS.search(text)
    if found and not re.search("^ ", found[1], re.MULTILINE):
        lines[:] = text.replace(found[0], f"Result\n------\n{found[1]}").split("\n")


def keep_property(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Parse the docstring of a property as that of a method: of a property napoleon takes text
    before a colon for a type, and no section."""
    if what == "property":
        lines[:] = (inspect.getdoc(obj) or "").splitlines()
        keep_prose(app, what, name, obj, options, lines)
        parsed = NumpyDocstring(lines, app.config, app, "method", name, obj, options)
        lines[:] = [*parsed.lines(), ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", keep_prose, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", keep_property, priority=600)  # after napoleon
    app.connect("html-page-context", offer_notebook)
