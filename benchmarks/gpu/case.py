"""One case of run_cases.py: our worker on one GPU, in this process.

    python case.py CASE_JSON FOLDER DATA

Imports, waits for a line on standard input, trains as `pretrain_llm.py` with the case's flags would, and writes
FOLDER/result.json. With `ranks` in the case it is one of that many processes that torchrun has started.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
import os
import shutil
import statistics
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import turn

GIB = 2**30
FIRST = 4  # steps before this one are warm-up, where a case names no other `warm_up`
PLAIN = {  # word of a case -> the parts of backends/gpu that it does without
    "plain_head": ["output_layer"],
    "plain_elementwise": ["activation", "swiglu_fp8", "rotary"],
    "plain_casts": ["swiglu_fp8"],
    "plain_attention": ["attention"],
}


def main() -> None:
    case, folder, data = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
    from nemo_workflow.config import checks, command_line
    from nemo_workflow.config.resolve import make_plan
    from nemo_workflow.launch import local
    from nemo_workflow.run_dir.branching import branch_of
    from nemo_workflow.training import resume, worker
    from nemo_workflow.utils.files import write_json

    flags = [turn.placed(word, data, folder.parent) for word in case["flags"]]
    flags += ["--output-dir", str(folder.parent / case.get("again", case["name"]))]
    ranks = case.get("ranks", 1)
    flags += ["--accelerator", case.get("accelerator", "gpu"), "--num-gpus", str(ranks)]
    if case.get("unchecked"):
        checks.RULES = tuple(rule for rule in checks.RULES if rule.__name__ not in case["unchecked"])
    settings = command_line.parse(flags)
    plan = make_plan(settings, branch=branch_of(settings))

    from nemo_workflow.backends import cpu, gpu, memory_pool
    from nemo_workflow.launch import ranks

    if plan.accelerator == "gpu":
        for name, value in ranks.GPU_VARIABLES.items():
            os.environ.setdefault(name, value)
    if case.get("stock"):
        gpu.install = memory_pool.leave_out  # the import only: nothing of the training
    for module in {name for word, names in PLAIN.items() if case.get("stock") or case.get(word) for name in names}:
        del gpu.SPEED_UPS[module]
    if plan.accelerator == "gpu":
        gpu.install()
    else:
        cpu.install()
    if case.get("plain_save"):
        save_as_megatron_does()
    from nemo_workflow.training import callbacks as training
    from nemo_workflow.training import checkpointing as saving
    from nemo_workflow.training import recipe

    watch = Watch(case, folder)
    patch(case, recipe, training, saving, watch)
    if case.get("module"):
        module = importlib.import_module(case["module"])
        getattr(module, "install", lambda: None)()
    watch.ready = time.time()
    turn.wait(folder)
    if "again" in case:  # go on with another case's run as if it had ended after an earlier checkpoint
        shutil.rmtree(plan.folder / "checkpoints" / f"step_{case['forget']:08d}")
    watch.go = time.perf_counter()
    attempt = folder / f"attempt_{os.environ.get('TORCHELASTIC_RUN_ID', '0')}"
    rank = int(os.environ["RANK"])
    if rank == 0:
        plan.folder.mkdir(parents=True, exist_ok=True)
        identity, _ = resume.check_changes(plan)
        launched = local.prepare(plan)
        write_json(launched / resume.IDENTITY, identity)
        attempt.with_suffix(".tmp").write_text(str(launched))
        attempt.with_suffix(".tmp").rename(attempt)
    while not attempt.exists():
        time.sleep(0.1)
    worker.train(plan.to_json(), attempt.read_text())
    if rank == 0:
        watch.write(plan)
        os._exit(0)  # what torch and the data loader do at their end takes seconds of the card


def patch(case: dict[str, Any], recipe: Any, training: Any, saving: Any, watch: Any) -> None:
    """Lay the case's fields over the recipe, count steps, and don't save where the case doesn't ask for it."""
    from nemo_workflow.training import gpu_settings, nonfinite, source_losses

    if case.get("stock"):
        gpu_settings.apply = lambda *a: []
    if case.get("no_guard"):
        nonfinite.NanGuard.on_train_start = lambda *a: None
    if case.get("no_source_losses"):
        source_losses.of = lambda plan: None
    if case.get("count_source_losses"):
        for name in ("on_megatron_microbatch_end", "taken", "losses"):
            setattr(source_losses.SourceLosses, name, watch.counted(getattr(source_losses.SourceLosses, name)))
    build = recipe.build

    def build_case(plan: Any, resume_from: str | None = None) -> Any:
        made = build(plan, resume_from)
        if not case.get("save"):
            made.trainer.limit_val_batches = 0
        for path, value in case.get("set", {}).items():
            if value is None and path not in case.get("none", ()):
                continue
            recipe.set_field(made, path, value, plan.model_name)
        return made

    recipe.build = build_case
    if not case.get("save"):
        saving.Checkpoints._save_checkpoint = lambda *a, **k: None
    training.Refresher = NoReport
    inner = training.RunLog.on_train_batch_end

    def ended(log: Any, trainer: Any, *rest: Any) -> None:
        watch.step(trainer.global_step, trainer.max_steps)
        inner(log, trainer, *rest)

    training.RunLog.on_train_batch_end = ended


def save_as_megatron_does() -> None:
    """Without optimizer_gather.py and shard_writer.py."""
    from nemo_workflow.backends import optimizer_gather
    from nemo_workflow.training import shard_writer

    optimizer_gather.install = shard_writer.install = lambda: None
    shard_writer.processes = lambda ranks: 2


class NoReport:
    """In the report's place: it holds up a run's end by seconds."""

    def __init__(self, folder: Path, wait: float = 0.0): ...
    def refresh(self) -> None: ...
    def finish(self, seconds: float) -> None: ...


class Watch:
    """Measures from outside: two readings of the clock, each with the GPU idle, and the allocator's peaks."""

    def __init__(self, case: dict[str, Any], folder: Path):
        self.case, self.folder = case, folder
        self.warm_up = case.get("warm_up", FIRST)
        self.ready = self.go = self.first = self.begin = self.end = 0.0
        self.begin_step = self.end_step = 0
        self.cpu_seconds = 0.0  # of this process and its threads, in the timed steps
        self.counted_seconds = 0.0  # of them those inside what is counted
        self.profiler: Any = None
        self.profile: dict[str, Any] = {}

    def step(self, step: int, last: int) -> None:
        if not self.first:
            synchronize()
            self.first = time.perf_counter()
            self.first_step = step
        since = step - self.first_step + 1
        if self.case.get("profile"):
            self.record(since)
        if since == self.warm_up:
            synchronize()
            self.begin, self.begin_step = time.perf_counter(), step
            self.cpu_seconds, self.counted_seconds = -time.process_time(), 0.0
        if step == last:
            synchronize()
            self.end, self.end_step = time.perf_counter(), step
            self.cpu_seconds += time.process_time()

    def counted(self, call: Any) -> Any:
        """The same call, its CPU seconds added up."""

        @functools.wraps(call)
        def counting(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                self.counted_seconds += time.process_time() - began

        return counting

    def record(self, since: int) -> None:
        """Profile the sixth step."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        if since == FIRST + 1:
            self.profiler = profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU])
            torch.cuda.synchronize()
            self.profiler.__enter__()
            self.profile_began = time.perf_counter()
        elif since == FIRST + 2:
            torch.cuda.synchronize()
            self.profile["wall"] = time.perf_counter() - self.profile_began
            self.profiler.__exit__(None, None, None)
            self.profile |= summarize(self.profiler)

    def write(self, plan: Any) -> None:
        from nemo_workflow.run_dir import metrics

        history = metrics.read(plan.folder / metrics.FILE)
        begin = max(at for at, event in enumerate(history) if event["event"] == "start")
        steps = [event for event in history[begin:] if event["event"] == "step"]
        timed = steps[self.warm_up :] if len(steps) > self.warm_up else steps
        if self.case.get("profile"):
            timed = steps[FIRST + 3 :]
        tokens = plan.settings.global_batch_size * plan.seq_length
        result = {
            "tok_s": statistics.median(e["tokens_per_second"] for e in timed),
            "outside_tok_s": tokens * (self.end_step - self.begin_step) / max(1e-9, self.end - self.begin),
            "cpu_seconds_a_step": self.cpu_seconds / max(1, self.end_step - self.begin_step),
            "counted_seconds_a_step": self.counted_seconds / max(1, self.end_step - self.begin_step),
            "mfu": statistics.median(e.get("mfu", 0) for e in timed),
            "planned": planned_memory(plan),
            **memory_used(),
            "loss": steps[-1]["loss"],
            "losses": {e["step"]: e["loss"] for e in steps},
            "grad_norm": steps[-1]["grad_norm"],
            "step_seconds": [e["seconds"] for e in steps],
            "imports": round(self.ready - float(os.environ.get("STARTED_AT", self.ready)), 1),
            "setup": next(event["setup_seconds"] for event in reversed(history) if event["event"] == "start"),
            "first_step_after": round(self.first - self.go, 2),
            "micro_batch": plan.settings.micro_batch_size,
            "layout": dataclasses.asdict(plan.layout),
            "recomputed": [plan.settings.recompute_method, plan.settings.recompute_num_layers],
        }
        if saves := [event for event in history[begin:] if event["event"] == "checkpoint"]:
            names = ("step", "bytes", "seconds", "held_up")
            result["saves"] = [{name: event.get(name) for name in names} for event in saves]
        if self.profile:
            result["profile"] = self.profile
        if self.case["flags"].count("--profile"):
            result["profiled"] = next(event for event in history if event["event"] == "profile")
        (self.folder / "result.json").write_text(json.dumps(result))


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def planned_memory(plan: Any) -> float:
    """GiB that tensors take at most by the plan: without what PyTorch's allocator doesn't see."""
    from nemo_workflow.config import memory
    from nemo_workflow.models import catalog

    usage = memory.fullest(memory.job_of(plan, catalog.find(plan.model_name)))
    return (usage.total - usage.libraries) / GIB


def memory_used() -> dict[str, Any]:
    """GiB that tensors took at most, that the allocator held at most, and that are gone from the device now."""
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    return {
        "alloc": torch.cuda.max_memory_allocated() / GIB,
        "reserved": torch.cuda.max_memory_reserved() / GIB,
        "device_used": (total - free) / GIB,
        "device": torch.cuda.get_device_name(),
    }


KINDS = (
    ("attention", ("sdpa", "fmha", "flash", "cudnn_generated_fort_native", "fused_attn", "mha")),
    ("communication", ("nccl",)),
    ("matrix products", ("gemm", "nvjet", "cutlass", "cublas", "s16816", "wgmma", "splitKreduce", "xmma")),
    ("cross entropy", ("softmax_kernel", "cross_entropy", "element_mul", "_loss_and_gradient")),
    ("norm", ("norm", "rms")),
    ("rotary embedding", ("rope", "rotary")),
    ("casts and amax for fp8", ("amax", "cast_transpose", "quantize", "transpose", "cast_kernel", "nvte")),
    ("optimizer", ("multi_tensor", "adam")),
    ("activation function", ("swiglu", "silu", "sigmoid", "gated")),
    ("embedding", ("embedding", "indexing_backward", "index_")),
    ("copies", ("memcpy", "memset", "copy", "cat")),
)


def summarize(profiler: Any) -> dict[str, Any]:
    """Seconds of GPU time by kind and by kernel, time with no kernel running, and the longest such gaps."""
    kinds: dict[str, float] = defaultdict(float)
    kernels: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    spans = []
    for event in profiler.events():
        if str(event.device_type) != "DeviceType.CUDA":
            continue
        name, seconds = event.name, event.time_range.elapsed_us() / 1e6
        if name.startswith(("ProfilerStep", "Optimizer.", "## ")) or event.is_user_annotation:
            continue
        spans.append((event.time_range.start, event.time_range.end))
        low = name.lower()
        kinds[next((kind for kind, words in KINDS if any(word in low for word in words)), "other")] += seconds
        kernels[name][0] += seconds
        kernels[name][1] += 1
    spans.sort()
    idle, end, gaps = 0.0, spans[0][1], []
    for begin, stop in spans:
        if begin > end:
            idle += begin - end
            gaps.append((round((begin - end) / 1e3, 2), round((end - spans[0][0]) / 1e3)))
        end = max(end, stop)
    top = sorted(kernels.items(), key=lambda item: -item[1][0])[:45]
    return {
        "span": (end - spans[0][0]) / 1e6,
        "idle": idle / 1e6,
        "gaps_ms_at_ms": sorted(gaps, reverse=True)[:12],
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "kernels": [(name[:110], round(seconds, 4), count) for name, (seconds, count) in top],
    }


if __name__ == "__main__":
    main()
