"""Settings of Sphinx: `sphinx-build docs build/docs`."""

project = "wbdc"
author = "wbdc contributors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "wbdc"
myst_heading_anchors = 3

# Files outside docs/ are linked for readers of the repository; the built pages leave them as text.
suppress_warnings = ["myst.xref_missing"]
