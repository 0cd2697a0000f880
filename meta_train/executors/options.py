"""What is asked of workers. Nothing of it decides theta. Imports no JAX and no Ray."""

import dataclasses
import math

from eval_tasks.workers.options import ClusterOptions
from mulo.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorkerOptions(ClusterOptions):
    """How many workers, where, and how patient the driver is with them.

    Raises:
      InputError: a value that cannot be used.
    """

    worker_timeout: float = 60.0  # seconds without an answer; longer where calls take long
    snapshot_interval: int = 20  # meta-steps between two snapshots of a slot

    def __post_init__(self):
        """Refuses what cannot be meant."""
        super().__post_init__()
        if self.snapshot_interval < 1:
            raise InputError(f"--snapshot-interval is {self.snapshot_interval}; wanted at least 1.")
        if not (math.isfinite(self.worker_timeout) and self.worker_timeout > 0):
            raise InputError(
                f"--worker-timeout is {self.worker_timeout}; wanted a number of seconds above 0."
            )

    @property
    def start_timeout(self) -> float:
        """Seconds for reading data, compiling, and a first call whose duration is not known yet."""
        return max(600.0, 10 * self.worker_timeout)
