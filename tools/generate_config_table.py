"""Write the table in docs/conversion.md of what the import says of the config.json of published models.

tests/conversion/real_configs.json has their shapes: the fields that matter, as the models' folders have them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from nemo_workflow.conversion import config_fields, inputs  # noqa: E402
from nemo_workflow.utils.errors import Refusal  # noqa: E402
from nemo_workflow.utils.files import written_aside  # noqa: E402

CONFIGS = ROOT / "tests" / "conversion" / "real_configs.json"
PAGE = ROOT / "docs" / "conversion.md"
BEGIN, END = "<!-- configs: begin -->\n", "<!-- configs: end -->\n"


def answer(config: dict[str, object]) -> str:
    """What the import says of a config.json, before it looks at the weights."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            family, hf = inputs.read_hf(Path(folder))
        except Refusal as refusal:
            text = str(refusal).replace(f"{folder}/", "").removeprefix("config.json: ")
            return "refused: " + text.split(";")[0].split("; these are converted")[0]
    losses = config_fields.to_nemo(hf, family)[1]
    if losses:
        return "refused without permission: " + "; ".join(f"{name}: {what}" for name, what in losses)
    part = ", its text part" if config.get("model_type") != family.model_type else ""
    return f"taken{part}: {family.nemo_class(hf)}"


def table() -> str:
    rows = ["| Model | What the import says |", "|---|---|"]
    configs = json.loads(CONFIGS.read_text(encoding="utf-8"))
    rows += [f"| {name} | {answer(config)} |" for name, config in configs.items()]
    return "\n".join(rows) + "\n"


def main() -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    with written_aside(PAGE) as stream:
        stream.write(before + BEGIN + table() + END + after)


if __name__ == "__main__":
    main()
