"""Sphinx: MyST Markdown, the furo theme, every warning an error (see .ci/run)."""

from replkit import __version__

project = "replkit"
author = "the replkit authors"
project_copyright = "the replkit authors"
release = version = __version__
extensions = ["myst_parser"]
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"replkit {version}"
nitpicky = True
