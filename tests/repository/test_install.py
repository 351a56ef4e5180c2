"""The environment is the one that requirements.txt describes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import check_platform, outdated

REPOSITORY = Path(__file__).resolve().parents[2]


FILES = ("requirements.txt", "requirements/dev.txt", "requirements/docs.txt")


def pins(*names: str) -> dict[str, str]:
    """Package -> version of some files and of those that they include."""
    text = "\n".join((REPOSITORY / name).read_text(encoding="utf-8") for name in names)
    included = re.findall(r"^-r (\S+)", text, re.MULTILINE)
    if included:
        return pins(*included) | pins_of(text)
    return pins_of(text)


def pins_of(text: str) -> dict[str, str]:
    return {normal(m[1]): m[2] for m in re.finditer(r"^([\w.-]+)(?:\[[\w,]+\])?==([^\s;#]+)", text, re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_requirement_is_in_the_lock():
    lock = pins("constraints.txt")
    assert {name: version for name, version in pins(*FILES).items() if lock.get(name) != version} == {}


def test_every_requirement_of_a_gpu_is_in_its_lock():
    lock = pins("constraints-gpu.txt")
    assert {name: version for name, version in pins("requirements-gpu.txt").items() if lock.get(name) != version} == {}
    # what flash-attn-4 drags along, of which it pins nothing itself
    assert {
        "nvidia-cutlass-dsl",
        "quack-kernels",
        "apache-tvm-ffi",
        "transformer-engine-torch",
        "setuptools",
    } <= lock.keys()


def test_both_locks_agree_but_for_torch():
    cpu, gpu = pins("constraints.txt"), pins("constraints-gpu.txt")
    differing = {name for name in cpu.keys() & gpu.keys() if cpu[name] != gpu[name]}
    assert {name for name in differing if not name.startswith(("nvidia-", "cuda-", "triton"))} == {"torch"}


def test_nothing_is_installed_that_nothing_imports():
    """requirements/common.txt names under "ours" what our own code imports, and NeMo's imports above."""
    ours = (REPOSITORY / "requirements" / "common.txt").read_text(encoding="utf-8").partition("# --- ours ---")[2]
    code = "\n".join(path.read_text(encoding="utf-8") for path in (REPOSITORY / "nemo_workflow").rglob("*.py"))
    code += (REPOSITORY / "tools" / "demo.py").read_text(encoding="utf-8")
    # Lightning's logger and NeMo import it
    module = {"PyYAML": "yaml", "Jinja2": "jinja2", "tensorboard": "TensorBoard"}
    for name in re.findall(r"^([\w.-]+)==", ours, re.MULTILINE):
        assert re.search(rf"(import|from) {name}\b|\b{module.get(name, name)}\b", code), name


@pytest.mark.parametrize(
    ("libc", "words"),
    [
        (("glibc", "2.28"), "glibc 2.28: NeMo's packages need 2.31 or newer"),
        (("", ""), "the C library of this machine"),
        (("glibc", "2.31"), None),
        (("glibc", "2.41"), None),
    ],
)
def test_a_c_library_that_is_too_old_is_named_before_pip_runs(libc, words):
    found = check_platform.problem("Linux", "x86_64", libc)
    assert (found is None) == (words is None) and (words or "") in (found or "")
    assert "wheels for Linux" in check_platform.problem("Darwin", "arm64", ("", ""))


@pytest.mark.slow
def test_what_is_installed_is_what_is_locked():
    """The lock is whole: nothing that the requirements pull in is missing from it or has another version."""
    # asked of a process of its own: setuptools, once imported, puts older copies of some packages on the path
    told = subprocess.run([sys.executable, "-m", "pip", "inspect"], capture_output=True, check=True)
    installed = {normal(one["metadata"]["name"]): one["metadata"] for one in json.loads(told.stdout)["installed"]}
    lock, wanted, seen, wrong = pins("constraints.txt"), list(pins(*FILES)), set(), {}
    while wanted:
        name = wanted.pop()
        if name in seen or name not in installed:  # not installed: optional, or for another platform
            continue
        seen.add(name)
        version = installed[name]["version"].split("+")[0]
        if lock.get(name) != version:
            wrong[name] = (lock.get(name), version)
        for requirement in installed[name].get("requires_dist", []):
            if "extra ==" not in requirement:
                wanted.append(normal(re.match(r"[\w.-]+", requirement)[0]))
    assert wrong == {}


@pytest.mark.slow
def test_tensorboard_starts_as_the_readme_says():
    """It imports what newer setuptools no longer bring, and nothing of ours would notice."""
    script = Path(sys.executable).with_name("tensorboard")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "pkg_resources" not in done.stderr


def test_every_reason_beside_a_pin_is_found():
    found = outdated.direct_pins()
    assert found["numpy"] == (
        "1.26.4",
        "megatron-core 0.15 requires <2 (it calls np.product); no wheel for Python 3.13",
    )
    assert found["flash-attn-4"][0] == "4.0.0b36" and found["pytest"][1] == ""


def test_a_package_that_was_not_audited_is_not_taken_for_a_sound_one():
    report = {
        "dependencies": [
            {
                "name": "urllib3",
                "skip_reason": "Dependency not found on PyPI and could not be audited: urllib3 (1.26.20)",
            },
            {"name": "idna", "version": "3.20", "vulns": []},
            {"name": "old", "version": "1.0", "vulns": [{"id": "CVE-1", "fix_versions": ["1.1"]}]},
        ]
    }
    assert outdated.vulnerabilities(json.dumps(report)) == (["old 1.0: CVE-1, fixed in 1.1"], ["urllib3"])
