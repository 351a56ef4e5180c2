"""NeMo's recipe as it is, with NeMo's mock data: the baseline. One case of run_cases.py.

python stock.py CASE_JSON FOLDER DATA    `model`, `micro_batch`, `global_batch`, `seq`, `vocabulary`, `steps`, `fp8`
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import turn

FIRST = 3  # steps whose end lies before the first that is timed


def main() -> None:
    case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    cpu = case.get("accelerator") == "cpu"
    make_importable(cpu)
    import fiddle as fdl

    recipe = stock(case, cpu)
    made = fdl.build(recipe)
    ends: list[float] = []
    made.keywords["trainer"].callbacks.append(timer(ends, cpu))
    turn.wait(folder)
    go = time.perf_counter()
    made()
    (folder / "result.json").write_text(json.dumps(measured(case, recipe.data.seq_length, go, ends, cpu)))
    os._exit(0)  # what torch and the data loader do at their end takes seconds of the card


def make_importable(cpu: bool) -> None:
    """For the import only: nothing of the training on a GPU."""
    if cpu:
        from nemo_workflow.backends import cpu as cpu_backend

        cpu_backend.install()
        from nemo.collections.llm.gpt.data import mock

        # only Transformer Engine makes its own mask, and NeMo hands its flag for one to the wrong parameter
        mock._MockGPTDataset = functools.partial(mock._MockGPTDataset, create_attention_mask=True)
    else:
        from nemo_workflow.backends import memory_pool

        memory_pool.leave_out()


def stock(case: dict[str, Any], cpu: bool) -> Any:
    """The recipe on one rank, without logger and checkpoints, on mock data of the case's sizes."""
    import nemo_run as run
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.tokenizer_utils import get_nmt_tokenizer
    from nemo.collections.llm.recipes.precision import mixed_precision

    from nemo_workflow.training.recipe import _fit_cpu, stock_recipe

    recipe = stock_recipe(case["model"], gpus_per_node=1, folder=tempfile.mkdtemp())
    steps, batch = case.get("steps", 10), case["global_batch"]
    vocabulary = {"library": "null", "model_name": "NullTokenizer", "vocab_size": case["vocabulary"] - 1}
    recipe.data = run.Config(
        llm.MockDataModule,
        seq_length=case.get("seq", recipe.data.seq_length),
        global_batch_size=batch,
        micro_batch_size=case["micro_batch"],
        tokenizer=run.Config(get_nmt_tokenizer, **vocabulary),
        num_train_samples=batch * steps * 2,
        num_workers=2,
    )
    recipe.model.config.seq_length = recipe.data.seq_length
    strategy, trainer = recipe.trainer.strategy, recipe.trainer
    strategy.tensor_model_parallel_size = strategy.pipeline_model_parallel_size = strategy.context_parallel_size = 1
    strategy.sequence_parallel, strategy.virtual_pipeline_model_parallel_size = False, None
    trainer.max_steps, trainer.val_check_interval, trainer.limit_val_batches = steps, steps + 1, 0
    trainer.num_sanity_val_steps, trainer.log_every_n_steps, trainer.callbacks = 0, 1000, []
    trainer.enable_checkpointing = trainer.logger = False
    recipe.log = recipe.resume = None
    if cpu:
        trainer.accelerator = "cpu"
        _fit_cpu(recipe, SimpleNamespace(layout=SimpleNamespace(virtual_pipeline=1)))
        trainer.callbacks = []
    elif case.get("fp8"):
        trainer.plugins = getattr(mixed_precision, case["fp8"])()
    for path, value in case.get("set", {}).items():
        *parents, last = path.split(".")
        setattr(functools.reduce(getattr, parents, recipe), last, value)
    return recipe


def timer(ends: list[float], cpu: bool) -> Any:
    """A callback that adds the time of each step's end, the GPU idle."""
    import torch
    from lightning.pytorch.callbacks import Callback

    class Timer(Callback):
        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            if not cpu:
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    return Timer()


def measured(case: dict[str, Any], seq: int, go: float, ends: list[float], cpu: bool) -> dict[str, Any]:
    import torch

    from nemo_workflow.models import catalog, flops, parameters

    tokens = case["global_batch"] * seq
    rate = tokens / statistics.median(b - a for a, b in itertools.pairwise(ends[FIRST:]))
    result = {
        "tok_s": rate,
        "outside_tok_s": tokens * (len(ends) - FIRST - 1) / (ends[-1] - ends[FIRST]),
        "step_seconds": [round(b - a, 4) for a, b in itertools.pairwise(ends)],
        "first_step_after": round(ends[0] - go, 2),
    }
    if cpu:
        return result
    found = catalog.find(case["model"])
    vocabulary = parameters.padded_vocabulary(found.sizes, case["vocabulary"])
    work = flops.flops_a_token(found.family, found.sizes, vocabulary, seq) or 0
    return result | {
        "mfu": rate * work / (flops.peak_of(torch.cuda.get_device_name()) or 1e30),
        "alloc": torch.cuda.max_memory_allocated() / 2**30,
        "reserved": torch.cuda.max_memory_reserved() / 2**30,
        "device": torch.cuda.get_device_name(),
    }


if __name__ == "__main__":
    main()
