"""The job scripts, as text. UPDATE_GOLDEN=1 writes them again; then read the difference."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nemo_workflow.launch.slurm import script
from nemo_workflow.launch.slurm.script import Link
from tests.launch.slurm import plans

GOLDEN = Path(__file__).with_name("golden")


def made(variant: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "executable", plans.PYTHON)
    monkeypatch.setenv("HF_HOME", "/no/such/cache")
    plan = plans.plan(variant)
    return script.job_script(plan, plan.folder / "attempts" / plans.ATTEMPT)


@pytest.mark.parametrize("variant", plans.VARIANTS)
def test_golden(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = made(variant, monkeypatch)
    path = GOLDEN / f"{variant}.sh"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text()
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def test_the_links_of_a_chain(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plans.plan("requeue")
    first, last = (
        script.job_script(plan, plan.folder / "attempts" / plans.ATTEMPT, link)
        for link in (Link(1, 2), Link(2, 2, "77"))
    )
    assert "#SBATCH --dependency=afterany:1\n" in first
    assert "#SBATCH --dependency=afterok:77\n" in last
    assert "#SBATCH --kill-on-invalid-dep=yes\n" in last
    assert "after_stop=0 " in first
    assert "after_stop=75 " in last


@pytest.mark.parametrize(
    ("image", "name"),
    [
        ("nvcr.io/nvidia/nemo:25.09", "nvcr.io#nvidia/nemo:25.09"),
        ("nvcr.io#nvidia/nemo:25.09", "nvcr.io#nvidia/nemo:25.09"),
        ("ubuntu:24.04", "ubuntu:24.04"),
        ("org/image", "org/image"),
        ("/shared/images/nemo.sqsh", "/shared/images/nemo.sqsh"),
        ("./nemo.v2/x.sqsh", "./nemo.v2/x.sqsh"),
        ("dockerd://a.b/c", "dockerd://a.b/c"),
    ],
)
def test_an_image_is_named_as_every_enroot_takes_it(image: str, name: str) -> None:
    assert script.image_name(image) == name


def test_mounts_cover_what_the_ranks_open() -> None:
    assert script.container_mounts(plans.plan("container"))[:2] == [
        "/shared/data:/shared/data:ro",
        "/shared/runs:/shared/runs",
    ]


@pytest.mark.parametrize(
    ("addresses", "known", "address"),
    [
        ("10.0.0.5", True, "10.0.0.5"),
        ("::1 10.0.0.5", True, "10.0.0.5"),
        ("fe80::1%eth0 10.0.0.5 10.1.0.5", True, "10.0.0.5"),
        ("127.0.1.1 10.0.0.5", True, "10.0.0.5"),
        ("127.0.1.1", True, "node7"),
        ("::1", True, "node7"),
        ("2001:db8::5", False, "2001:db8::5"),
        ("127.0.1.1", False, "127.0.1.1"),
        ("", True, "node7"),
    ],
)
def test_the_ranks_meet_where_every_node_finds_it(
    addresses: str, known: bool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = made("two_nodes", monkeypatch)
    lines = text[text.index("export MASTER_ADDR") : text.index("export MASTER_PORT")]
    program = f"head_node=node7 head_node_ip=$1\ngetent() {{ {'true' if known else 'false'}; }}\n{lines}env"
    done = subprocess.run(["bash", "-euc", program, "-", addresses], text=True, capture_output=True, check=True)
    assert f"MASTER_ADDR={address}\n" in done.stdout
