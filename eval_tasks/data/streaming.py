"""Sets larger than the device: arrays that stay in the host's memory or on disk, and are read inside jit.

The index of a batch is drawn on the device from the key, by the same code as for a set that lies there; only
the look-up is a callback to the host (`jax.pure_callback`). So a batch is the same bit for bit wherever the
set lies, under jit, scan and vmap; it costs a round trip to the host at each step. On two CPU cores, drawing
128 images of CIFAR-10 takes 2.4 ms from the host and 0.8 ms from the device; not yet measured on a GPU. A
pooled set is pooled anew at each draw.
"""

import os
from collections.abc import Callable
from typing import Any, Literal

import jax
import numpy as np

Placement = Literal["auto", "device", "host"]

DEVICE_SHARE = 0.5  # of the device's memory: a set above it stays on the host


@jax.tree_util.register_static
class HostArray:
    """Rows of an array on the host, as `array[index]` inside jit gives them. A pytree without leaves.

    A jitted function knows it by its identity and keeps it alive, so give the same object at every call.

    Args:
      read: integers [...] -> rows, uint8 [..., *row_shape]; pure, and of NumPy only.
      rows: [N], integers: which rows, in this order.
      row_shape: of one row.

    >>> import jax.numpy as jnp
    >>> array = HostArray(np.arange(10, 20, dtype=np.uint8).__getitem__, np.array([3, 1, 2]), ())
    >>> jax.jit(lambda array, index: array[index])(array, jnp.array([0, 0, 2])).tolist()
    [13, 13, 12]
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self, read: Callable[[np.ndarray], np.ndarray], rows: np.ndarray, row_shape: tuple[int, ...]
    ):
        self._read, self._rows = read, rows
        self.shape = (len(rows), *row_shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: jax.Array | slice) -> Any:
        """Rows at `index`, integers [...]; of a slice, a `HostArray`."""
        if isinstance(index, slice):
            return HostArray(self._read, self._rows[index], self.shape[1:])
        result = jax.ShapeDtypeStruct((*index.shape, *self.shape[1:]), self.dtype)
        return jax.pure_callback(self._look_up, result, index, vmap_method="expand_dims")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All rows, read."""
        del copy
        return self._read(self._rows).astype(dtype or self.dtype, copy=False)

    def _look_up(self, index: Any) -> np.ndarray:
        # Clipped as XLA clips a gather: no index can end the program.
        return self._read(self._rows[np.clip(np.asarray(index), 0, len(self) - 1)])


def stays_on_host(num_bytes: int, placement: Placement) -> bool:
    """Whether a set of `num_bytes` is left on the host: as asked, or where it is above `DEVICE_SHARE`."""
    if placement != "auto":
        return placement == "host"
    return num_bytes > DEVICE_SHARE * _device_bytes()


def _device_bytes() -> int:
    """Memory of the default device; on a CPU, which does not say, that of the machine."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return statistics.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
