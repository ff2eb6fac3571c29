"""How Sphinx makes the site: `./scripts/docs`."""

import os
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent / "_extensions"), str(Path(__file__).parents[1])]
sys.path.append(str(Path(__file__).parents[1] / "scripts"))

project, author = "jaxdrop", "the authors of jaxdrop"
extensions = [
    "docstrings",
    "members",
    "names",
    "notebooks",
    "page_scripts",
    "pictures",
    "references",
    "results_page",
    "signatures",
    "tables",
    "typography",
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
html_static_path = ["_static"]
exclude_patterns = ["_build", "results"]
templates_path = ["_templates"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

# The pages in tutorials/ are notebooks, and run: on a CPU, so that all machines make about the
# same figures.
os.environ["JAX_PLATFORMS"] = "cpu"
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
# A warning in a cell fails the build.
nb_output_stderr = "remove-warn"

default_role = "literal"

add_module_names = False
autodoc_typehints = "none"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"
# Longer ones have a line for each argument.
python_maximum_signature_line_length = 100
autodoc_default_options = {"no-value": True}
autosummary_ignore_module_all = False
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "jaxdrop"
html_favicon = "_static/favicon.svg"
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}
# All pages in the navigation of each would take minutes to write.
html_theme_options = {
    "show_toc_level": 2,
    "collapse_navbar": True,
    "max_navbar_depth": 2,
    # A second field for searching, in a bar of its own.
    "navbar_persistent": [],
}
