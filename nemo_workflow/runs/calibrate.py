"""--calibrate RUN: what a run was seen to take scales the time plan of every later run below the same --output-dir."""

from __future__ import annotations

from nemo_workflow.config import calibration
from nemo_workflow.config.settings import Settings
from nemo_workflow.models import catalog
from nemo_workflow.run_dir import speed
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs.overview import open_run
from nemo_workflow.utils.console import counted
from nemo_workflow.utils.errors import Refusal


def calibrate(output_dir: str, name: str) -> str:
    """Write the calibration; returns what to tell. Raises Refusal for a run that can't teach anything."""
    run = open_run(output_dir, name)
    time = run.plan.get("time")
    if not time:
        raise Refusal(
            f"--calibrate {name}: its plan holds no time (planned by an older version, or for a GPU that is not in the table); start the run again"
        )
    rates = _rates(run)
    if len(rates) <= speed.WARM_UP:
        raise Refusal(
            f"--calibrate {name}: has made {counted(len(rates), 'step')} since its last start; it takes more than {speed.WARM_UP}, {speed.STEPS} are better"
        )
    seen = speed.settled(rates)
    scale = time["scale"] * time["tokens_per_second"] / seen
    settings = Settings.from_public(run.plan["settings"])
    recipe = catalog.find(run.plan["model_name"])
    fp8 = settings.fp8 or (settings.precision is None and bool(recipe.precision["fp8"]))
    learned = {"run": str(run.path), "planned": round(time["tokens_per_second"], 1), "seen": round(seen, 1)}
    path = calibration.keep(output_dir, time["gpu"], fp8, scale, learned)
    return f"{speed.in_words(time['tokens_per_second'], seen)}\n{path}: times of {time['gpu'] or 'the CPU'} are scaled by {scale:.2f} from now on"


def _rates(run: RunFolder) -> list[float]:
    """Tokens per second of each step since the last start."""
    rates: list[float] = []
    for event in run.every_event:
        if event["event"] == "start":
            rates = []
        elif event["event"] == "step":
            rates.append(event["tokens_per_second"])
    return rates
