"""A login node on this host: a real sshd on a loopback port, with keys and settings of its own in one folder.

OpenSSH's client takes ~/.ssh from the password database, whatever HOME says, so a wrapper names our settings to it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.e2e.slurm.daemons import free_ports
from tests.waiting import LIMIT

PROGRAMS = ("sshd", "ssh", "ssh-keygen", "rsync")
PACKAGES = "openssh-server openssh-client rsync"
HOST = "login.test"  # an alias that only our settings know

SSHD = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {root}/host_key
AuthorizedKeysFile {root}/.ssh/id_ed25519.pub
PidFile none
UsePAM no
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
SetEnv SLURM_CONF={slurm_conf}
"""
CLIENT = """\
Host *
  UserKnownHostsFile {root}/.ssh/known_hosts
Host {host}
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {root}/.ssh/id_ed25519
"""


def missing() -> str | None:
    """Why a login node can't be started here, or None."""
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")]
    return f"not installed: {', '.join(lacking)} (Debian: apt-get install {PACKAGES})" if lacking else None


class Login:
    """The sshd; `environment` is that of a workstation without Slurm that may log in there."""

    def __init__(self, root: Path, slurm_conf: Path):
        self.root = root
        (port,) = free_ports(1)
        (root / ".ssh").mkdir(mode=0o700)
        for key in (root / "host_key", root / ".ssh" / "id_ed25519"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
        values = {"root": root, "port": port, "host": HOST, "slurm_conf": slurm_conf}
        (root / "sshd_config").write_text(SSHD.format(**values))
        self.settings = root / ".ssh" / "config"
        self.settings.write_text(CLIENT.format(**values))
        host_key = (root / "host_key.pub").read_text().split()[:2]
        (root / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {' '.join(host_key)}\n")
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd's empty folder, else made when the service starts
        self.process = subprocess.Popen(
            [str(shutil.which("sshd", path="/usr/sbin:/usr/bin")), "-D", "-f", str(root / "sshd_config"),
             "-E", str(root / "sshd.log")],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self.environment = self._workstation()
        self._wait()

    def _workstation(self) -> dict[str, str]:
        """Without Slurm's commands and settings; with ssh, rsync and our keys."""
        programs = self.root / "bin"
        programs.mkdir()
        (programs / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.root}/.ssh/config "$@"\n')
        (programs / "ssh").chmod(0o755)
        for name in ("rsync", "bash", "sh", "mkdir", "ln", "tar"):
            (programs / name).symlink_to(str(shutil.which(name)))
        environment = {name: value for name, value in os.environ.items() if name != "SLURM_CONF"}
        path = f"{programs}:{Path(sys.executable).parent}"
        return environment | {"PATH": path, "HOME": str(self.root)}

    def move_settings(self) -> Path:
        """Rename the settings; returns where they are."""
        return self.settings.rename(self.settings.with_name("more"))

    def _wait(self) -> None:
        end = time.monotonic() + LIMIT
        while subprocess.run(["ssh", HOST, "true"], env=self.environment, capture_output=True).returncode:
            if time.monotonic() > end:
                raise RuntimeError(f"sshd does not answer: {(self.root / 'sshd.log').read_text()}")
            time.sleep(0.1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
