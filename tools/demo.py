"""`make demo`: the whole pipeline on a CPU with a tiny model, no network. Each step is skipped when it is done already.

JSONL from the standard library's sources -> tokenizer -> .bin/.idx -> pretraining on two CPU ranks, stopped half way
and resumed -> Hugging Face folder -> the same loss in transformers -> a few lines of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY, leave
from nemo_workflow.preprocess.train_tokenizer import train
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.run_dir.export_process import is_exported
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import human_time
from nemo_workflow.utils.errors import Failure, run_command
from nemo_workflow.utils.files import written_aside
from nemo_workflow.utils.processes import handled

MAX_STEPS = 80
STOP_AT = 50
LAST = 20  # steps whose mean loss counts: one batch's is anywhere within half a nat of it
VOCABULARY = 4096
CORPUS_BYTES = 8_000_000
SAMPLE_TEXT = "def read(self, size=-1):"


def main() -> int:
    """Run the demo in demo_output/ of the current folder."""
    Parser(
        prog="python -m tools.demo",
        description="Run the whole pipeline on a CPU with a tiny model, without a network, in demo_output/ of the"
        " current folder (minutes). What is done already is skipped.",
    ).parse_args()
    try:
        return _steps()
    except KeyboardInterrupt:  # in a step of this process; the others are told of it
        print("stopped by Ctrl-C: make demo goes on with what is not done", file=sys.stderr, flush=True)
        leave()  # whatever the tokenizer's threads are still learning
        raise


def _steps() -> int:
    began = time.monotonic()
    place = Path("demo_output").absolute()
    corpus, tokenizer = place / "data" / "stdlib.jsonl", place / "tokenizer"
    if not corpus.exists():
        say("1/7 a corpus out of Python's standard library")
        write_corpus(corpus)
    if not (tokenizer / "tokenizer.json").exists():
        say(f"2/7 a byte-level BPE tokenizer with {VOCABULARY} entries")
        train_tokenizer(corpus, tokenizer)
    if not (place / "dataset" / "preprocessed" / "stdlib_text_document.idx").exists():
        say("3/7 JSONL -> .bin/.idx")
        run(["bash", "preprocess_data.sh", "--hf-tokenizer", tokenizer, "--data-prefix", "stdlib",
             "--input-dir", corpus.parent, "--output-dir", place / "dataset"])  # fmt: skip
    say(f"4/7 pretraining on two CPU ranks, stopped at step {STOP_AT}, then the same command again")
    experiment = place / "nemo_experiments" / "demo"
    train_with_a_stop(pretrain_command(place), experiment)
    exported = place / "hf_model"
    checkpoint, _ = newest_whole(experiment / "checkpoints")
    if checkpoint is None:
        raise Failure(f"no checkpoint in {experiment / 'checkpoints'}")
    if not is_exported(exported, checkpoint):  # the run may have been trained on, as the last lines offer
        say("5/7 NeMo checkpoint -> Hugging Face folder")
        run([sys.executable, "ckpt_conversion/convert_from_nemo2_to_hf.py", "--source", checkpoint.path,
             "--output-path", exported, "--overwrite"])  # fmt: skip
    say("6/7 the exported model in transformers, on the samples of NeMo's last validation")
    run([sys.executable, "-m", "nemo_workflow.evaluate", "--hf-model", exported, "--run", experiment])
    say("7/7 what the model goes on with")
    run([sys.executable, "-m", "nemo_workflow.sample", "--hf-model", exported, SAMPLE_TEXT])
    finish(experiment, exported, time.monotonic() - began)
    return 0


def say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def run(command: Sequence[Any]) -> None:
    """Show a command and run it in the repository; raises Failure when it fails."""
    words = [str(word) for word in command]
    code = follow(words)
    if code:
        raise Failure(f"exit code {code} from: {shlex.join(words)}")


def follow(words: list[str], until: Callable[[], bool] = lambda: False) -> int:
    """Show a command, run it to its end and return its exit code; as soon as `until` holds it is stopped as by Ctrl-C.

    A signal to the demo goes to the command and all that it has started, and when that has ended the demo ends: with 128
    and the signal's number.
    """
    asked: list[int] = []
    print("$", shlex.join(_shown(words)), flush=True)
    with handled(lambda number, frame: asked.append(number), signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # in a group of its own: a terminal's Ctrl-C would reach it twice, and the second ends a training at once
        process = subprocess.Popen(words, cwd=REPOSITORY, process_group=0)
        sent, ours = 0, False
        while process.poll() is None:
            for number in asked[sent:]:
                print("stopping what runs, then the demo", flush=True)
                os.killpg(process.pid, number)
                sent += 1
            if not sent and not ours and until():
                ours = True
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.1)
    if asked:
        raise SystemExit(128 + asked[0])
    return process.returncode


def _shown(words: list[str]) -> list[str]:
    return ["python" if word == sys.executable else word for word in words]


# -- data ---------------------------------------------------------------------------------------------------------


def standard_library_texts() -> Iterator[str]:
    """Sources of the standard library's modules, without its tests, in an order that is the same everywhere."""
    root = Path(sysconfig.get_path("stdlib"))
    skipped = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "config"}
    for path in sorted(root.rglob("*.py")):
        if skipped.isdisjoint(path.relative_to(root).parts):
            try:
                yield path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue


def write_corpus(path: Path, limit: int = CORPUS_BYTES, least: int = 0) -> None:
    """One JSON object per source file: `limit` bytes of text at most, but at least `least` files."""
    size = 0
    with written_aside(path) as stream:
        for count, text in enumerate(standard_library_texts()):
            size += len(text)
            if size > limit and count >= least:
                break
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")


def train_tokenizer(corpus: Path, folder: Path, vocabulary: int = VOCABULARY) -> None:
    """Train a byte-level BPE tokenizer on the corpus and write it as a Hugging Face folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with corpus.open(encoding="utf-8") as lines:
        train((json.loads(line)["text"] for line in lines), folder, vocabulary)


# -- training -----------------------------------------------------------------------------------------------------


def pretrain_command(place: Path) -> list[str]:
    """The command a user would type, with absolute paths."""
    return [
        sys.executable, "pretrain_llm.py", "--executor", "local", "--accelerator", "cpu", "--experiment", "demo",
        "--num-gpus", "2", "--model-name", "llama_tiny", "--hf-model-id", str(place / "tokenizer"),
        "--dataset-dir", str(place / "dataset"), "--output-dir", str(place / "nemo_experiments"),
        "--max-steps", str(MAX_STEPS), "--global-batch-size", "16", "--micro-batch-size", "8",
        "--val-check-interval", "40", "--save-every", "40",
    ]  # fmt: skip


def train_with_a_stop(command: list[str], experiment: Path) -> None:
    """Start the training, stop it as Ctrl-C would at step STOP_AT, and run the same command again."""
    if not (experiment / "checkpoints").exists():
        tail = metrics.Tail(experiment / metrics.FILE)
        code = follow(command, lambda: any(e["event"] == "step" and e["step"] >= STOP_AT for e in tail.new()))
        if code != 128 + signal.SIGINT:
            raise Failure(f"the training ended with exit code {code}; a run stopped by Ctrl-C ends with 130")
        print("exit code 130, as after any Ctrl-C; now the same command again", flush=True)
    run(command)


# -- results ------------------------------------------------------------------------------------------------------


def finish(experiment: Path, exported: Path, seconds: float) -> None:
    """Print what came out and what to try next; raises Failure when the model did not learn."""
    summary = json.loads((experiment / metrics.SUMMARY).read_text(encoding="utf-8"))
    here = Path.cwd()
    steps = [e["loss"] for e in metrics.effective(metrics.read(experiment / metrics.FILE)) if e["event"] == "step"]
    start, end = summary["first_loss"], statistics.fmean(steps[-LAST:])
    print(f"""
done in {human_time(seconds)}
  loss         {start:.2f} -> {end:.2f} (mean of the last {LAST}) in {summary["steps"]} steps, stopped and resumed on the way
  checkpoints  {os.path.relpath(experiment / "checkpoints", here)}
  HF model     {os.path.relpath(exported, here)}
  report       {(experiment / "report.html").as_uri()} (open it in a browser: curves, plan, checkpoints)

try next (in this folder):
  source .venv/bin/activate
  python -m nemo_workflow.runs --output-dir {os.path.relpath(experiment.parent, here)} list
  python pretrain_llm.py --config {os.path.relpath(experiment / "config.yaml", here)} --max-steps {MAX_STEPS + 50}
then: "Your own text in five minutes" in README.md""")
    if end > 0.6 * start:
        raise Failure(f"the loss fell only from {start:.2f} to {end:.2f}")


if __name__ == "__main__":
    run_command(main)
