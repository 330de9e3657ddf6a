"""The documentation: Markdown in this folder, and pages made from what the program says of itself.

Build: `pip install -e '.[docs]' && sphinx-build -W -b html docs docs/_build/html`. Links to elsewhere: `-b linkcheck`.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
sys.path.insert(0, str(HERE))

from generated import write_pages  # noqa: E402

from sigma2kql import __version__  # noqa: E402

write_pages(HERE / "generated_pages")

project = "sigma2kql"
author = "the sigma2kql contributors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "sigma2kql"
html_theme_options = {"navigation_with_keys": True}
nitpicky = False
suppress_warnings = ["myst.header"]  # pages that are made begin where they please
linkcheck_ignore = [r"https?://localhost", r"https://adx\.example\.net"]
