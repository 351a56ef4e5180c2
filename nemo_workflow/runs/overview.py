"""Subcommands that only read runs' own files: list, show, report, compare. They work while a run trains and on copies."""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.config.config_file import WORKED_OUT, worked_out_of
from nemo_workflow.config.flags import TABLE
from nemo_workflow.run_dir import metrics, speed
from nemo_workflow.run_dir.run import RunFolder
from nemo_workflow.runs import control
from nemo_workflow.utils.arguments import UNSET
from nemo_workflow.utils.console import human_bytes, human_count, human_time
from nemo_workflow.utils.errors import Refusal
from nemo_workflow.utils.files import absolute
from nemo_workflow.utils.folder_kinds import PLAN

NOT_A_CHOICE = ("experiment", "output-dir")  # flags that differ between any two runs
DEFAULTS = {option.name: option.default for option in TABLE if option.default is not None and not option.secret}
ROWS = 10  # steps at which two runs' losses are put side by side
DAY = 86400


def add_commands(commands: Any) -> None:
    """Add the subcommands to the parser; each sets `run`, a function of the parsed arguments."""
    _command(commands, "list", "all runs: state, step, loss, speed, when, and why they stopped", _list)
    show = _command(commands, "show", "one run: plan, progress, checkpoints, starts, and why it stopped", _show)
    show.add_argument("name", help="experiment, Slurm job id, or a run's folder")
    report = _command(commands, "report", "write a run's report.html", _report)
    report.add_argument("name", help="experiment, Slurm job id, or a run's folder")
    report.add_argument("-o", "--output", type=Path, metavar="FILE", help="instead of report.html in the run's folder")
    compare = _command(commands, "compare", "what differs between runs, and their curves over each other", _compare)
    compare.add_argument("names", nargs="+", metavar="RUN", help="two or more experiments or folders")
    compare.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the page with the curves (default: compare-A-B.html beside the first run's folder)",
    )


def _command(commands: Any, name: str, text: str, function: Any) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    made.set_defaults(run=function)
    return made


def open_run(output_dir: str, name: str) -> RunFolder:
    """A run by its folder, or by a name below `output_dir`; raises Refusal."""
    folder = Path(name).expanduser()
    if (folder / PLAN).is_file() or (folder / metrics.FILE).is_file():
        return control.opened(folder)
    return control.opened(control.find_run(output_dir, name))


# -- list -------------------------------------------------------------------------------------------------------------


def _list(arguments: Any) -> int:
    from nemo_workflow.runs.report.page import write_again_if_stale

    root = absolute(arguments.output_dir)
    if not root.is_dir():
        raise Refusal(control.no_output_dir(root))
    runs = [control.opened(path.parent) for path in root.glob(f"*/{PLAN}")]
    if not runs:
        print(f"no runs in {root}")
        return 0
    runs.sort(key=lambda run: run.changed or 0, reverse=True)
    for run in runs:
        write_again_if_stale(run)
    head = ("NAME", "STATE", "STEP", "LOSS", "VAL LOSS", "TOKENS/S", "WHEN", "WHY")
    print_table([head, *map(_row, runs)], right=(2, 3, 4, 5))
    return 0


def _row(run: RunFolder) -> tuple[str, ...]:
    step, validation = run.newest("step"), run.newest("validation")
    state = run.state
    return (
        run.name,
        state.name,
        f"{run.step}/{run.max_steps}",
        _number(step.get("loss")),
        _number(validation.get("val_loss")),
        human_count(step["tokens_per_second"]) if step else "",
        ago(run.changed),
        state.why.partition("; ")[2] if state.name == "finished" else state.why,  # that it is not exported
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def ago(moment: float | None) -> str:
    """'5 min 02 s ago' within a day, else the date."""
    if moment is None:
        return ""
    age = time.time() - moment
    return f"{human_time(age)} ago" if age < DAY else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def print_table(rows: list[tuple[str, ...]], right: tuple[int, ...] = ()) -> None:
    """Print rows in columns as wide as their widest cell; on a terminal no line is wider than it."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in rows:
        cells = (
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join(cells).rstrip()[:columns])


# -- show -------------------------------------------------------------------------------------------------------------


def _show(arguments: Any) -> int:
    from nemo_workflow.runs.report.page import plan_rows, write_again_if_stale

    run = open_run(arguments.output_dir, arguments.name)
    write_again_if_stale(run)
    print(run.path)
    print_table([(f"  {key}", value) for key, value in [*_standing(run), *plan_rows(run.plan)]])
    early = run.never_trained()
    if run.starts() or early:
        print("starts")
        for start in run.starts():
            print(f"  {_date(start['time'])}  step {start['step']} to {start['last_step']}  {start['end']}")
        if early:
            print(f"  {_date(early[0])}  {early[1]}")
    if run.checkpoints():
        print("checkpoints")
        for saved in run.checkpoints():
            if saved["state"] != "removed":
                print(f"  step {saved['step']}  {human_bytes(saved['bytes'] or 0)}  {saved['state']}")
    validations = [event for event in run.of_kind("validation") if event["val_loss"] is not None]
    if validations:
        print("validation loss")
        for event in _some(validations):
            print(f"  step {event['step']}  {event['val_loss']:.4f}")
    return 0


def _standing(run: RunFolder) -> list[tuple[str, str]]:
    state = run.state
    rows = [("state", f"{state.name}: {state.why}" if state.why else state.name)]
    if step := run.newest("step"):
        rows.append(("last step", f"{metrics.progress(step, run.max_steps)}  ({ago(step['time'])})"))
    rows += _speed(run)
    report = run.path / "report.html"
    return [*rows, ("report", str(report))] if report.is_file() else rows


def _speed(run: RunFolder) -> list[tuple[str, str]]:
    """What the plan and the run say of its speed."""
    seen, planned = speed.found(run.of_kind("note")), (run.plan.get("time") or {}).get("tokens_per_second")
    if seen:
        return [("speed", seen["text"])]
    return [("speed", f"planned {human_count(planned)} tokens/s")] if planned else []


def _some(entries: list[Any]) -> list[Any]:
    """ROWS entries at equal distances, the last among them."""
    if len(entries) <= ROWS:
        return entries
    return [entries[round((number + 1) * len(entries) / ROWS) - 1] for number in range(ROWS)]


def _date(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


# -- report -----------------------------------------------------------------------------------------------------------


def _report(arguments: Any) -> int:
    from nemo_workflow.runs.report.page import write_report

    run = open_run(arguments.output_dir, arguments.name)
    with _plotting(arguments.output or run.path):
        print(write_report(run, arguments.output))
    return 0


@contextlib.contextmanager
def _plotting(place: Path) -> Iterator[None]:
    """Say how to get the plotting library where it is missing, and where else to write where `place` is another's."""
    try:
        yield
    except ModuleNotFoundError as missing:
        raise Refusal(f"the charts need {missing.name}: pip install bokeh") from None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise Refusal(f"{place} can't be written ({error.strerror}); give another file: --output FILE.html") from None


# -- compare ----------------------------------------------------------------------------------------------------------


def _compare(arguments: Any) -> int:
    from nemo_workflow.runs.report.page import write_comparison

    if len(arguments.names) < 2:
        raise Refusal("; ".join(filter(None, ("compare needs two runs or more", control.there_are(), UNSET))))
    runs = [open_run(arguments.output_dir, name) for name in arguments.names]
    differing = differences(runs)
    names = tuple(run.name for run in runs)
    print_table([("FLAG", *names), *(differing or [("(no flag differs)", *("" for _ in runs))])])
    print()
    if rows := losses(runs):
        print_table([("STEP", *(f"LOSS {name}" for name in names)), *rows], right=tuple(range(len(runs) + 1)))
    else:
        print("no step yet that all of them have made")
    page = arguments.output or runs[0].path.parent / f"compare-{'-'.join(names)}.html"
    with _plotting(page):
        write_comparison(runs, differing, page)
    print(f"\ncurves: {absolute(page)}")
    return 0


def differences(runs: list[RunFolder]) -> list[tuple[str, ...]]:
    """The flags in which the runs' configs differ: name, and each run's value ('-' where it has none).

    Those that all plans worked out themselves come last, for they follow from the others.
    """
    configs = [DEFAULTS | run.config() for run in runs]
    rows = {
        name: tuple(_text(config.get(name)) for config in configs)
        for name in sorted({*itertools.chain(*configs)} - {*NOT_A_CHOICE, WORKED_OUT})
    }
    differing = [name for name in rows if len(set(rows[name])) > 1]
    by_plan = {name for name in differing if all(name not in c or name in worked_out_of(c) for c in configs)}
    chosen = [(name, *rows[name]) for name in differing if name not in by_plan]
    return chosen + [(f"{name} (worked out)", *rows[name]) for name in differing if name in by_plan]


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def losses(runs: list[RunFolder]) -> list[tuple[str, ...]]:
    """Each run's loss at some of the steps that all have, then the last validation loss."""
    found = [{e["step"]: e["loss"] for e in run.of_kind("step") if e["loss"] is not None} for run in runs]
    common = sorted(set(found[0]).intersection(*found[1:]))
    rows = [(str(step), *(f"{losses[step]:.4f}" for losses in found)) for step in _some(common)]
    validations = [_number(run.last.get("validation", {}).get("val_loss")) for run in runs]
    return [*rows, ("validation", *validations)] if any(validations) else rows
