"""A few lines that an exported Hugging Face model goes on with after a text: to see that it has learned something."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
import warnings
from itertools import takewhile
from pathlib import Path
from typing import Any

from nemo_workflow import REPOSITORY
from nemo_workflow.config.plan import Plan
from nemo_workflow.conversion.hf_folder import read_header
from nemo_workflow.models import hub
from nemo_workflow.models.foreign_code import refuse_code
from nemo_workflow.models.tokenizer_files import check_has_tokenizer
from nemo_workflow.run_dir.checkpoints import newest_whole
from nemo_workflow.run_dir.export_process import EXPORTED
from nemo_workflow.runs.control import OUTPUT_DIR, newest_names
from nemo_workflow.runs.loading import WORTH_SAYING, check_ids, load_model, loading, longest_text, most_positions
from nemo_workflow.utils.arguments import Parser, is_there, value_on_line
from nemo_workflow.utils.console import Meter, counted
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import script
from nemo_workflow.utils.folder_kinds import MODEL, beside_an_adapter, is_checkpoint, meant
from nemo_workflow.utils.libraries import collector_paused
from nemo_workflow.utils.meant import called
from nemo_workflow.utils.processes import left_on_a_signal, run_passing_on, say_stopped, why_ended

# what transformers' and other tools' commands call our flags
MEANINGS = called(
    {
        "--hf-model": "model model-name model-name-or-path model-path model-dir checkpoint checkpoint-dir hf-model-id pretrained",
        "--tokens": "max-new-tokens max-tokens num-tokens new-tokens max-length length n-predict",
        "--temperature": "temp",
    },
    {
        "prompt text start input file": 'the text stands by itself, in quotes: --hf-model DIR "TEXT"',
        "tensor-parallel-size tp gpu-memory-utilization device-map": "the model is spread over the GPUs by itself: leave it out",
        "trust-remote-code": "code that comes with a model is never run: leave it out",
        "max-model-len": "the length that it reads is the model's: leave it out",
        "greedy do-sample": "--temperature 0 always takes the likeliest token; above 0 it samples",
        "top-p top-k num-beams repetition-penalty": "--temperature and --seed are what it takes",
        "num-return-sequences num-samples": "another --seed makes another text",
        "interactive chat system stream": "it continues one text: leave it out",
        "device gpu cpu dtype precision": "the GPUs are used where there are any, in the model's own precision: leave it out",
        "tokenizer tokenizer-path hf-tokenizer": "the tokenizer is the one in the folder of --hf-model",
        "run experiment name nemo-model step": "--hf-model takes an exported model: python -m nemo_workflow.export RUN makes the one of a"
        " run, in its folder hf_model",
    },
)

LEAST_NAMED = 0.9  # of a model's rows that its own tokenizer has entries for; Qwen 2.5's has 0.998, small ones' padding to 128 more


def main() -> int:
    """`python -m nemo_workflow.sample --hf-model DIR TEXT`; prints the text and what the model makes of it."""
    parser = Parser(
        prog="python -m nemo_workflow.sample",
        description=__doc__,
        meanings=MEANINGS,
        stands_for=_stands_for,
        typed=_typed,
    )
    parser.any_text.add("text")
    parser.for_words = "--hf-model"
    parser.add_argument("--hf-model", required=True, type=Path, help="folder that convert_from_nemo2_to_hf.py wrote")
    parser.add_argument("--tokens", type=int, default=60, help="tokens to generate (default %(default)s)")
    parser.add_argument(
        "--temperature", type=float, default=0.8, help="0 always takes the likeliest token (default %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=1234, help="the same number gives the same text (default %(default)s)"
    )
    parser.add_argument(
        "--after-training", action="store_true", help="of a training's own command, which says what a stop leaves"
    )
    parser.add_argument("text", help="how the text begins")
    arguments = parser.parse_args()
    if not arguments.hf_model.exists() and (Path(arguments.text) / "config.json").is_file():
        raise Refusal(
            f"--hf-model {arguments.hf_model}: no such folder, and TEXT {arguments.text} is a model's: they look swapped;"
            f" give --hf-model {shlex.quote(arguments.text)} {shlex.quote(str(arguments.hf_model))}"
        )
    check_exported(arguments.hf_model)
    if arguments.tokens < 1 or arguments.temperature < 0:
        raise Refusal("--tokens must be at least 1, and --temperature not below 0")
    refuse_code("--hf-model", arguments.hf_model)
    check_has_tokenizer(arguments.hf_model)
    with left_on_a_signal("" if arguments.after_training else "nothing was written"):
        print(generate(arguments.hf_model, arguments.text, arguments.tokens, arguments.temperature, arguments.seed))
    return 0


def _stands_for(flag: str, value: str) -> dict[str, str]:
    """This line's words for those in capitals of MEANINGS; a text that isn't in quotes goes on to the next flag."""
    flags = [word.partition("=")[0].replace("_", "-") for word in Parser.words]
    behind = takewhile(
        lambda word: not word.startswith("-"), Parser.words[flags.index(flag) + 1 :] if flag in flags else ()
    )
    text = shlex.quote(" ".join(behind)) if value and value in map(shlex.quote, Parser.words) else value
    run = value if flag in ("--run", "--experiment", "--name") else ""
    return {"DIR": shlex.quote(value_on_line("--hf-model", "DIR")), '"TEXT"': text, "RUN": run}


def _typed(word: str) -> str:
    """A word alone with its flag: a model's folder, or a run, of which it is the exported one."""
    places = (Path(word), Path(OUTPUT_DIR) / word)
    exported = [str(place / EXPORTED) for place in places if is_there(place / EXPORTED / "config.json")]
    there = [word] if any(map(is_there, places)) else []
    return next((f"--hf-model {shlex.quote(path)}" for path in (*exported, *there)), "")


def check_exported(folder: Path) -> None:
    """Raise Refusal for a folder that is no exported model, or not a whole one.

    It names the one that was meant, or the command that makes one.
    """
    if (folder / "config.json").is_file():
        if wrong := beside_an_adapter(folder):
            raise Refusal(f"--hf-model {folder}: {wrong}")
        for weights in folder.glob("*.safetensors"):
            read_header(weights)
        return  # load_model tells what else is wrong
    run = folder.parent if folder.name in ("checkpoints", EXPORTED) else folder
    if (run / EXPORTED / "config.json").is_file():
        raise Refusal(f"--hf-model {folder}: is a run's folder; its exported model is {run / EXPORTED}")
    if (named := Path(OUTPUT_DIR) / folder / EXPORTED / "config.json").is_file():
        raise Refusal(f"--hf-model {folder}: is a run's name; its exported model is {named.parent}")
    newest, _ = newest_whole(run / "checkpoints")
    if folder.exists() and not newest and not is_checkpoint(folder) and (known := meant(folder, MODEL, "--hf-model")):
        raise Refusal(f"--hf-model {folder}: no config.json there{known}")
    if (folder / "weights").is_dir():
        command = (
            f"{script('ckpt_conversion/convert_from_nemo2_to_hf.py')} --source {shlex.quote(str(folder))}"
            f" --output-path {shlex.quote(f'{folder.name}-hf')}"
        )
    else:
        which = str(run) if newest else next(iter(newest_names(OUTPUT_DIR)), "")
        command = f"python -m nemo_workflow.export {shlex.quote(which) if which else 'RUN'}"
    what = (
        hub.no_folder("--hf-model", folder, whole=True)
        if not folder.exists()
        else "a run that is not exported"
        if newest
        else "no config.json there"
    )
    raise Refusal(
        f"--hf-model {folder}: {what}; {'or ' if 'hf download' in what else ''}export a checkpoint first: {command}"
    )


def after_training(plan: Plan) -> None:
    """Print how the model that was exported after the training goes on with --sample, in a process of its own.

    Raises Failure where that can't be had.
    """
    model = str(plan.folder / EXPORTED)
    words = ["-m", "nemo_workflow.sample", "--after-training", "--hf-model", model, "--", plan.settings.sample or ""]
    code, signalled = run_passing_on([sys.executable, *words], cwd=REPOSITORY)
    if signalled:
        said = "the training is done and its model exported: the same command makes the text"
        sys.exit(say_stopped(signalled, said))
    if code:
        raise Failure(f"--sample: no text, {why_ended(code)}; the training is done, and its model is exported")


class _Count:
    """Shows how many tokens are made; transformers hands it the text's own first, then each new one."""

    def __init__(self, meter: Meter, tokens: int):
        self.meter, self.tokens, self.made = meter, tokens, -1
        self.began = time.monotonic()

    def put(self, _: object) -> None:
        self.made += 1
        if time.monotonic() - self.began > WORTH_SAYING:
            self.meter.show(f"{counted(self.made, 'token')} of up to {self.tokens:,}")

    def end(self) -> None: ...


def _as_many_as_fit(model: Any, read: int, tokens: int) -> int:
    """The tokens that can be made after `read` ones: fewer, with a note, where the model's learned positions end. Raises Refusal."""
    most = most_positions(model)
    if most is None or read + tokens <= most:
        return tokens
    if read >= most:
        raise Refusal(f"TEXT: has {read:,} tokens, and the model reads {most:,} at once; give a shorter one")
    print(f"note: the model reads {most:,} tokens at once: {most - read:,} are made, not {tokens:,}", file=sys.stderr)
    return most - read


def generate(folder: Path, text: str, tokens: int, temperature: float, seed: int) -> str:
    """`text` and up to `tokens` tokens after it; on the GPUs where there are any. The same seed gives the same text."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # torch warns of pynvml at import
    with loading(folder):
        with collector_paused():
            import torch

            from nemo_workflow.backends import deferred
            from nemo_workflow.backends.patching import CPU, GPU, RANK

            deferred.install(RANK, GPU if torch.cuda.is_available() else CPU)
            from transformers.utils import logging

            from nemo_workflow.backends.cpu import products
            from nemo_workflow.models.tokenizer_loading import load

        if not torch.cuda.is_available():
            products.use_fastest()
        logging.set_verbosity_error()
        torch.manual_seed(seed)
        tokenizer = load(folder)
        begin = tokenizer(text, return_tensors="pt")
        if not begin["input_ids"].numel():
            raise Refusal(f"TEXT {text!r}: the tokenizer makes no token of it; give the model some text to continue")
        model = load_model(folder, "auto")
    check_ids(model, begin["input_ids"], f"{folder}'s tokenizer")
    tokens = _as_many_as_fit(model, begin["input_ids"].numel(), tokens)
    most = longest_text(model)
    if most and begin["input_ids"].numel() + tokens > most:
        print(
            f"note: the model was made for texts of {most:,} tokens; expect less of what follows them", file=sys.stderr
        )
    rows = model.config.get_text_config().vocab_size
    if len(tokenizer) < LEAST_NAMED * rows:
        print(
            f"note: the tokenizer has {len(tokenizer):,} entries, the model {rows:,} rows: it may not be the model's own",
            file=sys.stderr,
        )
    begin = begin.to(model.device)
    sampling = {"do_sample": True, "temperature": temperature} if temperature else {"do_sample": False}
    meter = Meter(sys.stderr)
    with torch.inference_mode(), contextlib.closing(meter):
        made = model.generate(
            input_ids=begin["input_ids"],
            attention_mask=begin["attention_mask"],
            max_new_tokens=tokens,
            pad_token_id=tokenizer.eos_token_id,
            streamer=_Count(meter, tokens),
            **sampling,
        )
    return str(tokenizer.decode(made[0], skip_special_tokens=True))
