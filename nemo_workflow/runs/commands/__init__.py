"""One file per command `python -m nemo_workflow.NAME`: nemo_workflow/__init__.py puts this folder on the package's path."""
