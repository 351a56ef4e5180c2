"""`python -m nemo_workflow.runs`: look at and steer the runs under a folder, from any later shell."""
