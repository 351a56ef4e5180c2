"""What runs below an --output-dir taught about its machines: seen over planned time of a step, for each GPU and precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute, write_json

FILE = "calibration.json"


def scale_of(output_dir: str, gpu: str | None, fp8: bool) -> tuple[float, str | None]:
    """(seen over planned time, the file it is from); (1, None) where nothing was learned of this GPU. Raises Refusal for a file that isn't ours."""
    path = absolute(output_dir) / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
        found = known.get(_name(gpu, fp8))
        return (float(found["scale"]), str(path)) if found else (1.0, None)
    except FileNotFoundError:
        return 1.0, None
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refusal(
            f"{path}: is no calibration ({error}); remove it, or write it again with --calibrate RUN"
        ) from None


def keep(output_dir: str, gpu: str | None, fp8: bool, scale: float, learned_from: dict[str, Any]) -> Path:
    """Write down a scale; what is known of other GPUs stays."""
    path = absolute(output_dir) / FILE
    try:
        known = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    entry = {"scale": round(scale, 4), **learned_from}
    write_json(path, {**(known if isinstance(known, dict) else {}), _name(gpu, fp8): entry})
    return path


def _name(gpu: str | None, fp8: bool) -> str:
    return f"{gpu or 'cpu'} {'fp8' if fp8 else 'bf16'}"
