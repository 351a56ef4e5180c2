"""Run by torchrun on two ranks: trains the same tiny Llama in many layouts, one after the other in the same two processes.

One import of NeMo (13 s) serves all cases. Each case has a prefix of its own in torchrun's store, so that the ranks of one never
find the addresses of an earlier one.

Usage: torchrun --nproc-per-node 2 parity_worker.py WORK_FOLDER
WORK_FOLDER/cases.json: a list of cases {"name", "ranks", and what `train` takes}; a list inside the list runs at the same time, a
one-rank case a process. The losses go to WORK_FOLDER/<name>.<rank>.json.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

from nemo_workflow import cpu_backend

cpu_backend.install()

import torch  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from megatron.core import num_microbatches_calculator, parallel_state  # noqa: E402
from megatron.core.distributed import DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import OptimizerConfig  # noqa: E402
from nemo import lightning as nl  # noqa: E402
from nemo.collections import llm  # noqa: E402
from nemo.collections.common.tokenizers.huggingface import AutoTokenizer  # noqa: E402
from nemo.lightning.callback_group import CallbackGroup  # noqa: E402
from nemo.utils import AppState  # noqa: E402

SEQ_LENGTH = 64


class Losses(Callback):
    """Keeps what the user's progress line shows."""

    def __init__(self) -> None:
        self.losses: dict[int, float] = {}
        self.grad_norms: dict[int, float] = {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        metrics = trainer.callback_metrics
        if "reduced_train_loss" in metrics:
            self.losses[trainer.global_step] = float(metrics["reduced_train_loss"])
        if "grad_norm" in metrics:
            self.grad_norms[trainer.global_step] = float(metrics["grad_norm"])


def make_config(**overrides):
    return llm.LlamaConfig(
        **{
            "num_layers": 4,
            "hidden_size": 64,
            "num_attention_heads": 4,
            "num_query_groups": 2,
            "ffn_hidden_size": 128,
            "seq_length": SEQ_LENGTH,
            "rotary_base": 10_000,
            "share_embeddings_and_output_weights": False,
            "make_vocab_size_divisible_by": 128,
            **overrides,
        }
    )


def train(
    folder: Path,
    name: str,
    *,
    store: torch.distributed.Store,
    ranks: int = 1,
    strategy: dict | None = None,
    ddp: dict | None = None,
    config: dict | None = None,
    optimizer: dict | None = None,
    max_steps: int = 20,
    save: bool = False,
    start: str | None = "start",
) -> dict:
    """Train and return {"losses": {step: loss}, ...} as this rank saw them."""
    tokenizer = AutoTokenizer(str(folder / "hf"))
    strategy, ddp = strategy or {}, ddp or {}
    distributed_optimizer = ddp.get("use_distributed_optimizer", False)
    losses = Losses()
    trainer = nl.Trainer(
        accelerator="cpu",
        devices=ranks,
        max_steps=max_steps,
        strategy=nl.MegatronStrategy(
            process_group_backend="gloo",
            pipeline_dtype=torch.bfloat16 if strategy.get("pipeline_model_parallel_size", 1) > 1 else None,
            ddp=DistributedDataParallelConfig(**{"grad_reduce_in_fp32": True, **ddp}),
            **strategy,
        ),
        plugins=nl.MegatronMixedPrecision(precision="bf16-mixed"),
        limit_val_batches=0,
        log_every_n_steps=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_checkpointing=save,
        callbacks=[losses],
    )
    trainer.strategy.store = torch.distributed.PrefixStore(
        name, store
    )  # as an argument NeMo would try to write it to a file
    llm.pretrain(
        model=llm.LlamaModel(make_config(**(config or {})), tokenizer=tokenizer),
        data=llm.PreTrainingDataModule(
            paths=[str(folder / "data")],
            seq_length=SEQ_LENGTH,
            global_batch_size=8,
            micro_batch_size=2,
            tokenizer=tokenizer,
            split="100,0,0",
            num_workers=0,
            index_mapping_dir=str(folder / "index"),
        ),
        trainer=trainer,
        log=nl.NeMoLogger(
            log_dir=str(folder / "experiments"),
            name=name.partition(":")[0],
            use_datetime_version=False,
            tensorboard=None,
            ckpt=nl.ModelCheckpoint(save_last=True, save_top_k=0, every_n_train_steps=10, save_optim_on_train_end=True)
            if save
            else None,
        ),
        optim=nl.MegatronOptimizerModule(
            config=OptimizerConfig(
                **{
                    "optimizer": "adam",
                    "lr": 2e-3,
                    "bf16": True,
                    "use_distributed_optimizer": distributed_optimizer,
                    "clip_grad": 1.0,
                    **(optimizer or {}),
                }
            )
        ),
        resume=nl.AutoResume(
            resume_if_exists=save,
            resume_ignore_no_checkpoint=True,
            restore_config=nl.RestoreConfig(path=str(folder / start)) if start else None,
        ),
    )
    return {"losses": losses.losses, "grad_norms": losses.grad_norms}


def import_start(folder: Path, name: str = "start") -> None:
    """Import WORK_FOLDER/hf into WORK_FOLDER/<name>: the weights that every case starts from."""
    llm.import_ckpt(llm.LlamaModel(make_config()), f"hf://{folder / 'hf'}", output_path=folder / name, overwrite=True)


def tear_down() -> None:
    """Forget the layout, so that the next case can have another in this process."""
    parallel_state.destroy_model_parallel()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    num_microbatches_calculator.unset_num_microbatches_calculator()
    AppState._Singleton__instances = {}
    for variable in [name for name in os.environ if name.startswith(("NEMO_", "PL_"))]:
        del os.environ[variable]
    gc.collect()


def be_rank(rank: int, of: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(of), LOCAL_WORLD_SIZE=str(of))


def run_case(folder: Path, store: torch.distributed.Store, case: dict, rank: int) -> None:
    be_rank(rank, of=case["ranks"])
    started = time.perf_counter()
    try:
        result = train(folder, store=store, **case)
    except Exception:  # noqa: BLE001 - the test shows it
        result = {"error": traceback.format_exc()}
    result["seconds"] = round(time.perf_counter() - started, 2)
    tear_down()
    (folder / f"{case['name'].replace(':', '_')}.{rank}.json").write_text(json.dumps(result))
    print(f"CASE {case['name']} rank {rank}: {result}", flush=True)


def main() -> None:
    folder = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    CallbackGroup.get_instance().callbacks.clear()  # NeMo's telemetry knows one training a process
    os.chdir(folder)
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(minutes=5)
    )
    steps = json.loads((folder / "cases.json").read_text())
    be_rank(0, of=1)
    if rank == 0:
        import_start(folder)
        tear_down()
        train(folder, "builds_the_index", store=store, max_steps=1)
        tear_down()
        store.set("prepared", "yes")
    store.wait(["prepared"])
    for step in steps:
        if isinstance(step, dict):
            run_case(folder, store, step, rank)
        elif rank < len(step):
            run_case(folder, store, step[rank], 0)


if __name__ == "__main__":
    main()
