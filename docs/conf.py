"""Sphinx: the site of ``make docs``. Sources are the whole repository, so that its Markdown files are pages as well."""

import pathlib
import tomllib

from sphinx.application import Sphinx

ROOT = pathlib.Path(__file__).parents[1]
_project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = "hdrops"
author = _project["authors"][0]["name"]
release = _project["version"]
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/RESULTS.md"]

myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
highlight_language = "none"  # literal blocks of docstrings are equations
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # the signature of a class has the types
# No list of the objects of other packages is at hand to refer to.
nitpick_ignore_regex = [
    ("py:.*", r"(torch|numpy|np|pathlib|os|signal|collections|typing|datetime|tuple|pydantic|annotated_types)\b.*"),
    ("py:class", "Tensor"),
    ("py:class", r"hdrops\.train\.config\.C"),  # a type variable
    ("py:class", r"hdrops\.train\.scenes\._absolute"),  # of an annotated type
]

html_theme = "furo"
html_title = f"hdrops {release}"
html_static_path = ["static"]
html_css_files = ["wide.css"]


def _without_missing_results(app: Sphinx, page: str, source: list[str]) -> None:
    """``bench/RESULTS.md`` is there once ``make bench`` has run."""
    if page == root_doc and not (ROOT / "bench" / "RESULTS.md").exists():
        source[0] = source[0].replace("/bench/RESULTS\n", "")


def _start_page(app: Sphinx, error: Exception | None) -> None:
    """The sources' root is the repository; a reader expects index.html at the root of the site."""
    if error is None:
        to = f"{root_doc}.html"
        (pathlib.Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={to}">\n')


def setup(app: Sphinx) -> None:
    app.connect("source-read", _without_missing_results)
    app.connect("build-finished", _start_page)
