"""How Sphinx builds the documentation: ``sphinx-build -W -b html docs docs/_build/html`` from the checkout's root."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # document the checkout, not what is installed

import serverworker

project = "serverworker"
author = "the serverworker developers"
copyright = author  # the name that Sphinx reads
release = version = serverworker.__version__

extensions = ["sphinx.ext.autodoc", "from_code"]
exclude_patterns = ["_build", "_ext"]
html_theme = "furo"
html_title = f"serverworker {release}"

nitpicky = True
nitpick_ignore_regex = [
    # The build reaches no other project's inventory, so names of others cannot be linked.
    (r"py:.*", r"(collections|socket|twisted|treq|klein|zope|attrs?)\..*"),
    (r"py:.*", r"<InterfaceClass .*>"),  # an interface of Twisted's in a signature
]

# Docstrings are plain sentences: a word in single backticks is code, not a reference that must resolve.
default_role = "code"
autodoc_default_options = {"members": True, "undoc-members": True, "member-order": "bysource"}
add_module_names = False  # each page says where its names are imported from
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_class_signature = "mixed"
