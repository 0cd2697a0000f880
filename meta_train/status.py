"""Where a run stands, read from its directory alone: for another terminal. Imports no JAX."""

import dataclasses
import json
import mmap
import statistics
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from meta_train.run_directory import RunDirectory
from mulo.errors import InputError

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
    records = _last_records(directory.metrics_path)
    recent = records[-_RECENT:]
    meta_step = recent[-1]["meta_step"] + 1 if recent else 0
    running = directory.is_locked()
    finished = directory.theta_path.exists() and not running
    # The median: a meta-step that compiles takes as long as hundreds of others.
    durations = [record["wall_seconds"] for record in recent if "wall_seconds" in record]
    seconds = statistics.median(durations) if durations else None
    checkpoint, age = _newest_checkpoint(directory)
    last = recent[-1] if recent else {}
    last_validated = _last_validated(directory.metrics_path)
    return RunStatus(
        path=str(path),
        state="running" if running else "finished" if finished else "stopped",
        meta_step=meta_step,
        meta_steps=config.meta_steps,
        seconds_left=None if seconds is None or finished else seconds * (config.meta_steps - meta_step),
        meta_loss=_mean(recent, "meta_loss"),
        task_losses={
            task: _mean([record.get("task_losses", {}) for record in recent], task) or 0.0
            for task in last.get("task_losses", {})
        },
        inner_steps_per_second=_mean(recent, "inner_steps_per_second"),
        gradient_norm=_mean(recent, "gradient_norm"),
        clipped_fraction=_mean(recent, "clipped_fraction"),
        nonfinite_fraction=_mean(recent, "nonfinite_fraction"),
        skipped=sum(bool(record.get("skipped")) for record in recent),
        checkpoint=checkpoint,
        checkpoint_seconds=age,
        last_score=last_validated.get("validation_score"),
        last_score_meta_step=last_validated["meta_step"] + 1 if last_validated else None,
        best_score=last.get("best_score"),
        best_meta_step=last.get("best_meta_step"),
        workers=_workers(recent),
        restarts=last.get("restarts", 0),
        replays=last.get("replays", 0),
        driver_fraction=_ratio(recent, "driver_seconds", "executor_seconds"),
    )


def _workers(recent: list[dict[str, Any]]) -> dict[str, WorkerStatus]:
    """Those of the last record."""
    fields = ("worker_inner_steps_per_second", "worker_busy_fraction")
    by_field = [[record.get(field, {}) for record in recent] for field in fields]
    return {
        place: WorkerStatus(
            slots=num_slots,
            inner_steps_per_second=_mean(by_field[0], place),
            busy_fraction=_mean(by_field[1], place),
        )
        for place, num_slots in (recent[-1].get("worker_slots", {}) if recent else {}).items()
    }


def _ratio(records: list[dict[str, Any]], name: str, of: str) -> float | None:
    part, whole = _mean(records, name), _mean(records, of)
    return part / whole if part is not None and whole else None


def _last_records(path: Path) -> list[dict[str, Any]]:
    """The records in the last part of the metrics file; a torn line is left out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            lines = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    whole = lines[1 if size > _TAIL_BYTES else 0 : -1]
    try:
        return [json.loads(line) for line in whole]
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}. --resume cuts it and goes on.") from error


def _last_validated(path: Path) -> dict[str, Any]:
    """The last whole record of a meta-step after which theta was validated; empty where there is none."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = content.rfind(b'"validation_score"', 0, content.rfind(b"\n") + 1)
            if found < 0:
                return {}
            return json.loads(content[content.rfind(b"\n", 0, found) + 1 : content.find(b"\n", found)])
    except (FileNotFoundError, ValueError):  # none yet, empty, or a damaged line
        return {}


def _mean(records: list[dict[str, Any]], name: str) -> float | None:
    values = [record[name] for record in records if record.get(name) is not None]
    return sum(values) / len(values) if values else None


def _newest_checkpoint(directory: RunDirectory) -> tuple[str | None, float | None]:
    for meta_step in directory.checkpoint_steps():
        path = directory.checkpoint_path(meta_step)
        try:
            return str(path), time.time() - path.stat().st_mtime
        except FileNotFoundError:  # removed in the meantime
            continue
    return None, None


def format_status(status: RunStatus) -> str:
    """A few lines for a terminal."""
    lines = [f"{status.path}: {status.state}, meta-step {status.meta_step} of {status.meta_steps}"]
    if status.seconds_left is not None:
        lines.append(f"  time left         {_duration(status.seconds_left)}")
    if status.meta_loss is not None:
        lines.append(f"  meta-loss         {status.meta_loss:.4f}")
        lines += [f"    {task:22} {loss:.4f}" for task, loss in status.task_losses.items()]
        lines.append(f"  inner steps/s     {status.inner_steps_per_second:,.0f}")
        norm = "none is finite" if status.gradient_norm is None else f"{status.gradient_norm:.3g}"
        lines.append(f"  gradient norm     {norm}")
        lines.append(f"  clipped losses    {status.clipped_fraction:.2%}")
        lines.append(f"    not finite      {status.nonfinite_fraction or 0.0:.2%}")
        lines.append(f"  skipped steps     {status.skipped}")
    lines += _worker_lines(status)
    if status.last_score is not None:
        lines.append(
            f"  last validation   {status.last_score:.4f} after meta-step {status.last_score_meta_step}"
        )
    if status.best_score is not None:
        lines.append(f"  best validation   {status.best_score:.4f} after meta-step {status.best_meta_step}")
    if status.checkpoint is None:
        lines.append("  last checkpoint   none yet")
    else:
        lines.append(f"  last checkpoint   {status.checkpoint}, {_duration(status.checkpoint_seconds)} ago")
    if status.state == "stopped":
        lines.append(f"  go on with        mulo-meta-train --resume {status.path}")
    return "\n".join(lines)


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


def _duration(seconds: float | None) -> str:
    minutes, seconds = divmod(round(seconds or 0.0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


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
