"""A look at every pin: what is newer, and which known vulnerabilities the locks hold. `make outdated`, once a week or so.

Asks the package index through pip, and pip-audit's databases through pip-audit, which is installed into a folder of its own
for the time. Prints only; what stays behind and why is in docs/versions.md and beside the pins.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from nemo_workflow import REPOSITORY
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.errors import Failure, run_command

PIN = re.compile(r"^([\w.-]+)(?:\[[\w,]+\])?==(\S+?)\s*(?:#\s*(.*))?$", re.MULTILINE)


def direct_pins() -> dict[str, tuple[str, str]]:
    """Package -> (version, the reason beside the pin) of requirements.txt and requirements/."""
    files = [REPOSITORY / "requirements.txt", *sorted((REPOSITORY / "requirements").glob("*.txt"))]
    found: dict[str, tuple[str, str]] = {}
    for file in files:
        for name, version, reason in PIN.findall(file.read_text(encoding="utf-8")):
            found.setdefault(normal(name), (version, reason))
    return found


def normal(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def newer() -> list[tuple[str, str, str]]:
    """(package, version installed, newest) of this environment."""
    told = _output(
        [sys.executable, "-m", "pip", "list", "--outdated", "--format", "json", "--disable-pip-version-check"]
    )
    return [(normal(one["name"]), one["version"], one["latest_version"]) for one in json.loads(told)]


def audit(lock: Path, tool: Path) -> str:
    """What pip-audit, installed in the folder `tool`, says of a lock, as JSON; nothing of the lock is installed."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", str(lock), "--format", "json"]
    environment = os.environ | {"PYTHONPATH": str(tool)}
    # exit code 1: it found some
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        raise Failure(f"pip-audit said: {done.stderr.strip()[-300:]}")
    return done.stdout


def vulnerabilities(report: str) -> tuple[list[str], list[str]]:
    """From pip-audit's JSON: a line for each vulnerability, and the packages that its database was not asked about."""
    packages = json.loads(report)["dependencies"]
    found = [
        f"{one['name']} {one['version']}: {bug['id']}, fixed in {', '.join(bug['fix_versions']) or 'no version yet'}"
        for one in packages
        for bug in one.get("vulns", [])
    ]
    return found, [one["name"] for one in packages if "skip_reason" in one]


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{' '.join(command[1:5])}: {done.stderr.strip()[-300:]}")
    return done.stdout


def main() -> None:
    """Print what is newer, pins of ours first with their reasons, then the vulnerabilities of both locks."""
    Parser(prog="python -m tools.outdated", description=__doc__.partition("\n\n")[0]).parse_args()
    pins = direct_pins()
    found = sorted(newer(), key=lambda one: (one[0] not in pins, one[0]))
    print(f"newer than installed: {len(found)}", flush=True)
    for name, version, newest in found:
        reason = pins[name][1] if name in pins else "comes with another package"
        print(f"  {name} {version} -> {newest}{f'  ({reason})' if reason else ''}")
    with tempfile.TemporaryDirectory() as place:
        _output([sys.executable, "-m", "pip", "install", "--quiet", "--target", place, "pip-audit"])
        for lock in ("constraints.txt", "constraints-gpu.txt"):
            known, not_asked = vulnerabilities(audit(REPOSITORY / lock, Path(place)))
            print(
                f"known vulnerabilities in {lock}: {len(known)}; not in the database's index: {len(not_asked)} packages"
            )
            for line in known:
                print(f"  {line}")


if __name__ == "__main__":
    run_command(main)
