"""Opens what workers run on, if they are asked for. Ray is imported here only then; JAX is not.

Ray starts processes by forking this one, which JAX's threads make unsafe. So Ray comes first.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING

from mulo.errors import InputError
from mulo.extras import how_to_install

if TYPE_CHECKING:
    from eval_tasks.workers.options import ClusterOptions
    from eval_tasks.workers.ray_clusters import RayCluster


@contextlib.contextmanager
def open_cluster(options: ClusterOptions | None) -> Iterator[RayCluster | None]:
    """A cluster for one run; `None` where no workers are asked for.

    Raises:
      InputError: Ray is not installed, or the cluster is not what was asked for.
    """
    if options is None:
        yield None
        return
    with import_module("eval_tasks.workers.ray_clusters").open_cluster(options) as cluster:
        yield cluster


def import_module(name: str) -> ModuleType:
    """A module that imports Ray.

    Raises:
      InputError: Ray is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"Workers need Ray, which cannot be imported ({error}): {how_to_install('ray')}."
        ) from error
