"""Workers: efficiency against the local executor, the price of snapshots, what the driver itself needs."""

import argparse
import contextlib
import dataclasses
import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from meta_train.config import MetaTrainConfig
from meta_train.executors.clusters import open_cluster
from meta_train.executors.interface import Answered, Event, Ready, Started
from meta_train.executors.options import WorkerOptions

CONFIG = MetaTrainConfig(
    tasks=("mlp-w32-d2_digits",),
    batch_size=128,
    hidden_size=8,
    truncation_length=50,
    min_horizon=100,
    max_horizon=1000,
    num_pairs=32,
    pairs_per_slot=4,
    meta_steps=10_000,
)
WORK_SECONDS = 1.0
"""Of a simulated truncation, where a percentage is given."""


class SleepingPool:
    """Workers that answer at once what they are made to answer: the driver's work is all that is left.

    See `meta_train.executors.interface.WorkerPool`. Nothing is sent anywhere: sending is not measured.
    """

    def __init__(self, gradient: Any, statistics_: Any, state: Any):
        """Every answer is the same."""
        self._gradient, self._statistics, self._state = gradient, statistics_, state
        self._events: list[Event] = []

    def start(self, worker_id: int, place: int) -> None:
        """See `WorkerPool`."""
        from meta_train.executors.messages import Facts

        del place
        facts = Facts(worker_id, "nowhere", "none", {}, 0.0)
        self._events += [Started(worker_id), Ready(worker_id, facts)]

    def submit(self, worker_id: int, request: Any) -> None:
        """See `WorkerPool`."""
        from meta_train.executors.messages import Answer, SlotAnswer, SlotResult

        result = SlotResult(self._gradient, self._statistics, 2)
        slots = {
            order.slot_index: SlotAnswer(result, self._state if order.return_state else None, WORK_SECONDS, 1)
            for order in request.orders
        }
        self._events.append(Answered(worker_id, Answer(request.call_id, request.meta_step, slots)))

    def poll(self, timeout: float) -> list[Event]:
        """See `WorkerPool`."""
        del timeout
        events, self._events = self._events, []
        return events

    def end(self, worker_id: int) -> None:
        """See `WorkerPool`."""

    def close(self) -> None:
        """See `WorkerPool`."""


def driver_row(num_slots: int, num_workers: int, num_meta_steps: int) -> dict[str, Any]:
    """The driver's own time for one meta-step: requests, answers, sum, update, record."""
    import jax
    import numpy as np

    from meta_train.executors.distributed import DistributedExecutor
    from meta_train.meta_optimizer import make_meta_optimizer
    from meta_train.meta_update import make_meta_update
    from meta_train.programs import addressed_key, build_optimizer, build_programs, slot_shapes
    from meta_train.records import make_record
    from meta_train.slot import SlotStatistics

    config = dataclasses.replace(CONFIG, num_pairs=num_slots * CONFIG.pairs_per_slot)
    programs = build_programs(config)
    theta = build_optimizer(config).init_theta(addressed_key(0, "theta"))
    shapes = slot_shapes(config, programs)
    (slot_state,) = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), list(shapes.values()))
    nothing = SlotStatistics(*[np.float32(0)] * len(SlotStatistics._fields))
    pool = SleepingPool(jax.tree.map(np.asarray, theta), nothing, slot_state)
    update, state = make_meta_update(config), make_meta_optimizer(config).init(theta)
    options = WorkerOptions(workers=num_workers)
    seconds, in_executor = [], []
    with DistributedExecutor(config, pool, options, say=lambda _: None, state_shapes=shapes) as executor:
        for meta_step in range(num_meta_steps):
            began = time.perf_counter()
            results = executor.advance(theta, meta_step)
            advanced = time.perf_counter()
            theta, state, report = update(theta, state, [r.gradient for r in results])
            record = make_record(config, meta_step, results, report, 1.0) | executor.report()
            assert np.isfinite(record["gradient_norm"])
            seconds.append(time.perf_counter() - began)
            in_executor.append(advanced - began)
    last = num_meta_steps // 2
    total = statistics.median(seconds[last:])
    return {
        "kind": "driver",
        "slots": num_slots,
        "workers": num_workers,
        "milliseconds": 1e3 * total,
        "executor_milliseconds": 1e3 * statistics.median(in_executor[last:]),
        "first_seconds": seconds[0],
        "share_of_1_s_truncations": total / (total + WORK_SECONDS * num_slots / num_workers),
    }


def efficiency_rows(num_meta_steps: int) -> list[dict[str, Any]]:
    """Inner steps per second: of this process, of this process with one thread, of 1 and 2 Ray workers."""
    rows = []
    with open_cluster(WorkerOptions(workers=1)) as cluster:
        import jax

        from meta_train.executors.distributed import DistributedExecutor
        from meta_train.executors.local import LocalExecutor
        from meta_train.meta_update import make_meta_update
        from meta_train.programs import build_programs, slot_shapes

        programs, update = build_programs(CONFIG), make_meta_update(CONFIG)
        rows.append({"kind": "local"} | _run(LocalExecutor(CONFIG, programs), update, num_meta_steps))
        shapes = slot_shapes(CONFIG, programs)
        bytes_ = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
        for workers, interval in ((1, 20), (2, 20), (2, 1), (2, 5), (2, 10**6)):
            assert cluster is not None
            options = WorkerOptions(workers=workers, snapshot_interval=interval)
            with tempfile.TemporaryDirectory() as folder:
                pool = cluster.make_pool(CONFIG, Path(folder))
                executor = DistributedExecutor(CONFIG, pool, options, say=lambda _: None, state_shapes=shapes)
                with executor:
                    row = _run(executor, update, num_meta_steps)
            rows.append({"kind": "ray", "workers": workers, "snapshot_interval": interval} | row)
            rows[-1] |= {"slot_state_bytes": bytes_}
        rows.append(_snapshot_row(cluster, update, shapes, num_meta_steps // 4))
    return rows


def _snapshot_row(cluster: Any, update: Any, shapes: Any, num_blocks: int) -> dict[str, Any]:
    """The price of snapshots at the default interval: two executors, in turn, a whole interval at a time."""
    from meta_train.executors.distributed import DistributedExecutor

    block = WorkerOptions(workers=2).snapshot_interval
    seconds: dict[int, list[float]] = {block: [], 10**6: []}
    with contextlib.ExitStack() as stack:
        executors = {}
        for interval in seconds:
            options = WorkerOptions(workers=2, snapshot_interval=interval)
            pool = cluster.make_pool(CONFIG, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            executor = DistributedExecutor(CONFIG, pool, options, say=lambda _: None, state_shapes=shapes)
            executors[interval] = _Training(stack.enter_context(executor), update)
        for _ in range(num_blocks + 1):
            for interval, training in executors.items():
                began = time.perf_counter()
                training.take_meta_steps(block)
                seconds[interval].append(time.perf_counter() - began)
    # The first block compiles.
    ratios = [with_ / without for with_, without in zip(*seconds.values(), strict=True)][1:]
    return {
        "kind": "snapshots",
        "snapshot_interval": block,
        "blocks": num_blocks,
        "seconds_over_none": statistics.median(ratios),
        "standard_error": statistics.stdev(ratios) / len(ratios) ** 0.5,
    }


class _Training:
    """Meta-steps on one executor, gone on with."""

    def __init__(self, executor: Any, update: Any):
        """Begins at meta-step 0."""
        from meta_train.meta_optimizer import make_meta_optimizer
        from meta_train.programs import addressed_key, build_optimizer

        self.executor, self._update, self._meta_step = executor, update, 0
        self.theta = build_optimizer(CONFIG).init_theta(addressed_key(0, "theta"))
        self._state = make_meta_optimizer(CONFIG).init(self.theta)

    def take_meta_steps(self, number: int) -> list[float]:
        """Seconds of each."""
        seconds = []
        for _ in range(number):
            began = time.perf_counter()
            results = self.executor.advance(self.theta, self._meta_step)
            gradients = [result.gradient for result in results]
            self.theta, self._state, report = self._update(self.theta, self._state, gradients)
            report.gradient_norm.block_until_ready()
            seconds.append(time.perf_counter() - began)
            self._meta_step += 1
        return seconds


def _run(executor: Any, update: Any, num_meta_steps: int) -> dict[str, Any]:
    from mulo.checkpoint_file import theta_digest

    training = _Training(executor, update)
    seconds = training.take_meta_steps(num_meta_steps)
    report = executor.report()
    inner_steps = len(CONFIG.slots()) * 2 * CONFIG.pairs_per_slot * CONFIG.truncation_length
    timed = statistics.median(seconds[num_meta_steps // 4 :])
    row = {
        "seconds": timed,
        "inner_steps_per_second": inner_steps / timed,
        "digest": theta_digest(training.theta)[:12],
    }
    row |= {key: report[key] for key in ("driver_seconds",) if key in report}
    return row


def main() -> None:
    """Prints the rows and writes them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--meta-steps", type=int, default=40, help="of each row of efficiency")
    parser.add_argument("--slots", type=int, nargs="+", default=[8, 64, 512], help="of the simulated driver")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/NAME-DATE.json")
    parser.add_argument("--part", choices=("all", "driver", "ray"), default="all", help="what to measure")
    arguments = parser.parse_args()
    rows = efficiency_rows(arguments.meta_steps) if arguments.part != "driver" else []
    if arguments.part != "ray":
        rows += [
            driver_row(slots, workers, 30)
            for slots, workers in itertools.product(arguments.slots, (1, 8, 64, 512))
            if workers <= slots and (workers > 1 or slots == min(arguments.slots))
        ]
    from benchmarks.measure import finish

    arguments.repeats = arguments.meta_steps
    finish("scaling", arguments, rows)


if __name__ == "__main__":
    main()
