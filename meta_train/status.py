"""Where a run stands, read from its directory alone: for another terminal. Imports no JAX."""

import dataclasses
import mmap
import os
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from meta_train.display import TIMED_META_STEPS, duration
from meta_train.metrics import MAX_LINE_BYTES, Record, number_of, parse_record, table_of
from meta_train.run_directory import RunDirectory, how_to_resume
from mulo.printing import printable
from mulo.safe_files import open_file

_TAIL_BYTES = 2**18
_RECENT = 100  # meta-steps that means are taken over
_SECONDS_BETWEEN_LOOKS = 2.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunStatus:
    """Where a run stands; `None` is what is not known yet."""

    path: str
    state: str  # "running", "stopped" or "finished"
    meta_step: int  # meta-steps made
    meta_steps: int  # of the whole run
    seconds_left: float | None
    meta_loss: float | None  # mean over the last 100 meta-steps, as are the next five
    task_losses: dict[str, float]
    inner_steps_per_second: float | None
    gradient_norm: float | None  # those that are finite
    clipped_fraction: float | None  # of inner losses: clipped or not finite
    nonfinite_fraction: float | None  # of inner losses
    skipped: int  # of the last 100 meta-steps: those whose meta-gradient was not finite
    checkpoint: str | None  # the newest
    checkpoint_seconds: float | None  # since it was written
    last_score: float | None  # of the last validation
    last_score_meta_step: int | None
    best_score: float | None
    best_meta_step: int | None
    workers: dict[str, "WorkerStatus"]  # by place; empty where all is computed in one process
    restarts: int  # workers replaced, slots' truncations done again: by the process that runs now
    replays: int
    driver_fraction: float | None  # of the time: the driver's own work, when nobody is waited for
    damaged_lines: int  # of the last part of metrics.jsonl: what is no record of a meta-step


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerStatus:
    """One worker, over the last meta-steps."""

    slots: int
    inner_steps_per_second: float | None  # while it computes
    busy_fraction: float | None  # of the time: computing; the rest it waits


def read_status(path: Path) -> RunStatus:
    """Looks at the files of a run; whatever is going on with them.

    Raises:
      InputError: `path` is not a run.
    """
    directory, config = RunDirectory.open(path)
    records, num_damaged = _last_records(directory.metrics_path)
    recent = records[-_RECENT:]
    meta_step = recent[-1]["meta_step"] + 1 if recent else 0
    running = directory.is_locked()
    finished = os.path.lexists(directory.theta_path) and not running
    seconds = _meta_step_seconds(recent)
    checkpoint, age = _newest_checkpoint(directory)
    last = recent[-1] if recent else {}
    last_validated = _last_validated(directory.metrics_path)
    left = None if seconds is None or finished else seconds * max(0, config.meta_steps - meta_step)
    return RunStatus(
        path=str(path),
        state="running" if running else "finished" if finished else "stopped",
        meta_step=meta_step,
        meta_steps=config.meta_steps,
        seconds_left=left,
        meta_loss=_mean(recent, "meta_loss"),
        task_losses=_means(recent, "task_losses"),
        inner_steps_per_second=_mean(recent, "inner_steps_per_second"),
        gradient_norm=_mean(recent, "gradient_norm"),
        clipped_fraction=_mean(recent, "clipped_fraction"),
        nonfinite_fraction=_mean(recent, "nonfinite_fraction"),
        skipped=sum(bool(record.get("skipped")) for record in recent),
        checkpoint=checkpoint,
        checkpoint_seconds=age,
        last_score=number_of(last_validated, "validation_score"),
        last_score_meta_step=last_validated["meta_step"] + 1 if last_validated else None,
        best_score=number_of(last, "best_score"),
        best_meta_step=number_of(last, "best_meta_step"),
        workers=_workers(recent),
        restarts=number_of(last, "restarts") or 0,
        replays=number_of(last, "replays") or 0,
        driver_fraction=_ratio(recent, "driver_seconds", "executor_seconds"),
        damaged_lines=num_damaged,
    )


def _meta_step_seconds(records: list[Record]) -> float | None:
    """What a meta-step takes; `None` before that can be told.

    The first compiles. So does the first after each --resume, which takes as long as hundreds of others: a
    median passes over it.
    """
    durations = [number_of(record, "wall_seconds") for record in records if record["meta_step"] > 0]
    known = [seconds for seconds in durations if seconds is not None and seconds >= 0]
    return statistics.median(known) if len(known) >= TIMED_META_STEPS else None


def _workers(recent: list[Record]) -> dict[str, WorkerStatus]:
    """Those of the last record."""
    speeds, busy = (_means(recent, f"worker_{name}") for name in ("inner_steps_per_second", "busy_fraction"))
    slots = table_of(recent[-1], "worker_slots") if recent else {}
    return {
        place: WorkerStatus(
            slots=num_slots or 0, inner_steps_per_second=speeds.get(place), busy_fraction=busy.get(place)
        )
        for place, num_slots in slots.items()
    }


def _ratio(records: list[Record], name: str, of: str) -> float | None:
    part, whole = _mean(records, name), _mean(records, of)
    return part / whole if part is not None and whole else None


def _last_records(path: os.PathLike[str]) -> tuple[list[Record], int]:
    """The records in the last part of the metrics file, and how many other lines are between them.

    A torn last line, of which the rest is still to come, is left out.
    """
    try:
        with os.fdopen(open_file(path, os.O_RDONLY), "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read(_TAIL_BYTES).split(b"\n")
    except OSError:
        return [], 0
    whole = lines[1 if size > _TAIL_BYTES else 0 : -1]
    records = [record for line in whole if (record := parse_record(line)) is not None]
    return records, len(whole) - len(records)


def _last_validated(path: os.PathLike[str]) -> Record:
    """The last record of a meta-step after which theta was validated; empty where there is none."""
    try:
        with (
            os.fdopen(open_file(path, os.O_RDONLY), "rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            end = content.rfind(b"\n") + 1
            while (found := content.rfind(b'"validation_score"', 0, end)) >= 0:
                start = content.rfind(b"\n", 0, found) + 1
                line = content[start : min(content.find(b"\n", found), start + MAX_LINE_BYTES + 1)]
                record = parse_record(line)
                if record is not None and number_of(record, "validation_score") is not None:
                    return record
                end = start
    except (OSError, ValueError):  # none yet; empty
        pass
    return {}


def _mean(records: list[Record], name: str) -> float | None:
    values = [value for record in records if (value := number_of(record, name)) is not None]
    return sum(values) / len(values) if values else None


def _means(records: list[Record], name: str) -> dict[str, float]:
    """The mean of each entry of a table that the last record has, and that is known."""
    tables = [table_of(record, name) for record in records]
    means = {key: _mean(tables, key) for key in (tables[-1] if tables else ())}
    return {key: mean for key, mean in means.items() if mean is not None}


def _newest_checkpoint(directory: RunDirectory) -> tuple[str | None, float | None]:
    for meta_step in directory.checkpoint_steps():
        path = directory.checkpoint_path(meta_step)
        try:
            return str(path), time.time() - Path(path).stat().st_mtime
        except OSError:  # removed in the meantime
            continue
    return None, None


def format_status(status: RunStatus) -> str:
    """A few lines for a terminal; names are those of files, and are made printable."""
    lines = [f"{status.path}: {status.state}, meta-step {status.meta_step} of {status.meta_steps}"]
    if status.seconds_left is not None:
        lines.append(f"  time left         {duration(status.seconds_left)}")
    elif status.state == "running":
        lines.append("  time left         not known yet: the first meta-steps compile")
    if status.meta_loss is not None:
        lines.append(f"  meta-loss         {status.meta_loss:.4f}")
        lines += [f"    {task:22} {loss:.4f}" for task, loss in status.task_losses.items()]
        lines.append(f"  inner steps/s     {status.inner_steps_per_second or 0.0:,.0f}")
        norm = "none is finite" if status.gradient_norm is None else f"{status.gradient_norm:.3g}"
        lines.append(f"  gradient norm     {norm}")
        lines.append(f"  clipped losses    {status.clipped_fraction or 0.0:.2%}")
        lines.append(f"    not finite      {status.nonfinite_fraction or 0.0:.2%}")
        lines.append(f"  skipped steps     {status.skipped}")
    lines += _worker_lines(status)
    if status.last_score is not None:
        lines.append(
            f"  last validation   {status.last_score:.4f} after meta-step {status.last_score_meta_step}"
        )
    if status.best_score is not None:
        lines.append(f"  best validation   {status.best_score:.4f} after meta-step {status.best_meta_step}")
    lines += _file_lines(status)
    return "\n".join(map(printable, lines))


def _file_lines(status: RunStatus) -> list[str]:
    lines = ["  last checkpoint   none yet"]
    if status.checkpoint is not None:
        lines = [f"  last checkpoint   {status.checkpoint}, {duration(status.checkpoint_seconds or 0.0)} ago"]
    if status.damaged_lines:
        lines.append(f"  damaged           {status.damaged_lines} lines of metrics.jsonl, passed over")
    if status.state == "stopped":
        lines.append(f"  go on with        {how_to_resume(Path(status.path))}")
    return lines


def _worker_lines(status: RunStatus) -> list[str]:
    if not status.workers:
        return []
    lines = [f"  workers           {len(status.workers)}"]
    for place, worker in status.workers.items():
        speed = (
            "none yet" if worker.inner_steps_per_second is None else f"{worker.inner_steps_per_second:,.0f}"
        )
        lines.append(
            f"    worker {place:15} {worker.slots} slots, {speed} inner steps/s, computing "
            f"{worker.busy_fraction or 0:.0%} and waiting {1 - (worker.busy_fraction or 0):.0%} of the time"
        )
    lines.append(f"  restarts          {status.restarts}")
    lines.append(f"  replays           {status.replays} truncations of a slot done again")
    lines.append(f"  driver busy       {status.driver_fraction or 0:.0%} of the time")
    return lines


def watch(path: Path, console: Console | None = None) -> None:
    """Shows the status again and again, until the run is not running any more or ctrl-C."""
    console = console or Console(highlight=False, soft_wrap=True)
    status = read_status(path)
    try:
        if not console.is_terminal:
            while status.state == "running":
                console.print(format_status(status), markup=False)
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                status = read_status(path)
            console.print(format_status(status), markup=False)
            return
        with Live(console=console, auto_refresh=False) as live:
            while True:
                live.update(Text(format_status(status)), refresh=True)
                if status.state != "running":
                    return
                time.sleep(_SECONDS_BETWEEN_LOOKS)
                status = read_status(path)
    except KeyboardInterrupt:
        return
