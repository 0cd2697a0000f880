"""Opens what workers run on, if they are asked for; see `eval_tasks.workers.clusters`. Imports no JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

from eval_tasks.workers.clusters import import_module

if TYPE_CHECKING:
    import os

    from meta_train.config import MetaTrainConfig
    from meta_train.executors.interface import WorkerPool
    from meta_train.executors.options import WorkerOptions


class Cluster(Protocol):
    """What workers run on."""

    def make_pool(self, config: MetaTrainConfig, log_folder: os.PathLike[str] | None) -> WorkerPool:
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
    actors = import_module("meta_train.executors.ray_actors")
    clusters = import_module("eval_tasks.workers.ray_clusters")
    with clusters.open_cluster(options, actors.WorkerCluster) as cluster:
        yield cluster
