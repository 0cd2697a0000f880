"""What is asked of a cluster. Imports no JAX and no Ray."""

import dataclasses

from mulo.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """How many workers, and where.

    Raises:
      InputError: a value that cannot be used.
    """

    workers: int = 0  # on CPUs, one thread each; 0 = they are counted by `gpus`
    gpus: int = 0
    workers_per_gpu: int = 1
    address: str | None = None  # of a Ray cluster that is there; None = one is started on this machine
    min_workers: int | None = None  # None = all at the beginning, one afterwards
    insecure: bool = False  # allow Ray without authentication

    def __post_init__(self):
        """Refuses what cannot be meant."""
        if self.workers and self.gpus:
            raise InputError("--workers and --gpus were both given; --workers is for CPUs. Give one of them.")
        if self.gpus == 0 and self.workers_per_gpu != 1:
            raise InputError("--workers-per-gpu was given without --gpus.")
        for name, low in (("workers", 0), ("gpus", 0), ("workers_per_gpu", 1)):
            if getattr(self, name) < low:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} is {getattr(self, name)}; wanted at least {max(low, 1)}.")
        if not self.num_workers:
            raise InputError("No workers are asked for; wanted --gpus N or --workers N with N of at least 1.")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise InputError(
                f"--min-workers is {self.min_workers}; wanted 1 to {self.num_workers}, the workers asked for."
            )

    @property
    def num_workers(self) -> int:
        """How many are wanted."""
        return self.workers or self.gpus * self.workers_per_gpu
