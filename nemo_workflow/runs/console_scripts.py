"""The commands under the names that pip puts on the path; pretrain-llm is pretrain_llm.py's own."""

from __future__ import annotations

import os

from nemo_workflow.utils.errors import run_command


def preprocess_data() -> None:
    os.environ["PREPROCESS_PROGRAM"] = "preprocess-data"
    run_command("nemo_workflow.launch.corpus.command:main_and_leave", program="preprocess-data")


def convert_hf_to_nemo2() -> None:
    run_command("nemo_workflow.conversion.command:import_main", program="convert-hf-to-nemo2")


def convert_nemo2_to_hf() -> None:
    run_command("nemo_workflow.conversion.command:export_main", program="convert-nemo2-to-hf")


def download_wiki() -> None:
    run_command("nemo_workflow.wikipedia.command:main", program="download-wiki")


def nemo_runs() -> None:
    run_command("nemo_workflow.runs.__main__:main", program="nemo-runs")
