"""Opens what workers run on, if they are asked for. Ray is imported here only then; JAX is not.

Ray starts processes by forking this one, which JAX's threads make unsafe. So Ray comes first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mulo.errors import InputError

if TYPE_CHECKING:
    from meta_train.config import MetaTrainConfig
    from meta_train.executors.options import WorkerOptions
    from meta_train.executors.pool import WorkerPool


class Cluster(Protocol):
    """What workers run on."""

    def make_pool(self, config: MetaTrainConfig, log_folder: Path | None) -> WorkerPool:
        """A pool for one run, whose workers write their logs into `log_folder`, where they can."""
        ...


@contextlib.contextmanager
def open_cluster(options: WorkerOptions | None) -> Iterator[Cluster | None]:
    """A cluster for one run; `None` where no workers are asked for.

    Raises:
      InputError: Ray is not installed, or the cluster is not what was asked for.
    """
    if options is None:
        yield None
        return
    try:
        from meta_train.executors import ray_actors
    except ImportError as error:
        raise InputError(
            f"Workers need Ray, which cannot be imported ({error}): pip install 'mulo[ray]'."
        ) from error
    with ray_actors.open_cluster(options) as cluster:
        yield cluster
