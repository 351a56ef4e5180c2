"""Keeps NVIDIA's telemetry, which NeMo starts as it is imported, from writing onelogger.log and onelogger.err.

nv-one-logger opens both in the current folder, whatever that is, and logs an error of its own there in every run.
"""

from __future__ import annotations

import importlib.util
import os

from nemo_workflow.backends.patching import fits
from nemo_workflow.backends.registry import find

FILES = ("log_file_path_for_info", "log_file_path_for_err")


def leave_out() -> None:
    """Send its files nowhere; before NeMo is imported. Does nothing where NeMo came without it (before 2.6)."""
    if importlib.util.find_spec("nv_one_logger") is None or not fits(find("backends.one_logger:leave_out")):
        return
    from nv_one_logger.api.config import LoggerConfig, OneLoggerConfig

    for name in FILES:
        if name in LoggerConfig.model_fields:
            LoggerConfig.model_fields[name].default = os.devnull
    LoggerConfig.model_rebuild(force=True)
    if "logger_config" in OneLoggerConfig.model_fields:  # an instance that was made with the class, of the old defaults
        OneLoggerConfig.model_fields["logger_config"].default = LoggerConfig()
    OneLoggerConfig.model_rebuild(force=True)
