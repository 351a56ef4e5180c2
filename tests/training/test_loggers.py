"""TensorBoard and W&B, fed as a training feeds them: killed, resumed, without a key, without a network."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nemo_workflow.training import wandb_file
from tests.e2e.run import wandb_server
from tests.runs import fake_runs
