"""Faults for the tests of tests/e2e/run, put into the workers by PYTHONPATH: Python imports a sitecustomize at its start.

FAULT="POINT STEP RANK ACTION" makes the rank do something at a point that no signal from outside could hit (several with ;):

    point    step             when step STEP begins (1 is the first)
             save.before      as the save after step STEP begins, before its mark is set
             save.begun       when the room for it has been checked
             save.shards      while its shards are written: as soon as one of the rank's files has a megabyte
             save.manifest    before its manifest is written (STEP 0: in any save)
             save.mark        after that, before NeMo's mark of an unfinished checkpoint goes
             save.prune       while an older checkpoint is removed, between its renaming and its removal
             validation       in the validation after step STEP
             load             as a checkpoint is loaded (STEP is not looked at)
    action   kill             kill -9 of the rank
             writer           kill -9 of a process that has written one of the rank's shards and not yet said so, once
                              (point save.shards only; ONCE as below)
             once             kill -9 of the rank, unless the file ONCE is there: it is made then, as with any action
             wait             the rank waits for the file ONCE with the ending .go
             stop             SIGSTOP of the rank
             nan              the rank's gradients of the step are NaN (point step only)
             oom              the rank runs out of memory as a GPU does, where a micro batch holds more than one (point step only)
             fill             the disk fills up but for 20 MB, until the run goes on (point save.begun only)
             term             SIGTERM to the rank
             usr1             SIGUSR1 to the launcher; the rank goes on when it has been told
             int              SIGINT to the launcher; the rank goes no further
             torchrun         kill -9 of torchrun; the rank goes no further
             launcher         kill -9 of the launcher
             group            kill -9 of the launcher, torchrun and every rank at once

RECORD=FILE appends a line "rank part index epoch number source tokens" for each sample that a rank reads; of the tokens
a hash.
OLD_CPU=RANK lets the rank take its CPU for one with AVX2 alone, as if the ranks had unlike machines.
SLOW=SECONDS makes each step take that much longer. ASYNC=1 leaves saves in the background on, as on a GPU.
REPORT=1 lets report.html be written, which takes a second of a core twice in a start.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path

from old_cpu import AVX2_ONLY

TORCHRUN = "nemo_workflow/launch/torchrun.py"  # whose ranks are forked: what they import is imported there
SECONDS = 300.0  # that a rank waits at most for what an action brings about
_TOLD: list[int] = []  # signals that the rank was asked to stop by


def _install_in_worker() -> None:
    from nemo_workflow.training import resume

    choose = resume.choose_checkpoint

    def choose_checkpoint(*arguments, **keywords):
        _install()  # only now: the CPU backend has patched what it patches
        return choose(*arguments, **keywords)

    resume.choose_checkpoint = choose_checkpoint


def _install() -> None:
    if "RECORD" in os.environ:
        _record(os.environ["RECORD"])
    if "SLOW" in os.environ:
        _at_step(lambda step: time.sleep(float(os.environ["SLOW"])))
    if "ASYNC" in os.environ:
        from nemo_workflow.training import recipe

        _wrap(recipe, "_fit_cpu", after=lambda made, plan: setattr(made.trainer.strategy, "ckpt_async_save", True))
    if "FAULT" in os.environ:
        from nemo_workflow.training.callbacks import Stopper

        _wrap(Stopper, "_note", after=lambda stopper, number, frame: _TOLD.append(number))
        for fault in os.environ["FAULT"].split(";"):
            point, step, rank, action = fault.split()
            if int(rank) == int(os.environ["RANK"]):
                _POINTS[point](int(step), action)


def _count_silence_from_the_first_step() -> None:
    """In the launcher: importing takes minutes where several suites share the cores, and is no hang."""
    sys.path.append(str(Path(__file__).resolve().parents[4]))  # the script's own folder comes after this module
    from nemo_workflow.training import liveness

    def seconds(silence) -> None:
        events = silence._paths[-1]
        if not events.exists() or '"event": "step"' not in events.read_text(encoding="utf-8"):
            silence._patience.renew()

    _wrap(liveness.Silence, "seconds", before=seconds)


def _act(action: str) -> None:
    if action != "once" and "ONCE" in os.environ:
        Path(os.environ["ONCE"]).touch()
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "once" and not Path(os.environ["ONCE"]).exists():
        Path(os.environ["ONCE"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "wait":
        end = time.monotonic() + SECONDS
        while not Path(os.environ["ONCE"]).with_suffix(".go").exists() and time.monotonic() < end:
            time.sleep(0.05)
    if action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if action == "term":
        os.kill(os.getpid(), signal.SIGTERM)
    if action == "torchrun":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(SECONDS)  # until it is ended: no step is made after this one
    launcher = int(os.environ.get("NEMO_WORKFLOW_LAUNCHER", "0").split()[0])  # a Slurm job has none
    if action == "usr1":
        os.kill(launcher, signal.SIGUSR1)
        end = time.monotonic() + SECONDS
        while not _TOLD and time.monotonic() < end:
            time.sleep(0.01)
    if action == "int":
        os.kill(launcher, signal.SIGINT)
        time.sleep(SECONDS)  # the step outlasts every grace time
    if action == "launcher":
        os.kill(launcher, signal.SIGKILL)
    if action == "group":
        import psutil

        everybody = [psutil.Process(launcher), *psutil.Process(launcher).children(recursive=True)]
        others = [process for process in everybody if process.pid != os.getpid()]
        for process in others:
            process.kill()
        os.kill(os.getpid(), signal.SIGKILL)


def _wrap(owner, name, before=None, after=None):
    original = getattr(owner, name)

    def wrapper(*arguments, **keywords):
        if before:
            before(*arguments)
        result = original(*arguments, **keywords)
        if after:
            after(*arguments)
        return result

    setattr(owner, name, wrapper)


_DO_AT_STEP: list = []


def _at_step(do) -> None:
    from nemo_workflow.training.callbacks import RunLog

    _DO_AT_STEP.append(do)

    def on_train_batch_start(self, trainer, *_) -> None:
        for each in _DO_AT_STEP:
            each(trainer.global_step + 1)

    RunLog.on_train_batch_start = on_train_batch_start  # Lightning looks for the hook in the class


def _step(step: int, action: str) -> None:
    if action == "nan":
        _nan(step)
    elif action == "oom":
        _out_of_memory(step)
    else:
        _at_step(lambda now: _act(action) if now == step else None)


def _nan(step: int) -> None:
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup

    now = [0]
    _at_step(lambda number: now.__setitem__(0, number))

    def spoil(group) -> None:
        if now[0] == step:
            for bucket in group.buckets:
                bucket.grad_data.fill_(float("nan"))

    _wrap(_ParamAndGradBucketGroup, "start_grad_sync", before=spoil)


def _out_of_memory(step: int) -> None:
    import torch

    from nemo_workflow.training.callbacks import RunLog

    def before(log, trainer, *_) -> None:
        if trainer.global_step + 1 == step and log.plan.settings.micro_batch_size > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 280.00 MiB.")

    _wrap(RunLog, "on_train_batch_start", before=before)


def _of_step(step: int, path) -> bool:
    return step == 0 or f"step_{step:08d}" in str(path)


def _save_before(step: int, action: str) -> None:
    from nemo_workflow.training.checkpointing import Checkpoints

    _wrap(Checkpoints, "_save_checkpoint", before=lambda s, t, path: _act(action) if _of_step(step, path) else None)


def _save_begun(step: int, action: str) -> None:
    from nemo_workflow.training.checkpointing import Checkpoints

    filler = []

    def begun(saver, trainer, path) -> None:
        if not _of_step(step, path):
            return
        _act(action)
        if action == "fill":
            folder = Path(path).parents[2]  # of the experiments
            filler.append(folder / "filler")
            status = os.statvfs(folder)
            with filler[0].open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, status.f_bavail * status.f_frsize - 20_000_000)

    _wrap(Checkpoints, "_clear_the_place", after=begun)
    _wrap(Checkpoints, "_failed", after=lambda *_: [path.unlink(missing_ok=True) for path in filler])


def _save_shards(step: int, action: str) -> None:
    from nemo_workflow.training.checkpointing import Checkpoints

    if action == "writer":
        _wrap(os, "fsync", before=lambda file: _be_killed_once(Path(f"/proc/self/fd/{file}").readlink(), step))
        return

    def watch(weights: Path, mine: str) -> None:
        while not any(file.stat().st_size > 1_000_000 for file in weights.glob(f"{mine}*")):
            time.sleep(0.0002)
        _act(action)

    def start(saver, trainer, path) -> None:
        if _of_step(step, path):
            place = Path(path.removesuffix(".ckpt")) / "weights"
            mine = f"__{os.environ['RANK']}_"
            threading.Thread(target=watch, args=(place, mine), daemon=True).start()

    _wrap(Checkpoints, "_save_checkpoint", before=start)


def _be_killed_once(path: Path, step: int) -> None:
    """In the process that writes a shard: from outside it is seldom found before it has ended."""
    told = Path(os.environ["ONCE"]).with_suffix(".writer")
    if path.suffix == ".distcp" and _of_step(step, path) and not told.exists():
        told.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def _save_manifest(step: int, action: str) -> None:
    from nemo_workflow.training import checkpointing

    _wrap(checkpointing, "write_manifest", before=lambda path, *_: _act(action) if _of_step(step, path) else None)


def _save_mark(step: int, action: str) -> None:
    from nemo_workflow.training import checkpointing

    _wrap(checkpointing, "write_manifest", after=lambda path, *_: _act(action) if _of_step(step, path) else None)


def _save_prune(step: int, action: str) -> None:
    import shutil

    def before(path, *_) -> None:
        if ".removing-" in str(path) and _of_step(step, path):
            _act(action)

    _wrap(shutil, "rmtree", before=before)


def _validation(step: int, action: str) -> None:
    from nemo_workflow.training.callbacks import RunLog

    def at_batch(self, trainer, *_) -> None:
        if trainer.global_step == step:
            _act(action)

    _wrap(RunLog, "on_validation_batch_end", before=at_batch)


def _load(step: int, action: str) -> None:
    from nemo.lightning.io.pl import MegatronCheckpointIO

    _wrap(MegatronCheckpointIO, "load_checkpoint", before=lambda *_: _act(action))


def _record(path: str) -> None:
    import xxhash

    from nemo_workflow.training import sample_order

    out = open(path, "a", buffering=1)  # noqa: SIM115, PTH123
    # Megatron's loader asks the outermost dataset: a blend, or the one source there is
    outermost: list = []

    def noted(dataset_class, part) -> None:
        read = dataset_class.__getitem__

        def note_and_read(self, index):
            if not outermost:
                outermost.append(dataset_class)
            item = read(self, index)
            if dataset_class is outermost[0]:
                place = sample_order.describe(self, index)
                tokens = xxhash.xxh3_64_hexdigest(item["tokens"].numpy().tobytes())
                fields = (os.environ["RANK"], part(self), index, place["epoch"], place["number_in_epoch"])
                out.write("\t".join(map(str, (*fields, Path(place["source"]).name, tokens))) + "\n")
            return item

        dataset_class.__getitem__ = note_and_read

    noted(sample_order.OrderedDataset, lambda dataset: dataset.index_split.name)
    noted(sample_order.OrderedBlend, lambda dataset: dataset.split.name)


_POINTS = {
    "step": _step,
    "save.before": _save_before,
    "save.begun": _save_begun,
    "save.shards": _save_shards,
    "save.manifest": _save_manifest,
    "save.mark": _save_mark,
    "save.prune": _save_prune,
    "validation": _validation,
    "load": _load,
}

if "nemo_workflow.report" in sys.orig_argv and "REPORT" not in os.environ:
    os._exit(0)
if "OLD_CPU" in os.environ:
    os.environ["NEMO_WORKFLOW_FRESH_RANKS"] = "1"
if "RANK" in os.environ and os.environ.get("OLD_CPU") == os.environ["RANK"]:  # before torch is imported
    os.environ |= AVX2_ONLY
if os.environ.get("FAULT", "").endswith(" stop") and any(word.endswith("pretrain_llm.py") for word in sys.orig_argv):
    _count_silence_from_the_first_step()
if ("RANK" in os.environ or any(word.endswith(TORCHRUN) for word in sys.orig_argv)) and {
    "FAULT",
    "RECORD",
    "SLOW",
    "ASYNC",
} & os.environ.keys():
    _install_in_worker()
