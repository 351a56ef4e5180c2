"""A case a row: flags that make a run wrong, and the exact words of the refusal."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nemo_workflow.config import command_line
from nemo_workflow.config.resolve import make_plan
from nemo_workflow.launch import local
from nemo_workflow.models.tokenizer_identity import MAKER, OWN_END, bytes_hash, content_hash
from nemo_workflow.preprocess import inspect_dataset
from nemo_workflow.utils import machine
from nemo_workflow.utils.errors import Refusal
from tests.places import Place, write_nemo_model, write_pair, write_tokenizer

GPU = "--accelerator=gpu --dry-run "  # --dry-run: the machine needn't have the GPUs
ONE = GPU + "-G 1 "
HERE = f" (relative to the current folder, {Path.cwd()})"


def refusal(place: Place, *more: str, **change: str | None) -> list[str]:
    with pytest.raises(Refusal) as caught:
        make_plan(command_line.parse(place.flags(*more, **change)))
    return caught.value.problems


FLAGS = [
    # layout
    ("-gbs 15 -G 2", "--global-batch-size 15: not a multiple of micro batch size x data parallel size = 1 x 2 = 2; use 14 or 16"),
    ("-gbs 2 -mbs 4", "--global-batch-size 2: not a multiple of micro batch size x data parallel size = 4 x 1 = 4; use 4, or keep it and use --micro-batch-size 2"),
    (GPU + "-G 6 -TP 4", "--num-gpus 6 x --num-nodes 1: 6 ranks are not a multiple of TP x PP x CP = 4 x 1 x 1 = 4; change the ranks (-G 8) or the parallel sizes"),
    (GPU + "-TP 8", "--tensor-model-parallel-size 8: doesn't divide the 4 groups of keys and values of llama_tiny; use 1, 2 or 4"),
    ("-G 3 -TP 3 -gbs 3", "--tensor-model-parallel-size 3: doesn't divide the 8 attention heads and the 4 groups of keys and values of llama_tiny; use 1, 2 or 4"),
    (GPU + "-G 4 -TP 4 -M mamba2_130m", "--tensor-model-parallel-size 4: doesn't divide the 1 Mamba groups of mamba2_130m; use 1"),
    ("-G 3 -PP 3", "--pipeline-model-parallel-size 3: can't split 4 layers over 3 stages of llama_tiny evenly; use 1, 2 or 4"),
    (GPU + "-G 6 -PP 6 -M llama31_405b -gbs 12", "--pipeline-model-parallel-size 6: can't split 128 layers (embedding and loss count as a layer each) over 6 stages of llama31_405b evenly; use 1 or 2"),
    ("-VPP 2", "--virtual-pipeline-model-parallel-size 2: needs --pipeline-model-parallel-size 2 or more; leave it out"),
    ("-G 2 -PP 2 -VPP 3", "--virtual-pipeline-model-parallel-size 3: doesn't divide the 2 layers of a stage; use 1 or 2"),
    ("-G 2 -PP 2 -VPP 2 -gbs 15", "--virtual-pipeline-model-parallel-size 2: the 15 micro batches of a step are not a multiple of --pipeline-model-parallel-size 2; use --global-batch-size 14 or 16"),
    (GPU + "-G 4 -PP 4 -VPP 2 -M mamba2_130m", "--virtual-pipeline-model-parallel-size 2: the models of mamba2_130m can't be split into virtual stages; leave it out"),
    ("-G 2 -PP 2 -VPP 2 -gbs 1", "--virtual-pipeline-model-parallel-size 2: the 1 micro batch of a step is not a multiple of --pipeline-model-parallel-size 2; use --global-batch-size 2"),
    ("--last-stage-layers 1", "--last-stage-layers 1: needs --pipeline-model-parallel-size 2 or more; leave it out"),
    ("-G 2 -PP 2 --last-stage-layers 4", "--last-stage-layers 4: of the 4 layers of llama_tiny none are left for the 1 other stage, which must have as many each; --last-stage-layers 2 or 3 would do"),
    ("-G 2 -PP 2 --first-stage-layers 3 --last-stage-layers 2", "--first-stage-layers 3, --last-stage-layers 2: the two stages don't add up to the 4 layers of llama_tiny; leave one of the flags out"),
    (GPU + "-G 4 -PP 4 --first-stage-layers 9 -M llama31_8b --seq-length 128", "--first-stage-layers 9: of the 32 layers of llama31_8b 23 are left for the 3 other stages, which must have as many each; --first-stage-layers 8 or 11 would do"),
    (GPU + "-G 2 -PP 2 --last-stage-layers 9 -M mamba2_130m", "--last-stage-layers 9: the models of mamba2_130m have as many layers in each stage; leave it out"),
    ("-G 2 -PP 2 -VPP 3 --last-stage-layers 1", "--virtual-pipeline-model-parallel-size 3: stages of 3, 1 layers have none for each of their 3 chunks; lower it"),
    ("-G 2 -PP 2 -VPP 2 --first-stage-layers 3 --recompute-granularity full --recompute-method block --recompute-num-layers 3", "--recompute-num-layers 3: a (virtual) pipeline stage has 2 layers; use 1 to 2"),
    ("-SP", "--sequence-parallel: needs --tensor-model-parallel-size 2 or more; leave it out"),
    ("-G 2 -TP 2 -SP --seq-length 255", "--seq-length 255: the 255 tokens of a context parallel rank are not a multiple of --tensor-model-parallel-size 2, as --sequence-parallel needs; use --seq-length 254 or 256"),
    (GPU + "-G 2 -CP 2 --seq-length 254", "--seq-length 254: not a multiple of 2 x --context-parallel-size = 4, since each rank takes an early and a late piece; use 252 or 256"),
    ("--seq-length 8193", "--seq-length 8193: llama_tiny is made for at most 8192 tokens; lower it, or take a recipe for longer sequences (--list-models)"),
    ("-EP 2 -G 2", "--expert-model-parallel-size 2: recipe llama_tiny has no experts; leave it out"),
    (GPU + "-M mixtral_8x7b -EP 3 -G 3 -gbs 15 --seq-length 128", "--expert-model-parallel-size 3: doesn't divide the 8 experts; use 1, 2, 4 or 8"),
    (GPU + "-M mixtral_8x7b -EP 3 -G 12 -PP 2 -gbs 6 --seq-length 128", "--expert-model-parallel-size 3: doesn't divide the 8 experts; use 1 or 2"),
    (GPU + "-M mixtral_8x7b -EP 4 -G 6 -CP 3 --seq-length 126 -gbs 2", "--expert-model-parallel-size 4: 6 ranks are not a multiple of PP x EP x the ranks an expert is split over = 4; use 1 or 2, or a multiple of 12 GPUs"),
    (GPU + "-M mixtral_8x7b -G 4 --seq-length 128", "--expert-model-parallel-size 8 (recipe mixtral_8x7b's own): 4 ranks are not a multiple of PP x EP x the ranks an expert is split over = 8; use 1, 2 or 4, or a multiple of 8 GPUs"),
    (GPU + "-M mixtral_8x7b -EP 1 -G 2 -TP 2 --seq-length 128", "--tensor-model-parallel-size 2: a mixture of experts needs --sequence-parallel with it; add --sequence-parallel"),
    # recompute and offload
    ("--recompute-granularity full", "--recompute-granularity full: needs --recompute-method and --recompute-num-layers too, e.g. --recompute-method uniform --recompute-num-layers 1"),
    ("--recompute-granularity full --recompute-method block", "--recompute-granularity full: needs --recompute-num-layers too, e.g. --recompute-num-layers 1"),
    ("--recompute-method block", "--recompute-method: only goes with --recompute-granularity full; add it or leave them out"),
    ("--recompute-granularity selective --recompute-num-layers 1", "--recompute-num-layers: only goes with --recompute-granularity full; add it or leave them out"),
    ("-G 2 -PP 2 --recompute-granularity full --recompute-method block --recompute-num-layers 3", "--recompute-num-layers 3: a (virtual) pipeline stage has 2 layers; use 1 to 2"),
    (ONE + "--cpu-offloading --cpu-offloading-layers 2", "--cpu-offloading: nothing to offload; add --cpu-offloading-activations"),
    (ONE + "--cpu-offloading --cpu-offloading-activations", "--cpu-offloading: needs --cpu-offloading-layers, the number of layers to offload"),
    (ONE + "--cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 4", "--cpu-offloading-layers 4: must be below the model's 4 layers"),
    ("--cpu-offloading-activations", "--cpu-offloading-activations: does nothing without --cpu-offloading; add --cpu-offloading or leave it out"),
    (ONE + "--cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 2 --recompute-granularity selective", "--cpu-offloading: can't be combined with --recompute-granularity; leave one of them out"),
    (ONE + "--cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 2 --fp8", "--cpu-offloading: can't be combined with --fp8; leave one of them out"),
    (GPU + "-G 2 -PP 2 --cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 2", "--cpu-offloading: can't be combined with --pipeline-model-parallel-size 2; use 1 stage"),
    (GPU + "-gbs 8 -M qwen3_32b --seq-length 128 --cpu-offloading --cpu-offloading-activations --cpu-offloading-layers 2", "--cpu-offloading: recipe qwen3_32b recomputes activations, which can't be combined; leave it out"),
    (ONE + "--cpu-offloading --cpu-offloading-weights --cpu-offloading-layers 2", "--cpu-offloading-weights: Transformer Engine 2.9 no longer offloads weights, and a run that offloads only weights fails at its first step; use --cpu-offloading-activations"),
    (ONE + "--optim-cpu-offloading --disable-dist-optim", "--optim-cpu-offloading: needs the distributed optimizer; leave --disable-dist-optim out"),
    (ONE + "--optim-cpu-offloading --optimizer sgd", "--optim-cpu-offloading: only Adam's states can be offloaded; leave it or --optimizer sgd out"),
    (ONE + "--optim-cpu-offloading --optim-cpu-offloading-frac 1.5", "--optim-cpu-offloading-frac 1.5: must be between 0 and 1"),
    (ONE + "--optim-cpu-offloading --optim-cpu-offloading-frac=-1", "--optim-cpu-offloading-frac -1.0: must be 0 or more"),
    ("--optim-cpu-offloading-frac 0.5", "--optim-cpu-offloading-frac: does nothing without --optim-cpu-offloading; add it or leave this out"),
    (ONE + "--optimizer-precision bf16 --disable-dist-optim", "--optimizer-precision bf16: needs the distributed optimizer; leave it or --disable-dist-optim out"),
    (ONE + "--optimizer-precision bf16 --optimizer sgd", "--optimizer-precision bf16: needs Adam; leave it or --optimizer sgd out"),
    (ONE + "--optimizer-precision bf16 --optim-cpu-offloading", "--optimizer-precision bf16: the optimizer on the host computes in fp32; leave it or --optim-cpu-offloading out"),
    (ONE + "--optimizer-precision bf16 --precision 32", "--optimizer-precision bf16: goes with --precision bf16-mixed, not with 32; leave one of them out"),
    (ONE + "--optimizer-precision bf16 --precision 16-mixed", "--optimizer-precision bf16: goes with --precision bf16-mixed, not with 16-mixed; leave one of them out"),
    (ONE + "--optimizer-precision bf16 --fp8", "--optimizer-precision bf16: trains wrongly with weights in fp8 on several GPUs; leave it or --fp8 out"),
    (ONE + "--grad-reduce-in-bf16 --precision 32", "--grad-reduce-in-bf16: goes with --precision bf16-mixed, not with 32; leave one of them out"),
    (ONE + "--grad-reduce-in-bf16 --precision 16-mixed", "--grad-reduce-in-bf16: goes with --precision bf16-mixed, not with 16-mixed; leave one of them out"),
    (ONE + "--grad-reduce-in-bf16 --optim-cpu-offloading", "--grad-reduce-in-bf16: not proven with an optimizer on the host; leave it or --optim-cpu-offloading out"),
    (GPU + "-N 128 -gbs 1024 -M deepseek_v3 --seq-length 128 -TP 2 -SP -PP 16 -EP 64 --disable-dist-optim", "--disable-dist-optim: deepseek_v3 keeps Adam's moments in bf16, which needs the distributed optimizer; leave it out or add --optimizer-precision fp32"),
    # sample
    ("--executor slurm --no-container --sample x", "--sample: only with --executor local; leave it out, and when the job has ended export a checkpoint with python ckpt_conversion/convert_from_nemo2_to_hf.py and use python -m nemo_workflow.sample to continue a text"),
    ("--sample=", "--sample: an empty value; a shell variable may be unset: give a value, or leave the flag out"),
    (ONE + "-M mamba2_130m --sample x", "--sample: mamba2_130m can't be exported to Hugging Face: Mamba 2 and Nemotron-H need mamba-ssm's CUDA kernels, and NeMo guesses the size from the path's name; leave it out"),
    (GPU + "-N 8 -M llama4_e16 --seq-length 128 --sample x", "--sample: llama4_e16 can't be exported to Hugging Face: its text part's layers are Transformer Engine's alone in NeMo, so nothing that runs without a GPU can prove it; on GPUs NeMo's own llm.import_ckpt imports it, and -M llama4_e16 or llama4_e128 with --nemo-model starts from what that writes; leave it out"),
    # CPU
    ("--fp8", "--fp8: not possible on a CPU; train on a GPU, or leave it out"),
    ("-G 2 -CP 2", "--context-parallel-size 2: needs Transformer Engine; train on a GPU, or leave it out"),
    ("--cpu-offloading --cpu-offloading-weights --cpu-offloading-layers 1", "--cpu-offloading: not possible on a CPU; train on a GPU, or leave it out"),
    ("--optim-cpu-offloading", "--optim-cpu-offloading: not possible on a CPU; train on a GPU, or leave it out"),
    ("--optimizer-precision bf16", "--optimizer-precision bf16: needs Transformer Engine; train on a GPU, or leave it out"),
    ("-M deepseek_v2_lite -EP 1 --seq-length 128", "--model-name deepseek_v2_lite: multi-latent attention needs Transformer Engine; train on a GPU"),
    ("-M mamba2_130m --seq-length 128", "--model-name mamba2_130m: its layers need mamba-ssm and Transformer Engine; train on a GPU"),
    *((f"-M {name} --seq-length 128", f"--model-name {name}: its layers need Transformer Engine; train on a GPU") for name in ("gemma3_1b", "t5_220m", "bert_110m", "hyena_1b")),
    # precision
    ("--fp8-recipe delayed", "--fp8-recipe delayed: does nothing without --fp8; add --fp8 or leave it out"),
    (ONE + "--fp8 --fp8-output-layer -M llama31_8b --seq-length 256", "--fp8-output-layer: proven only for tied embeddings, as in llama32_1b; llama31_8b has an output matrix of its own; leave it out"),
    ("--fp8-output-layer", "--fp8-output-layer: does nothing without --fp8; add --fp8 or leave it out"),
    (ONE + "--fp8 --precision 32", "--fp8: goes with bf16-mixed or 16-mixed, not with --precision 32; leave one of them out"),
    (ONE + "--fp8 --seq-length 100", "--fp8: 100 tokens per rank is not a multiple of 16; change --seq-length or --micro-batch-size"),
    # optimizer and schedule
    ("--warmup-steps 11 --max-steps 10", "--warmup-steps 11: longer than the run of 10 steps; lower --warmup-steps or raise --max-steps"),
    ("--warmup-steps 5 --constant-steps 6 --max-steps 10", "--constant-steps 6: with 5 steps of warm-up longer than the run of 10 steps; lower --constant-steps or raise --max-steps"),
    ("--warmup-steps 1 --constant-steps 1 --max-steps 1", "--constant-steps 1: with 1 step of warm-up longer than the run of 1 step; lower --constant-steps or raise --max-steps"),
    ("--lr 1e-4 --min-lr 1e-3", "--min-lr 0.001: above the learning rate 0.0001; lower --min-lr or raise --lr"),
    ("--min-lr 0.01", "--min-lr 0.01: above the learning rate 0.001; lower --min-lr or raise --lr"),
    ("--max-steps 10 --val-check-interval 11", "--val-check-interval 11: longer than the run of 10 steps, so it would never validate; lower it"),
    ("--optimizer sgd --adam-beta1 0.9", "--adam-beta1: does nothing with --optimizer sgd; leave it out"),
    ("--adam-beta2 1", "--adam-beta2 1.0: must be below 1"),
    ("--lr 0", "--lr 0.0: must be above 0"),
    ("--lr=-1", "--lr -1.0: must be above 0"),
    ("--lr nan", "--lr nan: must be above 0"),
    ("--lr inf", "--lr inf: must be above 0"),
    ("--keep-checkpoints 0", "--keep-checkpoints 0: would delete the run's only checkpoint; keep 1 or more, or -1 for all"),
    ("-mbs 0", "--micro-batch-size 0: must be 1 or more"),
    ("--max-steps=-5", "--max-steps -5: must be 1 or more"),
    ("-TP 0", "--tensor-model-parallel-size 0: must be 1 or more"),
    # experiment, machine, Slurm, wandb
    ("-E a/b", "--experiment 'a/b': not a valid folder name; use letters, digits and _, and after the first character also . + = -; did you mean -E b?"),
    ("-E runs/b/", "--experiment 'runs/b/': not a valid folder name; use letters, digits and _, and after the first character also . + = -; did you mean -E b?"),
    ("-E ..", "--experiment '..': not a valid folder name; use letters, digits and _, and after the first character also . + = -"),
    ("-E=", "--experiment: an empty value; a shell variable may be unset: give a value, or leave the flag out"),
    ("-A team -P long", "--partition: only for --executor slurm; leave it out, or add --executor slurm"),
    ("--executor slurm --no-container --mail-user me@example.org", "--mail-user: Slurm mails of nothing without --mail-type; add it (END,FAIL), or leave this out"),
    ("--gpu-memory 80", "--gpu-memory: this run trains on CPU ranks; leave it out, or plan for GPUs with --accelerator gpu --dry-run"),
    ("--time 1:00:00", "--time: only for --executor slurm; leave it out, or add --executor slurm"),
    ("-N 2", "--num-nodes 2: --executor local runs on this machine only; use --executor slurm"),
    ("--accelerator gpu", "--num-gpus 8: this machine has 0 GPUs available; use --accelerator cpu"),
    ("--wandb-project p", "--wandb-project: does nothing without --wandb; add --wandb or leave it out"),
    # model and data
    ("-M llama_tinny", "--model-name llama_tinny: unknown recipe; did you mean llama_tiny? (--list-models prints all)"),
    ("-M llama-3.2-1b", "--model-name llama-3.2-1b: unknown recipe; did you mean llama32_1b? (--list-models prints all)"),
    ("-M Qwen/Qwen3-0.6B-Base", "--model-name Qwen/Qwen3-0.6B-Base: a recipe's name is expected (the Hugging Face id goes with --hf-model-id); did you mean qwen3_600m? (--list-models prints all)"),
    ("-M gpt2", "--model-name gpt2: NeMo has no recipe for this model; one of its size is llama_125m (--list-models prints all)"),
    ("-M t5_220m --constant-steps 5 -gbs 1 --accelerator=gpu --dry-run -G 1", "--constant-steps: recipe t5_220m has no field optim.lr_scheduler.constant_steps; leave it out"),
    ("-gbs 2048", "--global-batch-size 2048: the training split holds 1,054 samples of 256 tokens, less than one step; lower --global-batch-size or --seq-length, or add data"),
    ("--split 999,1,0 --seq-length 512", "--split 999,1,0: no validation sample in d_text_document (1 document, 300 tokens); give this part more, or do without: --split 1,0,0"),
    ("--split 9999,0,1", "--split 9999,0,1: no test sample in d_text_document (0 documents, 0 tokens); give this part more, or do without: --split 1,0,0"),
    ("--split 9,1", "--split 9,1: expected three numbers for training, validation and test, the first above 0, such as 9,1,0"),
    ("--split 0,1,1", "--split 0,1,1: expected three numbers for training, validation and test, the first above 0, such as 900,50,50"),
    ("--split 9e2,50,50", "--split 9e2,50,50: expected three numbers for training, validation and test, the first above 0, such as 900,50,50"),
    ("--split nan,1,1", "--split nan,1,1: expected three numbers for training, validation and test, the first above 0, such as 900,50,50"),
    ("--split 1_0,1,1", "--split 1_0,1,1: expected three numbers for training, validation and test, the first above 0, such as 900,50,50"),
    ("--dataset-dir /nowhere", "--dataset-dir /nowhere: no such folder or pair (a shell variable in front of it may be unset); run preprocess_data.sh, or correct the path"),
    (f"--hf-model-id {__file__}", f"--hf-model-id {__file__}: a file, not a folder, and not of the form organisation/name; give a folder, or a Hub id such as Qwen/Qwen3-0.6B-Base"),
    ("--hf-model-id ./nowhere", f"--hf-model-id ./nowhere: no such folder{HERE}, and not of the form organisation/name; give a folder, or a Hub id such as Qwen/Qwen3-0.6B-Base"),
    ("--dataset-dir nowhere", f"--dataset-dir nowhere: no such folder or pair{HERE}; run preprocess_data.sh, or correct the path"),
    ("--blend no.txt", f"--blend no.txt: no such file{HERE}; a text file with a line `WEIGHT PATH` for each folder or pair is expected"),
    ("--nemo-model nowhere", f"--nemo-model nowhere: no such folder{HERE}; give the folder of a NeMo 2 checkpoint (convert_from_hf_to_nemo2.py writes one)"),
]  # fmt: skip


@pytest.mark.parametrize(("flags", "message"), FLAGS, ids=lambda text: text[:40])
def test_wrong_flags_are_refused_in_these_words(shared: Place, flags: str, message: str) -> None:
    words = flags.split()
    change = {"accelerator": None} if any(word.startswith("--accelerator") for word in words) else {}
    problems = refusal(shared, *words, **change)
    assert message in problems


def test_an_unset_batch_is_named_as_the_default_and_the_recipes_own_told(shared: Place) -> None:
    assert refusal(shared, global_batch_size=None) == [
        "--global-batch-size 2048 (the default): the training split holds 1,054 samples of 256 tokens, less than one step;"
        " lower --global-batch-size or --seq-length, or add data: llama_tiny's own is -gbs 16"
    ]
    assert (
        "--global-batch-size 2048 (the default): not a multiple"
        in refusal(shared, "-G", "3", global_batch_size=None)[0]
    )


def test_a_short_text_is_told_a_batch_that_fits_it(place: Place) -> None:
    """Lowering the batch alone would lead to a second refusal, of the micro batch."""
    write_pair(place.data, [739])
    flags = ("--split", "1,0,0", "--seq-length", "256")
    (problem,) = refusal(place, *flags, "-mbs", "8")
    assert problem.endswith("lower --global-batch-size or --seq-length, or add data (-gbs 2 -mbs 2 would do)"), problem
    assert place.plan(*flags, "-mbs", "2", global_batch_size="2").schedule.max_steps == 1
    assert refusal(place, *flags, "-mbs", "2")[0].endswith("or add data")


def test_one_document_is_told_how_to_do_without_a_validation(place: Place) -> None:
    """Only one problem: the test part is as empty, and the same --split sees to both."""
    write_pair(place.data, [300_000])
    (problem,) = refusal(place)
    assert problem == (
        "--split 900,50,50 (the default): no validation and no test sample in d_text_document (0 documents, 0 tokens); give this"
        " part more, or do without: --split 1,0,0"
    )
    assert place.plan("--split", "1,0,0").schedule.limit_val_batches == 0


def test_a_folder_where_a_model_is_expected_leads_to_what_was_meant(place: Place) -> None:
    run = place.root / "run"
    for name in ("step_00000004", "step_00000008", "step_00000012"):
        write_nemo_model(run / "checkpoints" / name)
    (run / "checkpoints" / "step_00000012-unfinished").touch()
    meant = f"did you mean --nemo-model {run / 'checkpoints' / 'step_00000008'}?"
    assert any(meant in problem for problem in refusal(place, nemo_model=str(run)))
    assert any(meant in problem for problem in refusal(place, nemo_model=str(run / "checkpoints")))
    (run / "plan.json").write_text('{"settings": {"hf_model_id": "my_tokenizer"}}')
    assert any("the run was trained with --hf-model-id my_tokenizer" in p for p in refusal(place, hf_model_id=str(run)))


def test_wandb_without_a_key_is_told_and_not_refused(shared: Place) -> None:
    assert any("no key" in note and "wandb sync" in note for note in shared.plan("--wandb").notes)
    assert not any("wandb" in note for note in shared.plan().notes)


def test_an_output_folder_that_can_not_be_made_is_refused(
    shared: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    for output in (file, file / "deeper"):
        assert refusal(shared, output_dir=str(output)) == [f"--output-dir {output}: {file} is a file; give a folder"]
    words = r"--output-dir /proc/x: /proc/x/run can't be written \(No such file"
    with pytest.raises(Refusal, match=words), local.locked(Path("/proc/x/run")):
        raise AssertionError
    access = os.access  # a mock: root, who often runs the tests, may write everywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode == os.F_OK and access(path, mode))
    (problem,) = refusal(shared, output_dir=str(tmp_path / "new"))
    assert problem.startswith(f"--output-dir {tmp_path}/new: {tmp_path} can't be written; give another")


def test_all_problems_come_at_once(shared: Place) -> None:
    words = ["--fp8", "-SP", "-E", "a/b", "--split", "1", "--wandb-name", "x"]
    problems = refusal(shared, *words, dataset_dir="/nowhere")
    for word in ("--fp8", "--sequence-parallel", "--experiment", "--split", "--wandb-name", "/nowhere"):
        assert sum(word in problem for problem in problems) == 1, (word, problems)


def cut_idx(place: Place) -> None:
    path = Path(f"{place.data}.idx")
    path.write_bytes(path.read_bytes()[:-5])


def other_version(place: Place) -> None:
    path = Path(f"{place.data}.idx")
    data = bytearray(path.read_bytes())
    data[9] = 7
    path.write_bytes(data)


def no_idx(place: Place) -> None:
    Path(f"{place.data}.idx").unlink()


def short_bin(place: Place) -> None:
    path = Path(f"{place.data}.bin")
    path.write_bytes(path.read_bytes()[:-2])


def no_pairs(place: Place) -> None:
    for path in place.data.parent.iterdir():
        path.unlink()


def no_token(place: Place) -> None:
    write_pair(place.data, [])


def big_ids(place: Place) -> None:
    write_pair(place.data, [300] * 1000, largest=4096)


def big_ids_in_figures(place: Place) -> None:
    Path(f"{place.data}.json").write_text('{"tokens": 300000, "largest_token_id": 5000}')


def negative_ids(place: Place) -> None:
    write_pair(place.data, [300] * 1000, dtype="int32", largest=-5)


def at_index(place: Place, offset: int, data: bytes) -> None:
    """Write into the .idx of 1000 sequences: lengths begin at byte 34, pointers at 4034, boundaries at 12034."""
    idx = Path(f"{place.data}.idx")
    whole = idx.read_bytes()
    idx.write_bytes(whole[:offset] + data + whole[offset + len(data) :])


def half_the_documents(place: Place) -> None:
    """As the old merge of two pairs left it: the documents of the first half only."""
    idx = Path(f"{place.data}.idx")
    whole = idx.read_bytes()
    idx.write_bytes(whole[:26] + (501).to_bytes(8, "little") + whole[34 : 12034 + 8 * 501])


def no_length(place: Place) -> None:
    at_index(place, 34 + 4 * 10, bytes(4))


def wrong_boundary(place: Place) -> None:
    at_index(place, 12034 + 8 * 10, bytes(8))


def wrong_pointer_beside_figures(place: Place) -> None:
    Path(f"{place.data}.json").write_text('{"tokens": 300000, "largest_token_id": 50}')
    at_index(place, 4034 + 8 * 10, bytes(8))


def no_eos(place: Place) -> None:
    write_tokenizer(place.hf, eos=None)


def no_tokenizer(place: Place) -> None:
    for path in place.hf.iterdir():
        path.unlink()


def broken_tokenizer(place: Place) -> None:
    (place.hf / "tokenizer_config.json").write_text("{")


FILES: list[tuple[Callable[[Place], None], str]] = [
    (cut_idx, "{data}.idx: truncated: 20037 bytes instead of 20042; preprocess this file again"),
    (other_version, "{data}.idx: index version 7, dtype code 8; expected version 1"),
    (no_idx, "{data}.idx: missing, though d_text_document.bin is there; preprocess this file again"),
    (short_bin, "{data}.bin: 599998 bytes, but its .idx describes 600000; preprocess this file again"),
    (no_pairs, "--dataset-dir {folder}: no .bin/.idx files in it or in its preprocessed/; run preprocess_data.sh first"),
    (no_token, "--dataset-dir {folder}: no token in its files; preprocess text into it"),
    (big_ids, "{data}.bin: holds token id 4096, but the tokenizer of --hf-model-id {hf} has 4,096 entries; preprocess it with this tokenizer or give the one it was made with"),
    (big_ids_in_figures, "{data}.bin: holds token id 5000, but the tokenizer of --hf-model-id {hf} has 4,096 entries; preprocess it with this tokenizer or give the one it was made with"),
    (negative_ids, "{data}.bin: holds a negative token id (-5); preprocess this file again"),
    (half_the_documents, "{data}.idx: its documents do not cover its sequences (a merge that lost some leaves this); preprocess again, or join the pairs it was made of: python -m nemo_workflow.dataset join"),
    (no_length, "{data}.idx: sequence 10 has no tokens; preprocess again"),
    (wrong_boundary, "{data}.idx: document 9 ends before it begins; preprocess again"),
    (wrong_pointer_beside_figures, "{data}.idx: the pointer of sequence 10 is wrong; preprocess again"),
    (no_eos, "--hf-model-id {hf}: the tokenizer has no end-of-document token; set eos_token in its tokenizer_config.json"),
    (no_tokenizer, "--hf-model-id {hf}: no tokenizer files in it; give a folder with tokenizer.json, or a hub id"),
    (broken_tokenizer, "{hf}/tokenizer_config.json: not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "message"), FILES, ids=lambda value: getattr(value, "__name__", ""))
def test_damaged_files_are_refused_in_these_words(place: Place, damage: Callable[[Place], None], message: str) -> None:
    assert place.plan().schedule.max_steps == 1054 // 16
    damage(place)
    expected = message.format(data=place.data, folder=place.data.parent, hf=place.hf)
    assert refusal(place) == [expected]


@pytest.mark.parametrize("ending", ["", ".bin", ".idx"])
def test_a_pair_may_be_named_by_either_of_its_files(shared: Place, ending: str) -> None:
    plan = shared.plan(dataset_dir=f"{shared.data}{ending}")
    assert [source.pair.prefix for source in plan.sources] == [str(shared.data)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "nowhere",
            f"nowhere: no such folder or pair{HERE}; give a folder of .bin/.idx files, or a pair without its ending",
        ),
        (
            "README.md",
            "README.md: is text, and training reads what preprocessing makes of it: bash preprocess_data.sh --tokenizer DIR_OR_ID"
            " --input README.md --output-dir DIR, then --dataset-dir DIR",
        ),
        ("nowhere --document 0", "--document: a document is only printed with --tokenizer; add it or leave this out"),
        ("nowhere --tokeniser x", "unrecognized arguments: --tokeniser x; did you mean --tokenizer? (see --help)"),
    ],
)
def test_the_dataset_command_refuses_in_these_words(words: str, message: str) -> None:
    with pytest.raises(Refusal) as caught:
        inspect_dataset.main(words.split())
    assert caught.value.problems == [message]


def test_tokens_beyond_an_embedding_of_fixed_size_are_refused(place: Place) -> None:
    write_tokenizer(place.hf, vocabulary=40_000)
    write_pair(place.data, [300] * 1000, largest=32_064)
    assert refusal(place, model_name="phi3_mini_4k_instruct", seq_length=64) == [
        f"--hf-model-id {place.hf}: the tokenizer has 40,000 entries, but the embedding of --model-name phi3_mini_4k_instruct"
        " has 32,064 rows; give the model's own tokenizer, or give the model rows for this one's tokens:"
        " convert_from_hf_to_nemo2.py --extend-vocabulary",
        f"{place.data}.bin: holds token id 32064, but the embedding of --model-name phi3_mini_4k_instruct has 32,064 rows;"
        " preprocess it with the model's own tokenizer, or train another model",
    ]


def test_a_tokenizer_of_another_model_does_not_fit_a_checkpoint(place: Place) -> None:
    folder = write_nemo_model(place.root / "m", num_layers=2, hidden_size=64, vocab_size=4096)
    write_tokenizer(place.hf, vocabulary=13_096)
    assert refusal(place, nemo_model=str(folder)) == [
        f"--hf-model-id {place.hf}: the tokenizer has 13,096 entries, but the embedding of --nemo-model {folder} has 4,096 rows;"
        " give the model's own tokenizer, or give the model rows for this one's tokens: convert_from_hf_to_nemo2.py"
        " --extend-vocabulary"
    ]
    write_tokenizer(place.hf, vocabulary=1000)
    write_pair(place.data, [300] * 1000, largest=4095)  # within the embedding, and still another tokenizer's
    assert "holds token id 4095, but the tokenizer" in refusal(place, nemo_model=str(folder))[0]


def test_a_checkpoints_vocabulary_is_divided_as_it_is(place: Place) -> None:
    """Its rows are padded for no tensor parallel size: Megatron would fail in each rank."""
    folder = write_nemo_model(place.root / "m", num_layers=2, hidden_size=64, vocab_size=4097)
    said = "--tensor-model-parallel-size 2: doesn't divide the 4097 rows of the vocabulary of llama_tiny; use 1"
    assert refusal(place, "-G", "2", "-TP", "2", nemo_model=str(folder)) == [said]


def test_a_mistyped_folder_is_no_hub_id(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.root)
    for typed, why in (
        ("nothing", "not of the form organisation/name"),
        ("hf/tok", "hf is a folder here and has no tok"),
    ):
        assert why in refusal(place, hf_model_id=typed)[0]
        assert len(refusal(place, hf_model_id=typed, model_name=None)) == 1  # no word of a config.json besides


def test_a_model_larger_than_the_machine_is_refused_on_a_cpu(place: Place) -> None:
    (problem,) = refusal(place, "-G", "8", model_name="llama31_405b", seq_length="64")
    assert problem.startswith("--model-name llama31_405b: without a GPU, 8 CPU ranks of it take ")


def test_a_large_model_without_a_gpu_is_asked_for(place: Place) -> None:
    flags = ("-M", "llama32_1b", "--seq-length", "128", "-gbs", "4")
    (problem,) = refusal(place, *flags, accelerator="auto", model_name=None)
    assert re.fullmatch(
        r"--model-name llama32_1b: no GPU was found, and on this machine's CPU a step would take about [\w ]+"
        r" \([\d.]+[MB] parameters, 512 tokens\); add --accelerator cpu to train on it anyway, or take a smaller model"
        r" \(llama_tiny\) or --global-batch-size",
        problem,
    )
    flags_of_hours = ("-gbs", "1000000", "--max-steps", "1", "--seq-length", "64")
    problem = next(p for p in refusal(place, *flags_of_hours, accelerator="auto") if "no GPU was found" in p)
    assert " h " in problem and "--global-batch-size" in problem  # a small model, but hours a step
    assert place.plan("-G", "1", accelerator="auto").accelerator == "cpu"  # llama_tiny
    assert place.plan("--dry-run", "-G", "1", *flags, accelerator="auto", model_name=None).model_name == "llama32_1b"


def test_checkpoints_that_do_not_fit_are_refused(place: Place) -> None:
    empty = place.root / "empty"
    empty.mkdir()
    assert refusal(place, nemo_model=str(empty)) == [
        f"--nemo-model {empty}: context/ and weights/ missing; give the folder of a NeMo 2 checkpoint"
        " (convert_from_hf_to_nemo2.py writes one)"
    ]
    qwen = write_nemo_model(place.root / "qwen", "qwen2.Qwen2Model", "qwen2.Qwen2Config500M", num_layers=24)
    assert refusal(place, nemo_model=str(qwen)) == [
        f"--nemo-model {qwen}: holds a Qwen2Model, but --model-name llama_tiny is a LlamaModel; name a recipe of its"
        " family or leave --model-name out"
    ]
    odd = write_nemo_model(place.root / "odd", num_layers=7, hidden_size=64)
    problem = refusal(place, nemo_model=str(odd), model_name=None)[0]
    assert problem.startswith(
        "--model-name is required: the checkpoint of --nemo-model (LlamaModel, LlamaConfig) fits no recipe exactly;"
        " any of its family does, for the sizes are the checkpoint's: --model-name llama_tiny is the nearest; recipes of its"
        " family: llama2_7b,"
    )
    large = write_nemo_model(place.root / "large", num_layers=30, hidden_size=4096)
    nearest = refusal(place, nemo_model=str(large), model_name=None)[0]
    assert "--model-name llama3_8b is the nearest" in nearest or "--model-name llama2_7b is the nearest" in nearest
    assert place.plan(nemo_model=str(large)).model_name == "llama_tiny"  # any other does, too


def test_more_gpus_than_the_machine_has_are_refused(shared: Place, tmp_path: Path) -> None:
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / name).touch()
    assert machine.gpu_count() == 2
    assert refusal(shared, "-G", "4", accelerator="auto") == [
        "--num-gpus 4: this machine has 2 GPUs available; use --num-gpus 2"
    ]
    assert shared.plan("-G", "2", accelerator="auto").accelerator == "gpu"


def test_a_source_without_training_data_is_refused(place: Place) -> None:
    write_pair(place.data.parent / "tiny", [300])
    assert refusal(place, split="1,2,0")[0] == (
        "--split 1,2,0: no training sample in tiny (0 documents, 0 tokens); give it more, or leave this file out"
    )


def test_a_blend_file_is_checked_line_by_line(place: Place) -> None:
    blend = place.root / "blend.txt"
    blend.write_text("# weights\n0.5 data\nmuch /x\n-1 data\n1\n")
    bad = (
        "expected `WEIGHT PATH` or `WEIGHT max-epochs=N PATH`, each number above 0 (or `tokens` for the weight), found"
    )
    assert refusal(place, dataset_dir=None, blend=str(blend)) == [
        f"--blend {blend}, line 3: {bad} 'much /x'",
        f"--blend {blend}, line 4: {bad} '-1 data'",
        f"--blend {blend}, line 5: {bad} '1'",
    ]
    blend.write_text("1 data\n")
    assert "can't be combined" in refusal(place, blend=str(blend))[0]


def test_every_refusal_names_a_flag_or_a_file() -> None:
    for _, message in FLAGS:
        assert re.match(r"--[a-z]", message), message


def test_a_longer_sequence_than_a_checkpoint_is_made_for_says_what_it_needs(place: Place) -> None:
    folder = write_nemo_model(place.root / "m", num_layers=2, hidden_size=64, vocab_size=4096)
    (problem,) = refusal(place, "--seq-length", "8193", nemo_model=str(folder))
    assert problem.startswith("--seq-length 8193: llama_tiny is made for at most 8192 tokens; lower it, or let its")
    assert "raise max_position_embeddings and rope_theta" in problem and "--nemo-model and --hf-model-id" in problem


@pytest.mark.parametrize(
    ("flags", "more"),
    [
        ("-G 8 -gbs 16 -mbs 8", ", or keep it and use --micro-batch-size 2; this machine has 2 cores, on which 8 processes take turns:"
         " --num-gpus 2 is faster, and nothing else has to change"),
        ("-G 8 -gbs 15 -mbs 8", "; this machine has 2 cores, on which 8 processes take turns"),
        ("-G 2 -gbs 6 -mbs 2", ", or keep it and use --micro-batch-size 1"),
    ],
)  # fmt: skip
def test_a_batch_that_the_processes_can_not_share_is_told_all_that_helps(
    shared: Place, flags: str, more: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `-G 8` beside examples/laptop.yaml: following a first message mustn't lead to a second."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    (problem,) = refusal(shared, *flags.split(), global_batch_size=None)
    assert problem.endswith(more), problem
    if size := re.search(r"use --micro-batch-size (\d+)", problem):
        assert shared.plan(*flags.split(), "-mbs", size[1], global_batch_size=None)


def test_a_file_as_dataset_is_told_what_it_is(place: Place) -> None:
    for name, said in {
        "a.txt": "is text, and training reads what preprocessing makes of it: bash preprocess_data.sh",
        "a.JSONL.gz": "is text, and training reads what preprocessing makes of it: bash preprocess_data.sh",
        "a.npy": "is a file; give the --output-dir of preprocess_data.sh, another folder of .bin/.idx files, or a pair",
    }.items():
        (place.root / name).write_text("x")
        (problem,) = refusal(place, dataset_dir=str(place.root / name))
        assert problem.startswith(f"--dataset-dir {place.root / name}: {said}"), problem
    (place.root / "a b.txt").write_text("x")
    (problem,) = refusal(place, dataset_dir=str(place.root / "a b.txt"))
    whole = f"bash preprocess_data.sh --tokenizer DIR_OR_ID --input '{place.root / 'a b.txt'}' --output-dir DIR, then --dataset-dir DIR"
    assert problem.endswith(f"makes of it: {whole}")
    file = place.data.parent / "d_text_document.json"
    file.write_text("{}")
    (problem,) = refusal(place, dataset_dir=str(file))
    assert problem == f"--dataset-dir {file}: is one file of a pair; give the pair, without an ending: {place.data}"


def test_a_tokenizer_and_data_that_are_swapped_are_both_named(place: Place) -> None:
    problems = refusal(place, dataset_dir=str(place.hf), hf_model_id=str(place.data.parent))
    assert any(
        one.startswith(f"--dataset-dir {place.hf}: ") and "it is a tokenizer, which goes with --hf-model-id" in one
        for one in problems
    )
    assert any(one.endswith("; it holds data, which goes with --dataset-dir") for one in problems), problems


def test_what_the_file_of_config_sets_is_refused_with_its_place(place: Place) -> None:
    """Nobody typed it: the file and the key are named; a flag of the command line is not said to be there."""
    file = place.root / "run.yaml"
    file.write_text("num_nodes: 2\nwandb-name: x\n")
    for words, places in (((), 2), (("-N", "4"), 1), (("-N", "4", "--wandb-name", "y"), 0)):
        settings = command_line.parse(place.flags("--config", str(file), *words))
        with pytest.raises(Refusal) as caught, command_line.places_named(settings):
            make_plan(settings)
        assert sum(f"--config {file}" in problem for problem in caught.value.problems) == places


# a layout or a batch that is refused -> other flags under which the words of the refusal are followed
ADVISED = [
    "-gbs 16 -mbs 8 -G 8", "-gbs 15 -G 2", "-gbs 2 -mbs 4", "-gbs 24 -mbs 5 -G 3", "-gbs 1000 -mbs 64 -G 3", "-gbs 7 -mbs 3 -G 2",
    "-gbs 9 -mbs 16 -G 5", "-G 3 -TP 3 -gbs 3", "-G 6 -TP 6 -gbs 6", "-G 8 -TP 8 -gbs 8", "-G 3 -PP 3 -gbs 6", "-G 6 -PP 6 -gbs 6",
    "-G 2 -PP 2 -VPP 3 -gbs 8", "-gbs 2000", "-gbs 2000 -mbs 8 -G 8",
]  # fmt: skip


@pytest.mark.parametrize("samples", [12, 40, 200, 1600])
@pytest.mark.parametrize("flags", ADVISED)
def test_what_a_refusal_advises_is_not_refused_next(
    place: Place, flags: str, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newcomer's case: -G 8 with the laptop's batch was told a batch for which the text had too few samples."""
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    write_pair(place.data, [129 * samples])
    words = [*flags.split(), "--seq-length", "128", "--split", "1,0,0", "--max-steps", "1"]
    advised = 0
    for problem in refusal_or_none(place, *words):
        flag = problem.split()[0]
        told = [] if flag == "--global-batch-size" and "not a multiple" not in problem else [problem]
        for text in told:
            for value in re.findall(r"\d+", (re.search(r"use ([\d, ]*\d(?: or \d+)?)(?=[,;]|$)", text) or [""])[0]):
                advised += 1
                later = refusal_or_none(place, *words, flag, value)
                assert not [p for p in later if p.startswith(flag)], (problem, value, later)
            for gbs, mbs in re.findall(r"-gbs (\d+) -mbs (\d+)", text):
                advised += 1
                assert not refusal_or_none(place, *words, "-gbs", gbs, "-mbs", mbs), (problem, gbs, mbs)
            for name, value in re.findall(r"(--(?:micro-batch-size|num-gpus)) (\d+)", text):
                advised += 1
                assert not refusal_or_none(place, *words, name, value), (problem, name, value)
    assert advised or samples < 2000


def refusal_or_none(place: Place, *more: str) -> list[str]:
    try:
        make_plan(command_line.parse(place.flags(*more, global_batch_size=None, seq_length=None)))
    except Refusal as refused:
        return refused.problems
    return []


def test_data_and_models_in_the_root(place: Place) -> None:
    """`$PLACE/data` without a PLACE."""
    unset = "(a shell variable in front of it may be unset)"
    assert f"--dataset-dir /no_such: no such folder or pair {unset}" in refusal(place, dataset_dir="/no_such")[0]
    assert f"--nemo-model /no_such: no such folder {unset}" in refusal(place, nemo_model="/no_such")[0]
    assert unset in refusal(place, hf_model_id="/no_such")[0]


def test_small_pairs_that_hold_enough_together_are_joined(place: Place) -> None:
    """A folder of small texts, a pair for each."""
    for number in range(60):
        write_pair(place.root / "many" / f"s{number}", [100])
    problems = refusal(place, "--split", "1,0,0", dataset_dir=str(place.root / "many"))
    said = "0 samples of 256 tokens, less than one step; lower --seq-length, or join the 60 pairs (python -m nemo_workflow.dataset join"
    assert said in problems[0]


def test_data_of_another_tokenizer_is_said_once(place: Place) -> None:
    """Its ids are beyond ours too, which follows from that."""
    write_pair(place.data, [300] * 1000, largest=5000)
    Path(f"{place.data}.json").write_text(
        json.dumps({"tokens": 300_000, "tokenizer": "other", "tokenizer_sha256": "0" * 64})
    )
    (problem,) = refusal(place)
    assert "was preprocessed with another tokenizer.json (other)" in problem
    (problem,) = refusal(place, "--allow-change", "tokenizer")
    assert "holds token id 5000, but the tokenizer" in problem


def test_data_of_another_tokenizer_is_told_from_a_pair_of_the_same_name(place: Place) -> None:
    for name, figures in ("a", {}), ("b", {"tokens": 90_000, "tokenizer": "other", "tokenizer_sha256": "0" * 64}):
        (place.root / name).mkdir()
        write_pair(place.root / name / "text_document", [3] * 30_000)
        (place.root / name / "text_document.json").write_text(json.dumps(figures))
    (problem,) = refusal(place, "--dataset-dir", str(place.root / "b"), dataset_dir=str(place.root / "a"))
    assert ": b/text_document was preprocessed with another tokenizer.json (other)" in problem


def test_data_of_this_tokenizer_before_it_changed(place: Place) -> None:
    """Its maker's path is the one that is given: nobody has the other one to give."""
    said = {"tokens": 300_000, "tokenizer": "hf", "tokenizer_sha256": "0" * 64, "tokenizer_path": str(place.hf)}
    Path(f"{place.data}.json").write_text(json.dumps(said))
    (problem,) = refusal(place)
    assert problem == (
        f"--hf-model-id {place.hf}: d_text_document was preprocessed before this tokenizer's tokenizer.json changed: preprocess"
        " again, or add --allow-change tokenizer if you know that its ids are the same"
    )
    (note,) = place.plan("--allow-change", "tokenizer").notes
    assert f"made with this tokenizer before it changed ({place.hf}); unless its ids are the same" in note


def write_figures(place: Place, **change: Any) -> None:
    """What preprocessing with the place's tokenizer writes, with some of it changed, or left out (None)."""
    said = {
        "tokens": 300_000,
        "tokenizer": str(place.hf),
        "tokenizer_path": str(place.hf),
        MAKER[0]: bytes_hash(place.hf),
    }
    said |= {"append_eod": True, "eod_id": 4095, "eod_token": "</s>", OWN_END: "</s>"} | change
    Path(f"{place.data}.json").write_text(
        json.dumps({name: value for name, value in said.items() if value is not None})
    )


def test_data_whose_documents_end_otherwise_than_the_tokenizers(place: Place) -> None:
    """The same tokenizer.json with another eos_token: its ids are the same, and what generates looks for another end."""
    write_figures(place)
    assert place.plan().notes == ()
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w7"}
    (place.hf / "tokenizer_config.json").write_text(json.dumps(about))
    (problem,) = refusal(place)
    assert problem.startswith(
        f"--hf-model-id {place.hf}: the documents of d_text_document end with </s> (4095), the tokenizer's own"
    )
    assert problem.endswith(
        "and this tokenizer's is w7 (7): preprocess again, or add --allow-change tokenizer if that is meant"
    )
    (other,) = refusal(place, hf_model_id=str(shutil.copytree(place.hf, place.root / "copy")))
    assert "preprocess again, give the tokenizer that it was made with, or add --allow-change tokenizer" in other
    (note,) = place.plan("--allow-change", "tokenizer").notes
    assert "end with </s> (4095), and the tokenizer of --hf-model-id ends one with w7 (7)" in note
    (place.hf / "special_tokens_map.json").write_text(json.dumps({"eos_token": "w8"}))  # which transformers takes
    assert "this tokenizer's is w8 (8)" in refusal(place)[0]
    write_figures(place, append_eod=False)
    assert place.plan().notes == ("d_text_document has no end-of-document tokens between its documents",)


@pytest.mark.parametrize(
    ("change", "noted"),
    [({OWN_END: "w7"}, True), ({OWN_END: None}, True), ({OWN_END: None, "eod_id": None, "eod_token": None}, False)],
    ids=["--eod-token", "an older version's", "older still"],
)
def test_an_end_that_was_chosen_is_no_other_tokenizers(place: Place, change: dict[str, Any], noted: bool) -> None:
    """--eod-token, as a chat model's tokenizer needs it for its base model's end of text: trained, with a note."""
    (place.hf / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "w7"})
    )
    write_figures(place, **change)
    assert ["end with </s> (4095), and the tokenizer" in note for note in place.plan().notes] == [True] * noted


def test_a_checkpoint_of_another_tokenizer(place: Place) -> None:
    """A smaller vocabulary fits its embedding, and would train on rows of other tokens in silence."""
    folder = write_nemo_model(place.root / "m", num_layers=2, hidden_size=64, vocab_size=5120)
    place.plan(nemo_model=str(folder))
    own = write_tokenizer(folder / "context" / "nemo_tokenizer", 5000)
    assert refusal(place, nemo_model=str(folder)) == [
        f"--hf-model-id {place.hf}: the checkpoint of --nemo-model {folder} was trained with another tokenizer, so that its"
        f" weights know nothing of this one's ids: give its own, --hf-model-id {own}, with data that is preprocessed with it, or"
        " add --allow-change tokenizer if you know that old tokens keep their ids"
    ]
    place.plan("--allow-change", "tokenizer", nemo_model=str(folder))
    place.plan(nemo_model=str(folder), hf_model_id=str(own))
    said = json.loads((place.hf / "tokenizer.json").read_text())
    (own / "tokenizer.json").write_text(json.dumps(said, indent=3, sort_keys=True))  # the same, saved again
    place.plan(nemo_model=str(folder))


def test_data_of_a_tokenizer_that_was_saved_again(place: Place) -> None:
    said = {"tokens": 300_000, "tokenizer": "other"}
    figures = Path(f"{place.data}.json")
    for name in MAKER:
        said[name] = (bytes_hash if name == MAKER[0] else content_hash)(place.hf)
    figures.write_text(json.dumps(said))
    whole = json.loads((place.hf / "tokenizer.json").read_text())
    (place.hf / "tokenizer.json").write_text(json.dumps(whole, indent=3, sort_keys=True))
    place.plan()
    write_tokenizer(place.hf, 4097)
    assert "was preprocessed with another tokenizer.json" in refusal(place)[0]
