"""Baichuan 2 and ChatGLM: what their proof rests on, for nothing computes them but code that is never run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_workflow.conversion.command import export_main, import_main
from nemo_workflow.conversion.report import NAME
from nemo_workflow.utils.errors import Refusal
from tests.conversion import tiny_models as tiny
from tests.e2e.conversion.test_families import same_files

pytestmark = pytest.mark.e2e
ROOT = Path(__file__).resolve().parents[3]


def test_rows_of_any_length(tmp_path: Path) -> None:
    """Baichuan's output layer divides its rows when it computes; NeMo gets them divided, and so they come back."""
    import torch
    from safetensors.torch import load_file

    source, nemo, back, again = (tmp_path / name for name in ("hf", "nemo", "back", "again"))
    tiny.make("baichuan_raw", source)
    import_main(["--source", str(source), "--output-path", str(nemo)])
    report = json.loads((nemo / NAME).read_text())
    assert report["verified"] and any("divided by its length" in note for note in report["notes"])
    assert any("proved against transformers' llama" in note for note in report["notes"])
    export_main(["--source", str(nemo), "--output-path", str(back)])
    report = json.loads((back / NAME).read_text())
    assert report["verified"] and any("own .py files belong beside it" in note for note in report["notes"])
    before, after = load_file(source / "model.safetensors"), load_file(back / "model.safetensors")
    rows = before.pop("lm_head.weight").double()
    divided = torch.nn.functional.normalize(rows).to(torch.bfloat16)
    assert rows.norm(dim=1).std() > 0.01 and torch.equal(after.pop("lm_head.weight"), divided)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    same_files(source, back)
    import_main(["--source", str(back), "--output-path", str(again)])
    assert json.loads((again / NAME).read_text())["verified"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_rows_of_length_one_stay_as_they_are(dtype: str) -> None:
    """What an export tells a trained output layer by, over more rows than are divided at a time."""
    import torch

    from nemo_workflow.conversion.transforms import ROWS, unit_rows

    table = torch.randn(ROWS + 5, 48, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
    table[3] = 0
    once = unit_rows(table)
    assert torch.equal(unit_rows(once), once) and not torch.equal(once, table)
    assert not once[3].any() and abs(once[-1].double().norm() - 1) < 1e-2


@pytest.mark.parametrize("name", ["baichuan", "chatglm"])
def test_the_reference_is_the_model_that_the_folder_was_made_of(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its configuration, and every tensor, as the test put them into the folder."""
    import torch
    from safetensors.torch import load_file

    from nemo_workflow.conversion import inputs, reference
    from nemo_workflow.conversion.convert import Model

    monkeypatch.setitem(tiny.OWN_CODE, name, lambda folder: None)
    plain = tiny.make(name, tmp_path / "plain")
    monkeypatch.undo()
    folder = tiny.make(name, tmp_path / "own")
    fraction = json.loads((folder / "config.json").read_text()) | {"hidden_size": 64.0}  # as some tools write sizes
    (folder / "config.json").write_text(json.dumps(fraction))
    model = Model(*inputs.read_hf(folder))
    theirs, ours = load_file(plain / "model.safetensors"), load_file(folder / "model.safetensors")
    if name == "baichuan":
        theirs["lm_head.weight"] = torch.nn.functional.normalize(theirs["lm_head.weight"].double()).to(torch.bfloat16)
    for key, tensor in theirs.items():
        source, taken = reference.source_of(model, key)
        assert torch.equal(taken(ours[source]), tensor), key
    config = reference.config_of(model, folder).to_diff_dict()
    assert type(config["hidden_size"]) is int
    wanted = json.loads((plain / "config.json").read_text())
    changes_nothing = {"architectures", "dtype", "torch_dtype", "transformers_version", "bos_token_id", "eos_token_id", "pad_token_id",
                       "_from_model_config", "auto_map"}  # fmt: skip
    assert {key: config.get(key, wanted.get(key)) for key in wanted.keys() - changes_nothing} == {
        key: wanted[key] for key in wanted.keys() - changes_nothing
    }


@pytest.mark.parametrize("what", ["weight", "bias"])
def test_nemos_own_importer_lays_out_q_k_and_v_so_too(what: str) -> None:
    """NeMo's formulas for the packed projections of both models."""
    import torch

    from nemo_workflow.conversion import nemo_context
    from nemo_workflow.conversion.transforms import KINDS, Dims

    nemo_context.prepare()
    from nemo.collections.llm.gpt.model import baichuan, chatglm

    def laid_out(transform: Any, heads: int, groups: int, columns: tuple[int, ...]) -> None:
        config = SimpleNamespace(
            num_attention_heads=heads, num_query_groups=groups, hidden_size=heads * 8, kv_channels=8
        )
        packed = torch.randn((heads + 2 * groups) * 8, *columns)
        wanted = transform.transform(SimpleNamespace(target=SimpleNamespace(config=config)), packed)
        assert torch.equal(KINDS["qkv_stacked"].merge([packed], Dims(heads, groups, 8, 0)), wanted)

    laid_out(getattr(chatglm, f"_import_qkv_{what}"), 4, 2, (32,) if what == "weight" else ())
    if what == "weight":
        laid_out(baichuan._import_qkv, 4, 4, (32,))


def test_pickles_become_safetensors_as_the_page_says(tmp_path: Path) -> None:
    """Baichuan 2 is published as pickles; the page's lines need none of the model's code."""
    import torch
    from safetensors.torch import load_file

    source = tiny.make("baichuan", tmp_path / "hf")
    whole = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    for at, names in enumerate((sorted(whole)[:5], sorted(whole)[5:]), 1):
        torch.save({name: whole[name] for name in names}, source / f"pytorch_model-{at:05d}-of-00002.bin")
    flags = ["--source", str(source), "--output-path", str(tmp_path / "nemo"), "--no-verify"]
    with pytest.raises(Refusal, match=r"code of its own, as docs/conversion.md says"):
        import_main(flags)
    page = (ROOT / "docs" / "conversion.md").read_text()
    code = page.split("```python\n")[1].split("```")[0].replace('"FOLDER"', repr(str(source)))
    subprocess.run([sys.executable, "-c", code], check=True)
    import_main(flags)
    export_main(["--source", str(tmp_path / "nemo"), "--output-path", str(tmp_path / "back"), "--no-verify"])
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == whole.keys() and all(torch.equal(back[name], whole[name]) for name in whole)
