"""The site: sphinx-build -c docs -W . site. README, docs/, benchmarks/ and CONTRIBUTING.md are its pages."""

project = "NeMo workflow"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "benchmarks/*.md"]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
suppress_warnings = [
    "toc.empty_glob",
    "myst.header",
]  # pages that are not there yet; pages that begin at a lower heading
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
