"""Other versions of NeMo than the plan's: told before a start, by the files that would be imported where pip knows none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.config import containers
from nemo_workflow.models import catalog
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.utils import libraries
from nemo_workflow.utils.files import write_json
from tests.places import Place

pytestmark = pytest.mark.usefixtures("no_outside")

SCRIPT = Path(__file__).parents[2] / "pretrain_llm.py"


def as_files(root: Path, nemo: str, megatron: str) -> Path:
    """NeMo and megatron-core as NVIDIA's 26.02 has them: files on Python's path that pip knows nothing of."""
    for package, version in (("nemo", nemo), ("megatron/core", megatron)):
        folder = root / package
        folder.mkdir(parents=True)
        major, minor, patch = version.split(".")
        text = f"MAJOR = {major}\nMINOR = {minor}\nPATCH = {patch[0]}\nPRE_RELEASE = '{patch[1:]}'\n__version__ = \".\".join([])\n"
        (folder / "package_info.py").write_text(text, encoding="utf-8")
    (root / "nemo" / "__init__.py").touch()
    return root


def start(place: Place, path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), *place.flags(*flags)]
    return subprocess.run(
        words, env={**os.environ, "PYTHONPATH": str(path)}, capture_output=True, text=True, check=False
    )


def test_other_versions_are_refused_on_a_cpu_before_anything_is_written(place: Place, tmp_path: Path) -> None:
    path = as_files(tmp_path / "opt", "2.6.0", "0.16.0rc0")
    before = sorted(place.root.rglob("*"))
    done = start(place, path, "--accelerator", "cpu")
    assert done.returncode == 2
    assert "nemo_toolkit: expected version 2.7.3, found 2.6.0" in done.stderr
    assert "megatron-core: expected version 0.15.3, found 0.16.0rc0" in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(place.root.rglob("*")) == before


def test_a_dry_run_says_what_the_run_would_be_refused_for(place: Place, tmp_path: Path) -> None:
    done = start(place, as_files(tmp_path / "opt", "2.6.0", "0.15.3"), "--accelerator", "cpu", "--dry-run")
    assert done.returncode == 0
    assert "NeMo 2.6.0 is installed here, and the plan was made for NeMo 2.7.3" in done.stdout
    assert (
        "a run here would be refused: --accelerator cpu: nemo_toolkit: expected version 2.7.3, found 2.6.0"
        in done.stdout
    )


def test_a_version_file_goes_before_pips_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(as_files(tmp_path, "2.5.3", "0.14.0")))
    monkeypatch.delitem(sys.modules, "nemo", raising=False)
    assert libraries.version("nemo_toolkit") == "2.5.3"
    assert libraries.version("no-such-library") is None


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("nvcr.io/nvidia/nemo:25.09", "holds NeMo 2.5"),
        ("nvcr.io/nvidia/nemo:25.11.01", "holds NeMo 2.6"),
        ("nvcr.io#nvidia/nemo:26.02", None),
        ("nvcr.io/nvidia/nemo:dev", "tag that moves"),
        ("nvcr.io/nvidia/nemo", "tag that moves"),
        ("nvcr.io/nvidia/nemo:24.07", "was not tried"),
        ("registry.example/mirror/nvidia/nemo:25.09", "holds NeMo 2.5"),
        ("/images/ours.sqsh", None),
        ("registry.example/ours/nemo-of-ours:dev", None),
    ],
)
def test_what_is_known_of_an_image_is_noted(shared: Place, image: str, words: str | None) -> None:
    plan = shared.plan("--executor", "slurm", "-A", "a", "-P", "p", "--container-image", image, "--dry-run")
    found = [note for note in plan.notes if note.startswith("--container-image")]
    assert (words is None and not found) or (words is not None and len(found) == 1 and words in found[0])
    assert containers.problem(image) is None


@pytest.mark.parametrize("tag", ["26.04", "26.06", "26.04.01", "27.02", "26.04-py3"])
def test_images_without_nemo_are_refused(shared: Place, tag: str) -> None:
    from nemo_workflow.utils.errors import Refusal

    image = f"nvcr.io/nvidia/nemo:{tag}"
    with pytest.raises(Refusal, match=r"hold no NeMo from 26\.04 on; use the tag 25\.09, 25\.11 or 26\.02"):
        shared.plan("--executor", "slurm", "-A", "a", "-P", "p", "--container-image", image, "--dry-run")


def test_plan_and_report_hold_both_versions(shared: Place, tmp_path: Path) -> None:
    plan = shared.plan("--dry-run")
    assert plan.nemo == catalog.nemo_version()
    write_json(tmp_path / "plan.json", {"nemo": plan.nemo})
    attempt = tmp_path / "attempts" / "1"
    attempt.mkdir(parents=True)
    write_json(attempt / "versions.json", {"python": "3.11.1", "nemo_toolkit": "2.7.3"})
    write_json(attempt / "rank_versions.json", {"python": "3.12.3", "nemo_toolkit": "2.5.3"})
    assert RunFolder(tmp_path).versions() == {
        "python": "3.12.3 in the ranks, 3.11.1 where it was launched",
        "nemo_toolkit": f"2.5.3 in the ranks, 2.7.3 where it was launched; planned with the recipes of {plan.nemo}",
    }


def test_the_versions_that_are_said_name_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before `make install`, and after `pip install .`, which brings no pyproject.toml: pip knows the version then."""
    monkeypatch.setattr(libraries, "version", {"nemo-workflow": "7.1", "torch": "2.13.0"}.get)
    assert libraries.versions_said().splitlines()[2:] == ["nemo_toolkit not installed", "megatron-core not installed", "torch 2.13.0"]  # fmt: skip
    monkeypatch.setattr(libraries, "REPOSITORY", tmp_path)
    assert libraries.versions_said().startswith("nemo-workflow 7.1\n")
    monkeypatch.setattr(libraries, "version", lambda name: None)
    assert libraries.versions_said().startswith("nemo-workflow unknown\n")
