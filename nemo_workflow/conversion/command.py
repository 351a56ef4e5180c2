"""The two commands: convert_from_hf_to_nemo2.py and convert_from_nemo2_to_hf.py. Light until the checks have passed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from nemo_workflow.backends.patching import CPU, RANK
from nemo_workflow.conversion import checks, config_fields, hf_folder, inputs
from nemo_workflow.conversion.background import beside
from nemo_workflow.conversion.import_job import Import, checked, look
from nemo_workflow.conversion.output_dir import check_apart, check_output, resolved, whole_folder
from nemo_workflow.conversion.report import NAME, Report
from nemo_workflow.conversion.stopping import raise_if_stopped, stop_no_more, until_stopped
from nemo_workflow.models.tokenizer_files import CONFIG, copy_back, files_of, without_own_code, without_token_types
from nemo_workflow.utils.arguments import Parser
from nemo_workflow.utils.console import Meter, human_bytes, human_time
from nemo_workflow.utils.errors import Failure, Refusal
from nemo_workflow.utils.folder_kinds import TOKENIZERS, meant
from nemo_workflow.utils.libraries import collector_paused
from nemo_workflow.utils.meant import called
from nemo_workflow.utils.scratch import scratch_folder
from nemo_workflow.utils.silence import quiet

# what other converters call our flags
_OF = {
    "--source": "input input-path input-dir input-name-or-path in-file model-path model-dir checkpoint checkpoint-path checkpoint-dir load"
    " load-dir",
    "--output-path": "output output-dir out out-dir out-file save save-path save-dir target target-path output-folder",
    "--overwrite": "force",
}
_SAID = {
    "tokenizer-type": "the tokenizer's files say what it is: leave it out",
    "tp pp tensor-model-parallel-size pipeline-model-parallel-size target-tensor-parallel-size target-pipeline-parallel-size": "a"
    " checkpoint fits every layout: leave it out",
    "dtype precision torch-dtype": "the precision of --source is kept: leave it out",
    "verify check": "it is verified by default: leave it out, or --no-verify",
    "loader saver model-format": "it follows from --source: leave it out",
    "push-to-hub": "`hf upload ORG/NAME DIR .` uploads the folder of --output-path",
    "device gpu cpu num-gpus gpus": "it needs no GPU: leave it out",
    "trust-remote-code": "code that comes with a model is never run: leave it out",
    "safe-serialization": "safetensors are written by default: leave it out",
    "max-shard-size": "the size of the files needs no flag: leave it out",
}
IMPORT_MEANINGS = called(
    {
        **_OF,
        "--source": f"{_OF['--source']} hf-model hf-path hf-model-id hf-model-dir",
        "--model-name": "model-type",
        "--model-config-name": "config config-name model-config",
        "--revision": "branch commit tag",
        "--extend-vocabulary": "new-tokenizer extend",
    },
    {
        **_SAID,
        "model": "--source takes a model's folder or Hub id; --model-name a NeMo class, where config.json doesn't tell it",
        "tokenizer tokenizer-model hf-tokenizer tokenizer-path": "the tokenizer is the one of --source; a larger one is"
        " --extend-vocabulary's",
    },
)
EXPORT_MEANINGS = called(
    {
        **_OF,
        "--source": f"{_OF['--source']} nemo-model nemo-ckpt nemo-path",
        "--hf-tokenizer": "tokenizer tokenizer-model tokenizer-path tokenizer-name hf-model-id",
    },
    {
        **_SAID,
        "model model-name model-type": "it follows from --source: leave it out",
        "run experiment step latest": "--source takes a checkpoint's folder, checkpoints/step_N of the run; python -m nemo_workflow.export RUN"
        " takes the run",
    },
)


def _shared(parser: Parser, output_required: bool) -> None:
    parser.for_words, parser.for_new = "--source", "--output-path"
    parser.secret = {"--hf-token"}
    parser.add_argument(
        "--output-path",
        required=output_required,
        type=Path,
        help="folder to write; it appears only when it is complete and verified",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace a model that is at --output-path (it stays until the new one is verified)",
    )
    parser.add_argument(
        "--allow-lossy",
        action="append",
        default=[],
        metavar="FIELD",
        help="continue although this config.json field or tensor is lost; the refusal names it (may be given several times)",
    )
    parser.add_argument("--no-verify", action="store_true", help="skip the comparison of all tensors and of the logits")


def import_parser() -> Parser:
    """Flags of convert_from_hf_to_nemo2.py."""
    parser = Parser(
        description="Convert a Hugging Face model to a NeMo 2 checkpoint (context/ and weights/) and verify it. Needs no GPU.",
        meanings=IMPORT_MEANINGS,
    )
    parser.add_argument(
        "--source", required=True, help="Hugging Face folder, or a Hub id such as meta-llama/Llama-3.1-8B"
    )
    _shared(parser, output_required=False)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only check: say what would be done with this source, or why it is refused; needs no --output-path and writes nothing",
    )
    parser.add_argument(
        "--model-name", help="NeMo model class (supported_model.txt); found from config.json when not given"
    )
    parser.add_argument(
        "--model-config-name", help="NeMo config class (supported_config.txt); found from config.json when not given"
    )
    parser.add_argument(
        "--extend-vocabulary",
        metavar="TOKENIZER",
        help="folder or Hub id of a tokenizer that has the model's tokens and more: the checkpoint gets it, and rows for the"
        " new tokens, each the mean of the rows of its old pieces",
    )
    parser.refused_without = {"output_path"}
    parser.add_argument("--revision", help="branch, tag or commit of the Hub id")
    parser.add_argument("--hf-token", help="Hub token (better: the environment variable HF_TOKEN)")
    return parser


def export_parser() -> Parser:
    """Flags of convert_from_nemo2_to_hf.py."""
    parser = Parser(
        description="Convert a NeMo 2 checkpoint (any TP/PP/VPP/DP layout) to a Hugging Face folder and verify it. Needs no GPU.",
        meanings=EXPORT_MEANINGS,
    )
    parser.add_argument(
        "--source", required=True, help="NeMo 2 folder with context/ and weights/, e.g. <run>/checkpoints/step_*"
    )
    _shared(parser, output_required=True)
    parser.add_argument(
        "--hf-tokenizer", help="tokenizer folder or Hub id, for a checkpoint that lacks its tokenizer's files"
    )
    parser.add_argument("--hf-token", help="Hub token (better: the environment variable HF_TOKEN)")
    return parser


def _large_pages() -> None:
    """Have torch ask for pages of 2 MB: fresh memory, of which a conversion needs much, then costs a third of the time."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read when torch is first used


def _spare_imports() -> None:
    """Have libraries imported without what a conversion doesn't use; before the first of them is."""
    from nemo_workflow.backends import deferred

    deferred.install(RANK, CPU)


# --- Hugging Face -> NeMo ---------------------------------------------------------------------------------------------
def import_main(argv: list[str] | None = None) -> int:
    """Run convert_from_hf_to_nemo2.py."""
    parser = import_parser()
    args = parser.parse_args(argv)
    _note_idle_token(args)
    if args.dry_run:
        if args.output_path is not None:
            _check_places(args)
        return look(args, _token(args), lambda job, scratch: _extended(job, args, scratch))
    if args.output_path is None:
        parser.error("--output-path (or --dry-run) is required")
    _large_pages()
    with scratch_folder() as scratch:
        return _import(_checked_import(args, scratch / "extended"), args)


def _import(job: Import, args: argparse.Namespace) -> int:
    report = Report("hf to nemo2", args.source, str(args.output_path))
    model = {"family": job.family.name, "model_class": job.family.model_class, "config_class": job.config_class}
    report.entries |= {"model": model, "lossy": args.allow_lossy}
    if job.extension:
        report.entries["vocabulary"] = job.extension.entries()
        report.notes.append(job.extension.line())
    report.notes += job.notes
    meter = Meter(_terminal())

    def work() -> int:
        with contextlib.closing(meter), checks.full_disk(args.output_path), whole_folder(args.output_path) as aside:
            _write_nemo(job, aside, report, meter, verify=not args.no_verify)
            _finish(report, aside, args.output_path)
        return _say(report, args.output_path)

    return until_stopped(work, "the import")


def _check_places(args: argparse.Namespace) -> None:
    """Refuse an output that is there, is no place for one, or holds the source, before anything is fetched or read."""
    inputs.check_no_nemo(Path(args.source), args.output_path)
    inputs.check_swapped(args.source, args.output_path, args.overwrite)
    check_output(args.output_path, args.overwrite)
    if Path(args.source).is_dir():
        check_apart(args.output_path, Path(args.source))


def _checked_import(args: argparse.Namespace, scratch: Path) -> Import:
    """The import; the folder `scratch` is made for what an extended vocabulary changes beside the weights."""
    _check_places(args)
    folder = inputs.fetch(args.source, args.revision, _token(args))
    check_apart(args.output_path, folder)
    job = _extended(checked(folder, args), args, scratch)
    checks.resources(args.output_path, job.nbytes, job.largest)
    return job


def _extended(job: Import, args: argparse.Namespace, scratch: Path) -> Import:
    """The import with the vocabulary that --extend-vocabulary asks for, or as it is."""
    if args.extend_vocabulary is None:
        return job
    # takes transformers, which takes seconds
    _spare_imports()
    from nemo_workflow.conversion.vocabulary import extended

    return extended(job, args, _token(args), scratch)


def _note_idle_token(args: argparse.Namespace) -> None:
    """Say so of a token with which nothing is downloaded."""
    names = (vars(args).get(name) for name in ("source", "hf_tokenizer", "extend_vocabulary"))
    if args.hf_token and all(Path(name).exists() for name in names if name):
        print("note: --hf-token: has no effect: all that is named is on this machine", file=sys.stderr)


def _token(args: argparse.Namespace) -> str | None:
    return args.hf_token or os.environ.get("HF_TOKEN")


def _write_nemo(job: Import, aside: Path, report: Report, meter: Meter, verify: bool) -> None:
    _spare_imports()
    with quiet(), collector_paused():
        from nemo_workflow.conversion import convert, nemo_context
        from nemo_workflow.conversion.compare_logits import prove
        from nemo_workflow.conversion.compare_tensors import Comparison
        from nemo_workflow.conversion.nemo_folder import NemoReader

    model = convert.Model(job.family, job.hf)
    reader = job.reader()
    chunks = convert.plan_import(model, reader, job.dropped | checks.redundant(reader, job.family, job.hf))
    on_bytes = _progress(meter, "writing", job.nbytes)
    with beside(lambda: convert.write_nemo(aside, model, chunks, on_bytes), "writing weights/"), quiet():
        report.notes += nemo_context.write_context(aside, job.family, job.config_class, job.nemo, job.folder)
    if verify:
        comparison = Comparison(
            model, reader, NemoReader(aside / "weights"), _progress(meter, "comparing tensors and logits,", job.nbytes)
        )
        with quiet():
            report.entries["tensors"], report.entries["logits"] = prove(
                comparison, job.folder, job.config_class, job.nemo
            )
    meter.close()


# --- NeMo -> Hugging Face ---------------------------------------------------------------------------------------------
def export_main(argv: list[str] | None = None) -> int:
    """Run convert_from_nemo2_to_hf.py."""
    args = export_parser().parse_args(argv)
    _note_idle_token(args)
    _large_pages()
    inputs.check_swapped(args.source, args.output_path, args.overwrite)
    folder = inputs.find_nemo(args.source, args.output_path)
    check_output(args.output_path, args.overwrite)
    check_apart(args.output_path, folder)
    report = Report("nemo2 to hf", args.source, str(args.output_path))
    meter = Meter(_terminal())

    def work() -> int:
        with contextlib.closing(meter), checks.full_disk(args.output_path):
            _write_hf(folder, args, report, meter)
        return _say(report, args.output_path)

    return until_stopped(work, "the export")


def _write_hf(folder: Path, args: argparse.Namespace, report: Report, meter: Meter) -> None:
    _spare_imports()
    with quiet(), collector_paused():
        from nemo_workflow.conversion import convert, hf_config, nemo_context
        from nemo_workflow.conversion.compare_logits import prove
        from nemo_workflow.conversion.compare_tensors import Comparison
        from nemo_workflow.conversion.nemo_folder import NemoReader

    model_class, nemo, tokenizer_fields = nemo_context.read_model(folder)
    family = nemo_context.family_of(model_class, nemo)
    kept, named = nemo_context.tokenizer_folder(folder, tokenizer_fields)
    tokenizer = kept
    if args.hf_tokenizer:
        tokenizer = inputs.fetch(args.hf_tokenizer, None, _token(args), "--hf-tokenizer", weights=False)
        check_apart(args.output_path, tokenizer, "--hf-tokenizer")
        if not files_of(tokenizer):
            known = meant(tokenizer, TOKENIZERS, "--hf-tokenizer")
            raise Refusal(
                f"--hf-tokenizer {args.hf_tokenizer}: no tokenizer files in it; give a folder with tokenizer.json{known}"
            )
    elif tokenizer is None or not files_of(tokenizer):
        it_names = f" (it names {named!r})" if named else ""
        report.notes.append(f"the checkpoint lacks its tokenizer's files{it_names}; --hf-tokenizer adds them")
    reader = NemoReader(folder / "weights")
    with quiet():
        config = hf_config.exported_as_computed(nemo, family, hf_config.Beside(tokenizer, kept), reader)
    family = config.family
    report.notes += config.notes
    checks.losses(config.losses, args.allow_lossy, {})
    report.entries["lossy"] = args.allow_lossy
    model = convert.Model(family, config.complete)
    plan = convert.plan_export(model, reader)
    sizes = [entry.nbytes for *_, entries in plan for entry in entries]
    checks.resources(args.output_path, sum(sizes), max(sizes))
    report.entries["model"] = {"family": family.name, "model_class": model_class, "architecture": family.architecture}
    with whole_folder(args.output_path) as aside:
        on_bytes = _progress(meter, "writing", sum(sizes))
        with beside(lambda: convert.write_hf(aside, model, reader, plan, on_bytes), "writing the weights"), quiet():
            hf_config.write_config(aside, config, dtype=plan[0][3][0].dtype)
            report.entries["tokenizer_files"] = copy_back(tokenizer, aside) if tokenizer else []
            without_token_types(aside)
            if config.beside.loaded and without_own_code(aside):
                report.notes.append(f"{CONFIG} auto_map is left out: the tokenizer loads without code of its own")
            if not args.no_verify:
                nemo_context.import_nemo(family)
        if not args.no_verify:
            written = hf_folder.HFReader(hf_folder.list_tensors(aside))
            comparison = Comparison(
                model, written, reader, _progress(meter, "comparing tensors and logits,", sum(sizes))
            )
            config_class, trained = family.nemo_class(config.complete), config_fields.computed(config.nemo, family)
            with quiet():
                report.entries["tensors"], report.entries["logits"] = prove(comparison, aside, config_class, trained)
        meter.close()
        _finish(report, aside, args.output_path)


# --- the end of both --------------------------------------------------------------------------------------------------
def _terminal() -> TextIO:
    """stderr, also while `quiet` has it point elsewhere."""
    return os.fdopen(os.dup(2), "w")


def _progress(meter: Meter, verb: str, total: int) -> Callable[[int], None]:
    done = 0

    def on_bytes(count: int) -> None:
        nonlocal done
        raise_if_stopped()
        done += count
        # the end is always shown: in a log the line before it may be of the beginning
        meter.show(f"{verb} {human_bytes(done)} of {human_bytes(total)} ({min(1.0, done / total):.0%})", done >= total)

    return on_bytes


def _finish(report: Report, aside: Path, output: Path) -> None:
    """Write the report; raise Failure (and so leave no output) if the verification failed. No signal stops it after that."""
    report.write(aside / NAME)
    failures = report.failures()
    if failures:
        kept = resolved(output).with_name(f"{resolved(output).name}.failed_{NAME}")
        report.write(kept)
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise Failure(
            f"the conversion is not exact: {failures[0]}{more}; {kept} has it all, --output-path was not made"
        )
    stop_no_more()


def _say(report: Report, output: Path) -> int:
    for line in report.lines():
        print(line)
    print(f"{output}: done in {human_time(report.as_dict()['seconds'])}; report in {output}/{NAME}")
    return 0
