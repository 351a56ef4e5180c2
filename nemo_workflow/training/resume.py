"""Which checkpoint a start continues from: chosen by rank 0, read back by all ranks, the same for all of them."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from nemo_workflow.config.plan import Plan
from nemo_workflow.models.tokenizer_identity import of_checkpoint
from nemo_workflow.run_dir import metrics
from nemo_workflow.run_dir.branching import parent_of
from nemo_workflow.run_dir.checkpoints import (
    Checkpoint,
    clean_leftovers,
    damage_by_size,
    damage_of,
    list_checkpoints,
    newest_whole,
    set_aside,
)
from nemo_workflow.run_dir.fingerprint import Named, compare, identity_of, in_todays_words, tokenizer_digest
from nemo_workflow.utils.console import counted, human_bytes
from nemo_workflow.utils.errors import Failure
from nemo_workflow.utils.files import write_json
from nemo_workflow.utils.folder_kinds import PLAN

WAIT_SECONDS = 3600.0
READ_SPEED = 1e9  # bytes per second and rank that reading back is reckoned with
READ_LIMIT = 60.0  # seconds; where reading back takes longer, sizes have to do
IDENTITY = "identity.json"
DECISION = "resume.json"
PARENT = 1_000_000  # number of the candidate that is another run's: after all of its own


def check_changes(plan: Plan, allowed: Collection[str] | None = None) -> tuple[dict[str, Any], list[str]]:
    """This run's identity, and a line for each change since the newest checkpoint; raises Refusal for those not allowed.

    `allowed` None: by --allow-change.
    """
    now = identity_of(plan)
    newest = newest_whole(plan.folder / "checkpoints")[0] or parent_of(plan.settings)
    if newest is None:
        return now, list(filter(None, [none_left(plan.folder)]))
    then = newest.manifest().get("identity") or {}
    if newest.path.parent != plan.folder / "checkpoints":
        now_only = {"branch": now["branch"]}  # the parent is none itself, or another's
        then = then | now_only
    then = in_todays_words(then, now, plan)
    own = of_checkpoint(
        newest.path
    )  # an older version's identity knows its bytes, and it may have been saved again since
    if own and tokenizer_digest(str(own)) == now["tokenizer"]:
        then["tokenizer"] = now["tokenizer"]
    names = Named.of(json.loads(plan.to_json())), Named.of(_plan_of(newest))
    allowed = (plan.settings.allow_change or ()) if allowed is None else allowed
    return now, compare(now, then, tuple(allowed), f"checkpoint {newest.path.name}", names)


def none_left(run: Path) -> str:
    """What is said where a run has saved checkpoints and has none any more, and so starts from the beginning; '' elsewhere."""
    last = metrics.last(run / metrics.FILE)
    if "checkpoint" not in last or list_checkpoints(run / "checkpoints"):
        return ""
    steps = counted(last.get("step", last["checkpoint"])["step"], "step")
    return f"no checkpoint is left of the {steps} that the run has made: it starts from the beginning"


def _plan_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """plan.json of the start before this one; empty where it is missing or damaged."""
    try:
        return dict(json.loads((checkpoint.path.parents[1] / PLAN).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def finished_already(plan: Plan) -> bool:
    """Whether the newest whole checkpoint has reached the plan's last step, and the validation after it was made."""
    newest, _ = newest_whole(plan.folder / "checkpoints")
    last = plan.schedule.max_steps
    if newest is None or newest.step < last:
        return False
    return newest.step > last or not plan.schedule.validates(last) or metrics.validated(plan.folder, last)


def choose_checkpoint(
    plan: Plan, attempt: Path, rank: int, world: int, say: Callable[[str], None]
) -> Checkpoint | None:
    """The newest whole checkpoint of the run, or None to start from the beginning.

    Rank 0 first removes what killed starts left half written. Then every rank reads its share of the candidate's
    files back and compares hashes; a damaged one is named, moved to checkpoints/damaged and the one before it tried.
    Ranks agree through files in `attempt`, since no process group exists yet. Raises TimeoutError when one of them
    does not answer within an hour, Failure when the disk doesn't answer: nothing is set aside for that.
    """
    if rank == 0:
        return _lead(plan, attempt, world, say)
    return _follow(plan, attempt, rank, world)


def _lead(plan: Plan, attempt: Path, world: int, say: Callable[[str], None]) -> Checkpoint | None:
    folder = plan.folder / "checkpoints"
    notes = clean_leftovers(folder)
    for line in notes:
        say(line)
    chosen: Checkpoint | None = None
    for number, candidate in enumerate(reversed(list_checkpoints(folder))):
        with _reading(candidate):
            problem = damage_by_size(candidate) or _read_back(candidate, attempt, number, world, say)
        if problem is None:
            chosen = candidate
            break
        place = set_aside(candidate)
        notes.append(f"checkpoint {candidate.path.name} is not used: {problem}; it lies in {place}")
        say(notes[-1])
    if chosen is None:
        chosen = _parent(plan, attempt, world, say)
    write_json(
        attempt / DECISION,
        {"path": str(chosen.path) if chosen else None, "step": chosen.step if chosen else 0, "notes": notes},
    )
    return chosen


def _parent(plan: Plan, attempt: Path, world: int, say: Callable[[str], None]) -> Checkpoint | None:
    """The checkpoint of --decay-from, read back too; another run's, so that it is never moved. Raises Failure."""
    parent = parent_of(plan.settings)
    if parent is None:
        return None
    with _reading(parent):
        problem = damage_by_size(parent) or _read_back(parent, attempt, PARENT, world, say)
    if problem:
        raise Failure(f"--decay-from {parent.path}: {problem}; give another checkpoint")
    return parent


@contextlib.contextmanager
def _reading(candidate: Checkpoint) -> Iterator[None]:
    """An evicted client of a file system, or missing rights, is no damage."""
    try:
        yield
    except OSError as error:
        raise Failure(
            f"checkpoint {candidate.path}: {error.filename or 'a file'} can't be read: {error.strerror}; nothing was moved. "
            "Run the same command again when the disk responds, or move that folder away to continue from the one before it"
        ) from error


def _read_back(candidate: Checkpoint, attempt: Path, number: int, world: int, say: Callable[[str], None]) -> str | None:
    """What is wrong with the content of a candidate, or None; says how long reading took, or why it wasn't read."""
    size = sum(int(entry["bytes"]) for entry in candidate.manifest()["files"].values())
    if size / (READ_SPEED * world) > READ_LIMIT:
        say(
            f"checkpoint {candidate.path.name}: sizes checked; reading {human_bytes(size)} back would take over"
            f" {READ_LIMIT:.0f} s"
        )
        return None
    began = time.monotonic()
    write_json(attempt / f"candidate{number}.json", {"path": str(candidate.path), "step": candidate.step})
    problem = damage_of(candidate, 0, world)
    for other in range(1, world):
        answer = _wait_for(attempt / f"candidate{number}.rank{other}.json", f"rank {other}")
        problem = problem or answer["problem"]
    if problem is None:
        say(
            f"checkpoint {candidate.path.name}: {human_bytes(size)} read back and correct,"
            f" {time.monotonic() - began:.1f} s"
        )
    return problem


def _follow(plan: Plan, attempt: Path, rank: int, world: int) -> Checkpoint | None:
    decision = attempt / DECISION
    end = time.monotonic() + WAIT_SECONDS
    answered: set[str] = set()
    while not decision.exists():
        for path in attempt.glob("candidate*.json"):
            if path.name.count(".") == 1 and path.name not in answered:
                asked = json.loads(path.read_text(encoding="utf-8"))
                candidate = Checkpoint(Path(asked["path"]), asked["step"])
                with _reading(candidate):
                    problem = damage_of(candidate, rank, world)
                write_json(path.with_name(f"{path.stem}.rank{rank}.json"), {"problem": problem})
                answered.add(path.name)
        if time.monotonic() > end:
            raise TimeoutError(f"rank 0 wrote no {decision} within {WAIT_SECONDS:.0f} s; see rank0.log beside it")
        time.sleep(0.05)
    read = json.loads(decision.read_text(encoding="utf-8"))
    return Checkpoint(Path(read["path"]), read["step"]) if read["path"] else None


def _wait_for(path: Path, who: str) -> Any:
    end = time.monotonic() + WAIT_SECONDS
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"{who} wrote no {path} within {WAIT_SECONDS:.0f} s; see its log beside it")
        time.sleep(0.05)
    return json.loads(path.read_text(encoding="utf-8"))


def identity_for(plan: Plan, attempt: Path) -> dict[str, Any]:
    """The identity that the launcher worked out; where there was no launcher, worked out and compared now (Refusal)."""
    path = attempt / IDENTITY
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return check_changes(plan)[0]
