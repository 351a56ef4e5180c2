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


def main() -> None:
    case, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    cpu = case.get("accelerator") == "cpu"
    if cpu:
        from nemo_workflow import cpu_backend

        cpu_backend.install()
    else:
        from nemo_workflow.gpu_backend import memory_pool

        memory_pool.leave_out()  # the import only: nothing of the training
    import fiddle as fdl
    import nemo_run as run
    import torch
    from lightning.pytorch.callbacks import Callback
    from nemo.collections import llm
    from nemo.collections.common.tokenizers.tokenizer_utils import get_nmt_tokenizer
    from nemo.collections.llm.gpt.data import mock
    from nemo.collections.llm.recipes.precision import mixed_precision

    from nemo_workflow.recipe import _fit_cpu, stock_recipe

    if cpu:  # only Transformer Engine makes its own mask, and NeMo hands its flag for one to the wrong parameter
        mock._MockGPTDataset = functools.partial(mock._MockGPTDataset, create_attention_mask=True)

    class Timer(Callback):
        ends: list[float] = []  # noqa: RUF012

        def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
            if not cpu:
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())

    recipe = stock_recipe(case["model"], gpus_per_node=1, folder=tempfile.mkdtemp())
    steps, batch, seq = case.get("steps", 10), case["global_batch"], case.get("seq", recipe.data.seq_length)
    recipe.data = run.Config(
        llm.MockDataModule,
        seq_length=seq,
        global_batch_size=batch,
        micro_batch_size=case["micro_batch"],
        tokenizer=run.Config(
            get_nmt_tokenizer, library="null", model_name="NullTokenizer", vocab_size=case["vocabulary"] - 1
        ),
        num_train_samples=batch * steps * 2,
        num_workers=2,
    )
    recipe.model.config.seq_length = seq
    strategy = recipe.trainer.strategy
    strategy.tensor_model_parallel_size = strategy.pipeline_model_parallel_size = strategy.context_parallel_size = 1
    strategy.sequence_parallel, strategy.virtual_pipeline_model_parallel_size = False, None
    trainer = recipe.trainer
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
        target = recipe
        *parents, last = path.split(".")
        for part in parents:
            target = getattr(target, part)
        setattr(target, last, value)
    made = fdl.build(recipe)
    made.keywords["trainer"].callbacks.append(Timer())
    sys.stdin.readline()
    go = time.perf_counter()
    made()
    ends = Timer.ends
    seconds = statistics.median(b - a for a, b in itertools.pairwise(ends[3:]))
    rate = batch * seq / seconds
    from nemo_workflow import catalog, flops, parameters

    found = catalog.find(case["model"])
    vocabulary = parameters.padded_vocabulary(found.sizes, case["vocabulary"])
    work = flops.flops_a_token(found.family, found.sizes, vocabulary, seq) or 0
    result = {
        "tok_s": rate,
        "outside_tok_s": batch * seq * (len(ends) - 4) / (ends[-1] - ends[3]),
        "step_seconds": [round(b - a, 4) for a, b in itertools.pairwise(ends)],
        "first_step_after": round(ends[0] - go, 2),
    }
    if not cpu:
        result |= {
            "mfu": rate * work / (flops.peak_of(torch.cuda.get_device_name()) or 1e30),
            "alloc": torch.cuda.max_memory_allocated() / 2**30,
            "reserved": torch.cuda.max_memory_reserved() / 2**30,
            "device": torch.cuda.get_device_name(),
        }
    (folder / "result.json").write_text(json.dumps(result))
    os._exit(0)  # what torch and the data loader do at their end takes seconds of the card


if __name__ == "__main__":
    main()
