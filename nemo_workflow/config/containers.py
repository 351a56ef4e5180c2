"""What is known of NVIDIA's NeMo containers: nvcr.io/nvidia/nemo:TAG."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """The versions in a container, from the software versions that NVIDIA publishes with Megatron-Bridge."""

    nemo: str
    megatron: str


# The ones that have been imitated with packages of the same versions; docs/versions.md says what was seen.
SUPPORTED = {
    "25.09": Known("2.5", "0.14"),
    "25.11": Known("2.6", "0.15"),
    "26.02": Known("2.7", "0.16"),
}
NAMES = ", ".join(SUPPORTED)
LAST = (26, 2)  # later images hold Megatron-Bridge and no NeMo


def tag_of(image: str) -> str | None:
    """The tag of an image called nvidia/nemo, from whatever registry ("" without one); None for any other image."""
    found = re.search(r"(?:^|[/#])nvidia/nemo(?:[:@](?P<tag>[^/]*))?$", image)
    return None if found is None else found["tag"] or ""


def problem(image: str) -> str | None:
    """Why no run can start in an image, or None."""
    tag = tag_of(image) or ""
    month = _month(tag)
    if month is None or month <= LAST:
        return None
    return f"--container-image {image}: NVIDIA's images hold no NeMo from 26.04 on; use the tag {NAMES.replace(', 26', ' or 26')}"


def note(image: str, planned_for: str) -> str | None:
    """What a user should know of an image; `planned_for` is the NeMo whose recipes the plan was made from."""
    tag = tag_of(image)
    if tag is None:
        return None
    month = _month(tag)
    name = f"{month[0]}.{month[1]:02}" if month else ""
    if name in SUPPORTED:
        known = SUPPORTED[name]
        if planned_for.startswith(f"{known.nemo}."):
            return None
        return (
            f"--container-image {image}: holds NeMo {known.nemo}, and the plan was made for NeMo {planned_for}; rank 0 compares"
            " the model's sizes before it is built"
        )
    why = "was not tried" if month else "is a tag that moves, so its versions are not known"
    return f"--container-image {image}: {tag or 'latest'} {why}; supported are {NAMES}"


def _month(tag: str) -> tuple[int, int] | None:
    found = re.match(r"(\d\d)\.(\d\d)(?:\D|$)", tag)
    return (int(found[1]), int(found[2])) if found else None
