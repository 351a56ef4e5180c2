"""Whether the environment can be installed on this machine: run by `make install` before pip is. Needs nothing but Python."""

from __future__ import annotations

import platform
import sys

GLIBC = (2, 31)  # nvidia-resiliency-ext 0.4.1 has wheels for no older one, and NeMo doesn't train without it
PROCESSORS = ("x86_64", "aarch64")


def problem(system: str, processor: str, libc: tuple[str, str]) -> str | None:
    """What stands in the way, or None; `libc` is what platform.libc_ver tells, ("glibc", "2.31")."""
    if system != "Linux" or processor not in PROCESSORS:
        return f"{system} on {processor}: NeMo's packages have wheels for Linux on {' and '.join(PROCESSORS)} only"
    name, version = libc
    if name != "glibc":
        return f"the C library {name or 'of this machine'}: NeMo's packages need glibc {_text(GLIBC)} or newer"
    if tuple(int(part) for part in version.split(".")[:2]) < GLIBC:
        return (
            f"glibc {version}: NeMo's packages need {_text(GLIBC)} or newer (Debian 11, Ubuntu 20.04, Rocky Linux 9); use a"
            " newer system, or one of NVIDIA's containers (docs/versions.md)"
        )
    return None


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


if __name__ == "__main__":
    found = problem(platform.system(), platform.machine(), platform.libc_ver())
    if found:
        print(f"error: {found}", file=sys.stderr)
        sys.exit(2)
