"""Run by torchrun on two ranks: trains the same tiny Llama in many layouts, one after the other in the same two processes.

One import of NeMo (13 s) serves all cases. Each case has a prefix of its own in torchrun's store, so that the ranks of one never
find the addresses of an earlier one.

Usage: torchrun --nproc-per-node 2 parity_worker.py WORK_FOLDER

WORK_FOLDER/steps.json is a list of steps. A step is one case for both ranks, or a list of one-rank cases of which each process
takes one. A case holds "name" and what `train` or `import_start` takes. A "without" in it names a patch that is undone for the
case. What came out goes to WORK_FOLDER/results/<name>.<rank>.json.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import timedelta
from functools import partialmethod
from pathlib import Path

import original_behaviour
import torch

from nemo_workflow.backends import cpu
from nemo_workflow.backends.cpu import products
from nemo_workflow.backends.patching import owner_of
from nemo_workflow.backends.registry_cpu import CPU_PATCHES

PATCHES = CPU_PATCHES
ORIGINAL_BEHAVIOUR = original_behaviour.report() if os.environ["RANK"] == "1" else {}  # rank 0 prepares meanwhile


def _attribute(target: str) -> object:
    """The attribute as its owner stores it, so that a staticmethod stays one; None where there is none."""
    owner, name = owner_of(target)
    return vars(owner).get(name, getattr(owner, name, None))


with cpu.compiler_left_out():  # megatron-core takes torch.compile as it is imported, and a rank patches that before
    ORIGINALS = {target: _attribute(target) for patch in PATCHES for target in patch.targets}
ORIGINALS["torch:compile"] = torch.compile
cpu.install()
products.use_fastest()

from lightning.pytorch.callbacks import Callback  # noqa: E402
from megatron.core import num_microbatches_calculator, parallel_state, tensor_parallel  # noqa: E402
from megatron.core.dist_checkpointing import load_plain_tensors  # noqa: E402
from megatron.core.distributed import DistributedDataParallelConfig  # noqa: E402
from megatron.core.optimizer import OptimizerConfig  # noqa: E402
from nemo import lightning as nl  # noqa: E402
from nemo.collections import llm  # noqa: E402
from nemo.collections.common.tokenizers.huggingface import AutoTokenizer  # noqa: E402
from nemo.lightning.callback_group import CallbackGroup  # noqa: E402
from nemo.lightning.io.connector import ModelConnector  # noqa: E402
from nemo.lightning.pytorch.callbacks.megatron_comm_overlap import MegatronCommOverlapCallback  # noqa: E402
from nemo.utils import AppState  # noqa: E402

SAVE_TOKENIZER = ModelConnector.save_hf_tokenizer_assets
LAYERS, HIDDEN, SEQ_LENGTH, VOCABULARY = 4, 64, 64, 256


class Watch(Callback):
    """Keeps what the user's progress line shows, and the state of Megatron's random streams at the start."""

    def __init__(self) -> None:
        self.seen: dict[str, dict] = {"losses": {}, "grad_norms": {}, "streams": {}}

    def on_train_start(self, trainer, module) -> None:
        states = tensor_parallel.get_cuda_rng_tracker().get_states()
        self.seen["streams"] = {k: hashlib.sha256(bytes(v.tolist())).hexdigest() for k, v in states.items()}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index) -> None:
        for key, metric in (("losses", "reduced_train_loss"), ("grad_norms", "grad_norm")):
            if metric in trainer.callback_metrics:
                self.seen[key][trainer.global_step] = float(trainer.callback_metrics[metric])


def make_config(**overrides) -> llm.LlamaConfig:
    defaults = {
        "num_layers": LAYERS,
        "hidden_size": HIDDEN,
        "num_attention_heads": 4,
        "num_query_groups": 2,
        "ffn_hidden_size": 2 * HIDDEN,
        "seq_length": SEQ_LENGTH,
        "rotary_base": 10_000,
        "share_embeddings_and_output_weights": False,
        "make_vocab_size_divisible_by": 128,
    }
    return llm.LlamaConfig(**{**defaults, **overrides})


def train(
    folder: Path,
    name: str,
    store: torch.distributed.Store,
    *,
    ranks: int = 1,
    strategy: dict | None = None,
    ddp: dict | None = None,
    config: dict | None = None,
    comm_overlap: bool = False,
    max_steps: int = 12,
    experiment: str | None = None,
    copy_of: str | None = None,
    start: str | None = "start",
) -> dict:
    """Train from the weights in folder/<start>; with an experiment, save into it every 6 steps and continue what it has.

    `copy_of` fills the experiment with a copy of another first. Returns what this rank saw.
    """
    tokenizer = AutoTokenizer(str(folder / "hf"))
    strategy, ddp = strategy or {}, ddp or {}
    if copy_of:
        shutil.copytree(folder / "experiments" / copy_of, folder / "experiments" / experiment)
    watch = Watch()
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
        enable_checkpointing=bool(experiment),
        callbacks=[watch, *([MegatronCommOverlapCallback(tp_comm_overlap=False)] if comm_overlap else [])],
    )
    # not as an argument: NeMo writes those to a file, and a store can't be
    trainer.strategy.store = torch.distributed.PrefixStore(name, store)
    checkpoints = nl.ModelCheckpoint(save_last=True, save_top_k=0, every_n_train_steps=6, save_optim_on_train_end=True)
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
            name=experiment or name,
            use_datetime_version=False,
            tensorboard=None,
            ckpt=checkpoints if experiment else None,
        ),
        optim=nl.MegatronOptimizerModule(
            config=OptimizerConfig(
                optimizer="adam",
                lr=2e-3,
                bf16=True,
                use_distributed_optimizer=ddp.get("use_distributed_optimizer", False),
                clip_grad=1.0,
            )
        ),
        resume=nl.AutoResume(
            resume_if_exists=bool(experiment),
            resume_ignore_no_checkpoint=True,
            restore_config=nl.RestoreConfig(path=str(folder / start)) if start else None,
        ),
    )
    return watch.seen


def import_start(folder: Path, name: str, *, tied: bool = False) -> dict:
    """Import folder/hf (or folder/hf_tied) into folder/<name>; returns the norm weights that arrived."""
    config = make_config(share_embeddings_and_output_weights=tied)
    hugging_face = folder / ("hf_tied" if tied else "hf")
    # NeMo's own place is one for all, /tmp/nemo_tokenizer, and the other rank imports too
    ModelConnector.save_hf_tokenizer_assets = partialmethod(SAVE_TOKENIZER, save_path=str(folder / f"{name}_tokenizer"))
    llm.import_ckpt(llm.LlamaModel(config), f"hf://{hugging_face}", output_path=folder / name)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    weights = load_plain_tensors(str(folder / name / "weights"))
    return {"norms": weights["module.decoder.layers.self_attention.linear_qkv.layer_norm_weight"].tolist()}


def prepare(folder: Path) -> None:
    """Make two Hugging Face folders (untied and tied) with random norms, a tokenizer of 256 words, and 400 predictable documents."""
    import numpy as np
    import transformers
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    for name, tied in (("hf", False), ("hf_tied", True)):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=HIDDEN,
                intermediate_size=2 * HIDDEN,
                num_hidden_layers=LAYERS,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
                bos_token_id=0,
                eos_token_id=1,
                tie_word_embeddings=tied,
            )
        )
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name:
                torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        model.to(torch.bfloat16).save_pretrained(folder / name)
        transformers.PreTrainedTokenizerFast(
            tokenizer_object=words, bos_token="w0", eos_token="w1", unk_token="w0"
        ).save_pretrained(folder / name)
        norms = [layer.input_layernorm.weight.tolist() for layer in model.model.layers]
        (folder / f"{name}_norms.json").write_text(json.dumps(norms))

    builder = IndexedDatasetBuilder(str(folder / "data.bin"), dtype=np.uint16)
    random = np.random.default_rng(0)
    usual_next = random.permutation(VOCABULARY)
    for _ in range(400):
        document = [int(random.integers(2, VOCABULARY))]
        for _ in range(random.integers(40, 120)):
            usual = random.random() < 0.8
            document.append(int(usual_next[document[-1]] if usual else random.integers(2, VOCABULARY)))
        builder.add_document(torch.tensor([*document, 1]), [len(document) + 1])
    builder.finalize(str(folder / "data.idx"))


def tear_down() -> None:
    """Forget the layout, so that the next case can have another in this process."""
    parallel_state.destroy_model_parallel()
    tensor_parallel.get_cuda_rng_tracker().reset()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    num_microbatches_calculator.unset_num_microbatches_calculator()
    AppState._Singleton__instances = {}
    for variable in [name for name in os.environ if name.startswith(("NEMO_", "NVTE_", "PL_"))]:
        del os.environ[variable]
    gc.collect()


def be_rank(rank: int, of: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(of), LOCAL_WORLD_SIZE=str(of))


@contextlib.contextmanager
def without(patch_name: str | None) -> Iterator[None]:
    """Undo one patch inside the block."""
    undone = [(t, patch) for patch in PATCHES if patch.name == patch_name for t in patch.targets]
    assert undone or patch_name is None, f"no patch is called {patch_name}"
    replacements = {target: _attribute(target) for target, _ in undone}
    for target, patch in undone:
        owner, name = owner_of(target)
        if patch.signature == "<absent>":
            delattr(owner, name)
        else:
            setattr(owner, name, ORIGINALS[target])
    try:
        yield
    finally:
        for target, replacement in replacements.items():
            owner, name = owner_of(target)
            setattr(owner, name, replacement)


def run_case(folder: Path, store: torch.distributed.Store, case: dict, rank: int) -> None:
    name = case.pop("name")
    be_rank(rank, of=case.get("ranks", 1))
    started = time.perf_counter()
    try:
        with without(case.pop("without", None)):
            if case.pop("import", False):
                result = import_start(folder, name, **case)
            else:
                result = train(folder, name, store, **case)
    except Exception:  # noqa: BLE001 - the test shows it
        result = {"error": traceback.format_exc()}
    result["seconds"] = round(time.perf_counter() - started, 2)
    tear_down()
    (folder / "results" / f"{name}.{rank}.json").write_text(json.dumps(result))


def stale_references() -> list[str]:
    """Names in Megatron and NeMo that still hold an unpatched function, because a module took it with `from … import`."""
    functions = {id(original): target for target, original in ORIGINALS.items() if callable(original)}
    return [
        f"{module_name}.{name} is the unpatched {functions[id(value)]}"
        for module_name, module in list(sys.modules.items())
        if module_name.startswith(("megatron.", "nemo."))
        for name, value in list(vars(module).items())
        if id(value) in functions
    ]


def main() -> None:
    gc.collect()
    gc.freeze()  # or each case's end would look through all that has been imported for rubbish
    folder = Path(sys.argv[1])
    rank = int(os.environ["RANK"])
    torch.set_num_threads(1)
    os.chdir(folder)
    CallbackGroup.get_instance().callbacks.clear()  # NeMo's telemetry knows one training a process
    store = torch.distributed.TCPStore(
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=timedelta(minutes=5)
    )
    steps = json.loads((folder / "steps.json").read_text())
    if rank == 0:
        prepare(folder)
        (folder / "results/stale.0.json").write_text(json.dumps(stale_references()))
        store.set("prepared", "yes")
    else:
        (folder / "results/original_behaviour.0.json").write_text(json.dumps(ORIGINAL_BEHAVIOUR))
    store.wait(["prepared"])
    # an import takes no store from us: each process is its own master then, on any free port
    os.environ.update(TORCHELASTIC_USE_AGENT_STORE="False", MASTER_PORT="0")
    for number, step in enumerate(steps):
        if isinstance(step, dict):
            run_case(folder, store, step, rank)
        elif rank < len(step):
            run_case(folder, store, step[rank], 0)
        store.set(f"done {number} {rank}", "yes")
        store.wait([f"done {number} {other}" for other in (0, 1)])


if __name__ == "__main__":
    main()
