"""Times of several functions in turn in one process, and the file of what was measured."""

import argparse
import datetime
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

RESULTS = Path(__file__).parent / "results"


def median_seconds(calls: Mapping[str, Callable[[], Any]], repeats: int, warmup: int = 2) -> dict[str, float]:
    """Median wall time of each call.

    One after the other in every round: what else the machine does meanwhile meets all of them.

    Args:
      calls: by name; each returns the arrays to wait for.
      repeats: rounds that are timed.
      warmup: rounds before them, compilation included.
    """
    times = {name: [] for name in calls}
    for index in range(warmup + repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            if index >= warmup:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def make_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Flags of every benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}", description=description)
    parser.add_argument("--repeats", type=int, default=15, help="rounds that are timed")
    parser.add_argument("--hidden-sizes", type=int, nargs="+", default=[4, 32], help="of its network")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/NAME-DATE.json")
    return parser


def finish(module: str, arguments: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Prints the rows, without the lists in them, and writes them, with the machine and the versions."""
    now = datetime.datetime.now(datetime.UTC)
    path = arguments.out or RESULTS / f"{module}-{now:%Y%m%d-%H%M%S}.json"
    record = {
        "date": now.isoformat(timespec="seconds"),
        "benchmark": module,
        "cpu": cpu_model(),
        "devices": [f"{device.platform} {device.device_kind}" for device in jax.devices()],
        "jax": jax.__version__,
        "repeats": arguments.repeats,
        "rows": rows,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        cells = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
        print("  ".join(f"{key} {_short(value)}" for key, value in cells.items()))  # noqa: T201
    print(path)  # noqa: T201


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()
