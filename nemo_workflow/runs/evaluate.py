"""Loss of an exported Hugging Face model on the very samples of a run's last validation, beside NeMo's own figure."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

from nemo_workflow.config.plan import Plan
from nemo_workflow.conversion.report import NAME as REPORT
from nemo_workflow.models import parameters, pretrained
from nemo_workflow.models.foreign_code import refuse_code
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.export_process import EXPORTED
from nemo_workflow.runs import control
from nemo_workflow.runs.loading import check_ids, load_model, loading, most_positions
from nemo_workflow.runs.sample import check_exported
from nemo_workflow.utils.arguments import Parser, is_there, value_on_line
from nemo_workflow.utils.console import Meter, counted
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.files import from_here
from nemo_workflow.utils.folder_kinds import PLAN
from nemo_workflow.utils.libraries import collector_paused
from nemo_workflow.utils.meant import called
from nemo_workflow.utils.processes import left_on_a_signal
from nemo_workflow.utils.silence import quiet

TOLERANCE = 0.01  # relative
LOGITS_BYTES = 4 * 2**30  # that the logits of a batch may take, where one sample's take less
LOGITS_BYTES_PER_VALUE = 8  # fp32, and the loss's own copy


MEANINGS = called(
    {
        "--hf-model": "model model-name model-name-or-path model-path model-dir hf-model-id pretrained",
        "--run": "run-dir run-folder experiment nemo-run name run-name",
    },
    {
        "dataset-dir dataset-path dataset data data-dir data-path input input-file text blend validation-dir val-data-path split limit": "the"
        " samples are those of the last validation of --run, from that run's own data: leave it out",
        "device gpu cpu dtype precision batch-size": "the GPUs are used where there are any, in fp32: leave it out",
        "tokenizer hf-tokenizer seq-length": "it is that of --run: leave it out",
        "output json": "both losses are printed, and the exit code is 1 where they differ: leave it out",
        "tasks num-fewshot": "it compares losses; tasks are those of other tools, such as lm_eval, which read the folder of --hf-model",
        "step checkpoint nemo-model": "--hf-model is what is measured: python -m nemo_workflow.export RUN --step N exports the checkpoint of a"
        " step",
    },
)


def main() -> int:
    """`python -m nemo_workflow.evaluate --hf-model DIR --run DIR`; exit code 1 when the losses differ by over 1 %, and padding isn't why."""
    parser = Parser(
        prog="python -m nemo_workflow.evaluate",
        description=__doc__,
        meanings=MEANINGS,
        stands_for=lambda flag, value: {
            "RUN": shlex.quote(value_on_line("--run", "RUN")),
            "N": value if value.isdigit() else "",
        },
        typed=_typed,
    )
    parser.there_are = {"--run": control.there_are}
    parser.add_argument("--hf-model", required=True, type=Path, help="folder that convert_from_nemo2_to_hf.py wrote")
    parser.add_argument("--run", required=True, type=Path, help="folder of the run, or its name below --output-dir")
    parser.add_argument(
        "--output-dir",
        default=control.OUTPUT_DIR,
        metavar="DIR",
        help="folder of the experiments (default %(default)s)",
    )
    arguments = parser.parse_args()
    check_exported(arguments.hf_model)
    arguments.run = control.run_folder(arguments.run, arguments.output_dir)
    if not (arguments.run / PLAN).is_file():
        raise Refusal(
            f"--run {arguments.run}: no {PLAN} there{from_here(arguments.run)}; give a run's folder, <output-dir>/<experiment>"
        )
    refuse_code("--hf-model", arguments.hf_model)
    plan = control.plan_of(arguments.run)
    check_shape(arguments.hf_model, plan)
    nemo_loss, elsewhere = validation_of(plan, arguments.hf_model)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    samples = plan.schedule.limit_val_batches * plan.settings.global_batch_size
    with left_on_a_signal("nothing was measured"):
        with loading(arguments.hf_model, f", for the loss of {counted(samples, 'sample')}"), quiet():
            seen = validation_samples(plan, samples)
            model = model_for(arguments.hf_model, seen)
        hf_loss = mean_loss(model, seen, Meter(sys.stderr))
    difference = abs(hf_loss - nemo_loss) / nemo_loss
    print(
        f"validation loss: NeMo {nemo_loss:.4f}, transformers {hf_loss:.4f} ({difference:.2%} apart, {counted(samples, 'sample')})"
    )
    if not difference <= TOLERANCE:  # a NaN too
        why = of_another_run(arguments.hf_model, plan)
        if not why and (cause := elsewhere or of_padding(plan, nemo_loss - hf_loss)):
            print(f"note: more than {TOLERANCE:.0%} apart, which tells nothing yet: {cause}", file=sys.stderr)
            return 0
        raise Failure(f"the losses differ by {difference:.2%}; {TOLERANCE:.0%} is allowed{why}")
    return 0


def _typed(word: str) -> str:
    """A word alone with the flag that it was meant for: a run's, or a model's."""
    places = (Path(word), Path(value_on_line("--output-dir", control.OUTPUT_DIR)) / word)
    if any(is_there(place / PLAN) for place in places):
        return f"--run {shlex.quote(word)}"
    return f"--hf-model {shlex.quote(word)}" if is_there(word) else ""


def check_shape(model: Path, plan: Plan) -> None:
    """Raise Refusal for a model of another shape than the run's, which no export of this run has; before it is loaded."""
    config = pretrained.hf_config(model)
    text = config.get("text_config")
    config = text if isinstance(text, dict) else config
    for theirs in ("num_hidden_layers", "hidden_size"):
        has, ours = config.get(theirs), plan.sizes.get(pretrained.SIZES[theirs])
        if has is not None and ours is not None and has != ours:
            raise Refusal(
                f"--hf-model {model}: its config.json has {theirs} {has}, and the run's model {ours}: it is not of this run;"
                f" {_own_model(plan)}"
            )


def _own_model(plan: Plan) -> str:
    return f"python -m nemo_workflow.export {shlex.quote(str(plan.run_dir))} writes the run's own, to {plan.folder / EXPORTED}"


def _source(model: Path) -> Path | None:
    """The checkpoint that a model was exported from, by its report of the export; None where that says nothing."""
    try:
        return Path(json.loads((model / REPORT).read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_another_run(model: Path, plan: Plan) -> str:
    """That a model was exported from another run, where its report of the export says so, or from none; empty for this run's own."""
    source = _source(model)
    if source is None:
        return f"; {model} has no {REPORT} of an export, so that it may be any model: {_own_model(plan)}"
    run = source.parents[1].name if len(source.parents) > 1 else ""
    if run in (plan.folder.name, plan.settings.experiment):  # the folder may have been moved
        return ""
    return f"; the model is of {source}, no checkpoint of this run: give --run the run that it was exported from"


def of_padding(plan: Plan, more: float) -> str:
    """Why NeMo's loss may be `more` than the exported model's, which has no rows that pad the vocabulary; empty for another reason.

    Untrained, all rows are about as likely: those of the padding take ln(padded / entries) nats.
    """
    entries = plan.vocab_size
    padded = parameters.padded_vocabulary(plan.sizes, entries, plan.layout.tensor) if entries else 0
    if padded <= entries or not 0 < more < 1.1 * math.log(padded / entries):
        return ""
    rows = counted(padded - entries, "row")
    return (
        f"NeMo's loss counts the {rows} that pad the vocabulary of {entries:,} too, until training has made them unlikely; to"
        " compare, train on"
    )


def validation_of(plan: Plan, model: Path) -> tuple[float, str]:
    """NeMo's loss at the validation of the step that a model was exported from; the last one's of a model of a later step, which is
    said then, or of none that is known."""
    losses = _validations(plan)
    last, source = max(losses), _source(model)
    own = source is not None and not of_another_run(model, plan)
    named = re.fullmatch(r"step_0*(\d+)", source.name) if source and own else None
    step = int(named[1]) if named else last
    if step in losses:
        return losses[step], ""
    if step < last:
        raise Refusal(
            f"--hf-model {model}: is of step {step:,}, where the run was not validated, and it has gone on to step {last:,}:"
            f" {_own_model(plan)}"
        )
    elsewhere = f"the model is of step {step:,}, and NeMo's last validation of step {last:,}"
    print(f"note: {elsewhere}", file=sys.stderr)
    return losses[last], elsewhere


def _validations(plan: Plan) -> dict[int, float]:
    """Step -> NeMo's loss at the run's validation there. Raises Refusal where there was none."""
    events = metrics.read(plan.folder / metrics.FILE)
    losses = {event["step"]: float(event["val_loss"]) for event in events if event["event"] == "validation"}
    if not losses and not plan.schedule.limit_val_batches:
        raise Refusal(
            f"--run {plan.run_dir}: it has no validation to compare with: --split {plan.settings.split} leaves nothing for one;"
            " train a run with a second number above 0, such as --split 98,1,1, on a hundred texts or more"
        )
    if not losses:
        raise Refusal(
            f"--run {plan.run_dir}: it has not been validated yet; its first validation follows step"
            f" {plan.schedule.val_check_interval}: train until there, with the same command"
        )
    return losses


def validation_samples(plan: Plan, count: int) -> list[Any]:
    """The `count` samples that every validation of a run sees: int64 tensors of seq_length + 1."""
    import torch

    from nemo_workflow.backends import deferred
    from nemo_workflow.backends.patching import CPU, GPU, RANK

    deferred.install(RANK, GPU if torch.cuda.is_available() else CPU)
    from transformers import AutoTokenizer

    from nemo_workflow.models.pretrained import hf_folder
    from nemo_workflow.models.tokenizer_loading import load

    named = plan.settings.hf_model_id
    folder = hf_folder(named)
    tokenizer = load(folder) if folder else AutoTokenizer.from_pretrained(named, trust_remote_code=False)
    tokenizer.eod = tokenizer.eos_token_id  # the name that Megatron asks for
    tokenizer.unique_identifiers = {"hf": str(plan.settings.hf_model_id)}
    split = sample_order().validation_set(plan, tokenizer)
    rows = []
    for index in range(count):
        item = split[index]
        rows.append(torch.cat([item["tokens"], item["labels"][-1:]]))
    return rows


def sample_order() -> Any:
    """training/sample_order.py, whose import of megatron-core no worker has prepared here. Its data needs no compiler."""
    from nemo_workflow.backends import cpu, memory_pool

    memory_pool.leave_out()
    with cpu.compiler_left_out(), collector_paused():
        from nemo_workflow.training import sample_order as module

    return module


def model_for(folder: Path, samples: list[Any]) -> Any:
    """transformers' model of a folder in fp32, on the GPUs where there are any; raises Refusal where it can't read the samples."""
    import torch

    model = load_model(folder, torch.float32)
    check_ids(model, torch.stack(samples), "the run's data")
    if (most := most_positions(model)) and len(samples[0]) - 1 > most:
        raise Refusal(
            f"--hf-model {folder}: reads {most:,} tokens at once, and the run's samples have {len(samples[0]) - 1:,}"
        )
    return model


def mean_loss(model: Any, samples: list[Any], meter: Meter | None = None, batch: int = 8) -> float:
    """Mean negative log likelihood of a causal language model, in nats per token; `meter` shows how many samples are done.

    `samples` are int64 tensors of one length. Computed in fp32: a GPU's matrix products stay fp32 too, not TF32.
    """
    import torch

    sample = LOGITS_BYTES_PER_VALUE * len(samples[0]) * model.config.get_text_config().vocab_size
    batch = max(1, min(batch, LOGITS_BYTES // sample))
    total, count = 0.0, 0
    with torch.inference_mode():
        for at in range(0, len(samples), batch):
            ids = torch.stack(samples[at : at + batch]).to(model.device)
            logits = model(input_ids=ids[:, :-1]).logits.to(ids.device)
            losses = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            total, count = total + float(losses), count + ids[:, 1:].numel()
            if meter:
                meter.show(f"{min(at + batch, len(samples)):,} of {counted(len(samples), 'sample')} measured")
    if meter:
        meter.close()
    return total / count
