"""--export-hf and --push-to-hub: what is refused before the hours of training, and the plan's line."""

from __future__ import annotations

import pytest

from nemo_workflow.config.checks import outputs
from nemo_workflow.launch import dry_run
from nemo_workflow.utils.errors import Refusal
from tests.places import Place

pytestmark = pytest.mark.usefixtures("no_outside")


def refused(place: Place, *flags: str) -> list[str]:
    with pytest.raises(Refusal) as caught:
        place.plan(*flags)
    return list(caught.value.problems)


@pytest.mark.parametrize(
    ("hub_id", "fits"),
    [("me/tiny", True), ("My.Org/a_b-2.5", True), ("tiny", False), ("a/b/c", False), ("me/x--y", False), ("me/x..y", False),
     ("-me/x", False), ("me/x.git", False), ("me/x.", False), ("me/ x", False), ("me/" + "x" * 97, False)],
)  # fmt: skip
def test_names_are_the_hubs(hub_id: str, fits: bool, shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    flags = ("--export-hf", "end", f"--push-to-hub={hub_id}")
    if fits:
        text = dry_run.render(shared.plan(*flags), "text")
        assert f"the last, which is uploaded to the Hub as {hub_id}" in text
    else:
        (problem,) = refused(shared, *flags)
        assert problem.startswith(f"--push-to-hub {hub_id}: not a valid name of a Hub model")


def test_what_an_upload_lacks(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(outputs, "token_here", lambda: False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = refused(shared, "--push-to-hub", "me/tiny")
    assert [text.split(";")[0] for text in found] == [
        "--push-to-hub: uploads what --export-hf exports",
        "--push-to-hub: HF_HUB_OFFLINE is set, so nothing can be uploaded",
        "--push-to-hub: no token",
    ]


def test_a_login_on_this_machine_is_a_token_here_alone(shared: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(outputs, "token_here", lambda: True)
    shared.plan("--export-hf", "end", "--push-to-hub", "me/tiny")
    assert "login" not in "".join(outputs.upload("me/tiny", token=False, login=False))


def test_a_model_that_is_not_exported(shared: Place) -> None:
    found = refused(shared, "--export-hf", "save", "-M", "mamba2_130m", "--accelerator", "gpu", "--dry-run", "-G", "1")
    assert found[0].startswith("--export-hf: mamba2_130m can't be exported to Hugging Face")
