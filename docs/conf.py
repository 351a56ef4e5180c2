"""The site: sphinx-build -c docs -W . site. README, docs/, benchmarks/ and CONTRIBUTING.md are its pages."""

project = "NeMo workflow"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md", "benchmarks/*.md"]
exclude_patterns = [".venv", "demo_output"]  # Sphinx follows links and would walk through the whole environment
source_suffix = {".md": "markdown"}
myst_heading_anchors = 3
suppress_warnings = [
    "toc.empty_glob",
    "myst.header",
]  # pages that are not there yet; pages that begin at a lower heading
smartquotes = False  # -- and quotes belong to commands that people copy
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_extra"]
html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
