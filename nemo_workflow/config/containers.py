"""What runs the ranks of a Slurm job, and what is known of NVIDIA's NeMo containers: nvcr.io/nvidia/nemo:TAG."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nemo_workflow.config.settings import Settings
from nemo_workflow.utils.files import absolute


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

PYXIS, APPTAINER, NONE = "pyxis", "apptainer", "none"
PULLED = ".apptainer"  # folder below --output-dir of the images that jobs have pulled


def runtime(settings: Settings) -> str:
    """PYXIS, APPTAINER or NONE: --container-runtime, of which --no-container is the older form."""
    return NONE if settings.no_container else settings.container_runtime or PYXIS


def described(settings: Settings) -> str | None:
    """The container of a Slurm job in words; None without one."""
    if settings.executor != "slurm" or runtime(settings) == NONE:
        return None
    return f"{settings.container_image} by {runtime(settings)}"


@dataclass(frozen=True)
class ApptainerImage:
    """What Apptainer starts: `path` on the shared disk, pulled from `source` where that is not None."""

    path: str
    source: str | None


def apptainer_image(settings: Settings) -> ApptainerImage:
    """--container-image for Apptainer: a file or an unpacked folder, an address such as docker://…, or a registry's name."""
    image = settings.container_image
    if is_file(image):
        return ApptainerImage(str(absolute(image)), None)
    source = image if "://" in image else f"docker://{image.replace('#', '/', 1)}"
    name = re.sub(r"[^\w.-]+", "_", source.partition("://")[2])
    return ApptainerImage(str(absolute(settings.output_dir) / PULLED / f"{name}.sif"), source)


def is_file(image: str) -> bool:
    """Whether an image is meant as a path, and not as a name in a registry."""
    return "://" not in image and (image.startswith(("/", ".", "~")) or image.endswith((".sif", ".sqsh", ".img")))


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
