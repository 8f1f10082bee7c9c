# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx makes the pages; tools/docs calls it."""

from __future__ import annotations

from fractal_slurm import __version__

project = "fractal.slurm"
copyright = "The fractal.slurm authors"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.graphviz", "sphinx_antsibull_ext", "sphinx_click"]
root_doc = "index"
html_theme = "furo"
html_title = f"fractal.slurm {version}"
html_copy_source = False
html_show_sphinx = False
graphviz_output_format = "svg"
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]
# Every reference must lead somewhere, those to words of Python and of Ansible's own documentation excepted: to look at
# them would need the network.
nitpicky = False
suppress_warnings = ["myst.header"]
# Ansible's own pages say where options, return values and playbooks are described in general.
intersphinx_mapping: dict[str, tuple[str, str | None]] = {}
