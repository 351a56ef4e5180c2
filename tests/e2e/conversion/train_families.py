"""Import -> 3 training steps on a CPU -> export of tiny models, one process a model, forked from one that has imported NeMo.

Run as a program by test_trained_families.py: `train_families.py FOLDER NAME…`; FOLDER/<name>/error.txt says what went
wrong with one. Everything is the product's own: its plan, its worker (a process group of one rank), its two conversions. Only the
launcher is left out, which costs 20 s a start; test_trained_families.py sends one model through that too.
"""

from __future__ import annotations

import gc
import importlib
import os
import struct
import sys
import traceback
from array import array
from collections.abc import Callable
from pathlib import Path

from nemo_workflow.backends import deferral, deferred
from nemo_workflow.backends.patching import RANK
from nemo_workflow.config.command_line import parse
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.launch import local
from nemo_workflow.models.architecture import ARCHITECTURE
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.training import worker
from tests.conversion import tiny_models as tiny

STEPS = 3
# any recipe of the model's class: the checkpoint says what the model is
RECIPES = {
    "baichuan": "baichuan2_7b",
    "chatglm": "chatglm3_6b",
    "deepseek": "deepseek_v2_lite",
    "gemma": "gemma_2b",
    "gemma2": "gemma2_2b",
    "gemma3": "gemma3_1b",
    "llama": "llama32_1b",
    "codellama": "llama32_1b",
    "mistral": "mistral_7b",
    "mixtral": "mixtral_8x7b",
    "nemotron": "nemotron3_4b",
    "phi3": "phi3_mini_4k_instruct",
    "qwen2": "qwen25_500m",
    "qwen3": "qwen3_600m",
    "qwen3_moe": "qwen3_30b_a3b",
    "starcoder": "starcoder_15b",
    "starcoder2": "starcoder2_3b",
}


# families whose layers are Transformer Engine's, which only a GPU computes: a recipe is built for them and not run
GPU_ONLY = ("deepseek", "gemma2", "gemma3")
# NeMo has no recipe to pretrain it
NO_RECIPE = ("gpt_oss",)


# what each model's processes would import for themselves, as a checkpoint that is gone on from has NeMo ask modelopt
IMPORTED = (
    "pandas", "sklearn.metrics", "torch._dynamo", "torch.onnx", "transformers.loss.loss_utils", "transformers.quantizers", "datasets",
    "peft", "modelopt.torch.opt",
)  # fmt: skip


def recipe_of(name: str) -> str:
    """The recipe with the longest key that the model's name begins with."""
    return RECIPES[max((key for key in RECIPES if name.startswith(key)), key=len)]


def write_data(folder: Path) -> Path:
    """A .bin/.idx pair of 64 documents of 100 tokens below the tokenizer's size."""
    folder.mkdir(parents=True)
    count, length = 64, 100
    tokens = array("H", [(7 * at * at + at) % tiny.TOKENIZER_SIZE for at in range(count * length)])
    (folder / "text_document.bin").write_bytes(tokens.tobytes())
    with (folder / "text_document.idx").open("wb") as stream:
        stream.write(struct.pack("<9sQBQQ", b"MMIDIDX\x00\x00", 1, 8, count, count + 1))
        stream.write(array("i", [length] * count).tobytes())
        stream.write(array("q", [2 * length * at for at in range(count)]).tobytes())
        stream.write(array("q", range(count + 1)).tobytes())
    return folder


def flags(name: str, place: Path, data: Path) -> list[str]:
    """Those of pretrain_llm.py for the model in `place`."""
    # a Slurm plan needs no GPU here
    where = ["--executor", "slurm"] if name.startswith(GPU_ONLY) else ["--accelerator", "cpu"]
    return [
        *where, "--num-gpus", "1", "--model-name", recipe_of(name), "--hf-model-id", str(place / "hf"),
        "--nemo-model", str(place / "nemo"), "--dataset-dir", str(data), "--output-dir", str(place / "runs"),
        "--experiment", "run", "--global-batch-size", "2", "--micro-batch-size", "1", "--seq-length", "32",
        "--max-steps", str(STEPS), "--warmup-steps", "0", "--save-every", str(STEPS), "--val-check-interval", "3",
        "--log-every", "1", "--expert-model-parallel-size", "1",
    ]  # fmt: skip


def train(name: str, place: Path, data: Path) -> None:
    """Train the imported model as the worker of a launched run does."""
    plan = make_plan(parse(flags(name, place, data)))
    # alone, it meets nobody: any port that is free by then
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": 0}
    os.environ |= {key: str(value) for key, value in rank.items()} | {"MASTER_ADDR": "127.0.0.1"}
    worker.train(plan.to_json(), str(local.prepare(plan)))


def build_recipe(name: str, place: Path, data: Path) -> None:
    """Build the recipe of a run on a GPU, and hold what it says of the model against the checkpoint's model.yaml."""
    from nemo_workflow.conversion.nemo_context import read_model
    from nemo_workflow.training import recipe

    plan = make_plan(parse(flags(name, place, data)))
    local.prepare(plan)
    made = recipe.build(plan).model.config
    saved = read_model(place / "nemo")[1]
    assert f"{made.__fn_or_cls__.__module__}.{made.__fn_or_cls__.__name__}" == saved["_target_"]
    different = {
        field: (getattr(made, field), saved[field])
        for field in ARCHITECTURE & set(saved)
        if not isinstance(saved[field], dict)
        and (field, saved[field]) != FILLED
        and as_list(getattr(made, field)) != saved[field]
    }
    assert not different, different


# what a configuration leaves open is filled in from the heads
FILLED = ("num_query_groups", None)


def as_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def steps(name: str, place: Path, data: Path) -> dict[str, Callable[[], object]]:
    """What is done with a model, each in a process of its own: a process has one process group at most."""
    from nemo_workflow.conversion.command import export_main, import_main

    hf, nemo, back = (str(place / folder) for folder in ("hf", "nemo", "back"))
    trained = not name.startswith((*GPU_ONLY, *NO_RECIPE))

    def import_model() -> None:
        tiny.make(name, place / "hf")
        import_main(["--source", hf, "--output-path", nemo, "--no-verify"])

    def export() -> None:
        last = str(newest_whole(place / "runs" / "run" / "checkpoints")[0].path) if trained else nemo
        export_main(["--source", last, "--output-path", back])

    todo: dict[str, Callable[[], object]] = {"import": import_model}
    if trained:
        todo["training"] = lambda: train(name, place, data)
    elif name.startswith(GPU_ONLY):
        todo["recipe"] = lambda: build_recipe(name, place, data)
    return todo | {"export": export}


def in_a_process(work: Callable[[], object], output: Path) -> str:
    """Do `work` in a fork, whose output is added to the file `output`; returns its error, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as pipe:
            error = pipe.read()
        return error if os.waitpid(child, 0)[1] == 0 else error or "the process died"
    log = os.open(output, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        work()
    except BaseException as problem:  # noqa: BLE001  (the parent is told)
        traceback.print_exc()
        os.write(writing, f"{type(problem).__name__}: {problem}".encode())
    sys.stdout.flush()
    os._exit(0)


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:]
    # before NeMo is imported, as the worker does it: conversion and training on a CPU then share the process
    from nemo_workflow.conversion import (
        compare_logits,  # noqa: F401
        nemo_context,
    )
    from nemo_workflow.models.families import FAMILIES

    deferred.install(RANK, "cpu")  # what a rank imports only when it needs it
    nemo_context.prepare()
    for family in FAMILIES:
        nemo_context.import_nemo(family)
    worker.load("cpu")
    for module in IMPORTED:
        deferral.run(importlib.import_module(module))

    gc.collect()
    gc.freeze()  # or every fork would look through all that has been imported for rubbish, again and again
    data = write_data(folder / "data")
    for name in names:
        place = folder / name
        place.mkdir()
        for step, work in steps(name, place, data).items():
            error = in_a_process(work, place / "output.txt")
            if error:
                (place / "error.txt").write_text(f"{step}: {error}")
                break


if __name__ == "__main__":
    main()
