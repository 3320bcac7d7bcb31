"""How Sphinx builds this folder (`make docs`): offline, and every warning is an error."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from sphinx.application import Sphinx

import pyqueue

project = "pyqueue"
copyright = "pyqueue contributors"  # noqa: A001 - Sphinx's name for it
version = release = pyqueue.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_click"]
exclude_patterns = ["_*"]
myst_heading_anchors = 4
myst_enable_extensions = ["attrs_inline"]
suppress_warnings = ["myst.header"]  # what is included begins with a heading of its own

highlight_language = "text"
html_theme = "furo"
html_title = f"pyqueue {version}"
html_copy_source = False
html_show_sphinx = False

autodoc_default_options = {"members": True, "undoc-members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
default_role = "literal"
smartquotes = False  # two dashes begin an option
toc_object_entries_show_parents = "hide"
nitpick_ignore_regex = [
    # Other projects' pages, which are not here: a build needs no network.
    ("py:.*", r"(redis|collections|types|enum|typing|pathlib|os|argparse|builtins)\..*"),
    # What a parameter's default is made of, and the aliases of redis-py's clients.
    ("py:class", r"(pyqueue\..*\.)?(Unset|(Async)?Client)"),
]


def setup(app: Sphinx) -> None:
    """Help texts of commands are no markup: a star in them is a star."""

    def escape(_app: Sphinx, _context: object, lines: list[str]) -> None:
        lines[:] = [line.replace("*", "\\*") for line in lines]

    app.connect("sphinx-click-process-description", escape)
