"""Sphinx configuration: `make docs`."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "Kinetwin"
author = "The Kinetwin authors"
copyright = "The Kinetwin authors"
version = release = installed_version("kinetwin")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]

# `make notebooks` executes them and fails on an error; the documentation shows what they say, not what they print.
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
# Docstrings write `code` in single backticks, as Markdown does.
default_role = "code"

html_theme = "pydata_sphinx_theme"
html_title = "Kinetwin"
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
exclude_patterns = ["_build"]


def _skip(app, what, name, member, skip, options):
    """Leaves out the fields of named tuples, which the `Attributes` of their class describe."""
    return True if (getattr(member, "__doc__", None) or "").startswith("Alias for field number") else None


def setup(app):
    app.connect("autodoc-skip-member", _skip)
