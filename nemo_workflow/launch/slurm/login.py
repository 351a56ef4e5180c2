"""A login node reached with --ssh: what OpenSSH makes of its name, and what nemo_run's own client needs of that."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nemo_workflow.utils.errors import Refusal

LOST = ("proxyjump", "proxycommand", "userknownhostsfile", "certificatefile")


@dataclass(frozen=True)
class Login:
    """How ssh logs in at `name`. `identity` is a key file that only the settings of `name` tell of."""

    name: str
    user: str
    port: int
    identity: str | None = None


def split(address: str) -> tuple[str, str, str]:
    """User, host and port of [USER@]HOST[:PORT]; empty where it has none."""
    user_host, _, port = address.partition(":")
    user, _, host = user_host.rpartition("@")
    return user, host, port


def command(address: str, *options: str) -> list[str]:
    """The start of an ssh command line to [USER@]HOST[:PORT]."""
    user, host, port = split(address)
    return ["ssh", *options, *(["-p", port] if port else []), f"{user}@{host}" if user else host]


def resolve(address: str) -> Login:
    """What ~/.ssh/config makes of [USER@]HOST[:PORT]; contacts nobody.

    Raises Refusal where ssh isn't there, or where nemo_run would lose a setting: it runs rsync with the HostName that the
    settings name in place of the alias, and so leaves the alias's block.
    """
    if not shutil.which("ssh"):
        raise Refusal(f"--ssh {address}: there is no ssh on this machine; install OpenSSH's client")
    _, name, _ = split(address)
    found = _settings(address)
    (real,), (user,), (port,) = found["hostname"], found["user"], found["port"]
    plain = _settings(f"{user}@{real}:{port}")
    lost = [key for key in LOST if found.get(key) != plain.get(key)]
    if lost:
        raise Refusal(
            f"--ssh {address}: ~/.ssh/config sets {', '.join(lost)} for {name} and not for {real}, which nemo_run's rsync"
            f" calls by that name; write `Host {name} {real}` above these settings"
        )
    identity = None
    if found.get("identityfile") != plain.get("identityfile"):
        files = [Path(path).expanduser() for path in found.get("identityfile", [])]
        identity = next((str(path) for path in files if path.is_file()), None)
    return Login(name, user, int(port), identity)


def _settings(address: str) -> dict[str, list[str]]:
    done = subprocess.run(command(address, "-G"), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refusal(f"--ssh {address}: {(done.stderr.strip().splitlines() or ['ssh cannot parse it'])[-1]}")
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"(?m)^(\S+) (.*)$", done.stdout):
        found.setdefault(key, []).append(value)
    return found
