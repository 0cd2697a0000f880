"""Learned optimizers for JAX: apply one, save and load one, and use them under muP.

>>> import mulo
>>> tx = mulo.optimizer("mulo-quick", mup=mulo.mup.STANDARD)   # an optax transform
"""

# The public names are imported on first use (PEP 562): the command lines read `mulo.names` and
# `mulo.errors` to answer a wrong flag, and must not wait for JAX to do so.
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mulo import mup as mup
    from mulo._stateful import OptimizerState as OptimizerState
    from mulo._stateful import apply as apply
    from mulo._stateful import init as init
    from mulo._transform import optimizer as optimizer
    from mulo.checkpoint_file import Checkpoint as Checkpoint
    from mulo.checkpoint_file import save as save
    from mulo.errors import CheckpointError as CheckpointError
    from mulo.errors import InputError as InputError
    from mulo.loading import load as load
    from mulo.optimizers.celo import Celo as Celo
    from mulo.optimizers.celo import CeloAdam as CeloAdam
    from mulo.optimizers.celo2 import Celo2 as Celo2
    from mulo.optimizers.direction_fc import DirectionFC as DirectionFC
    from mulo.optimizers.small_fc import SmallFC as SmallFC
    from mulo.optimizers.velo import MuVeLO as MuVeLO
    from mulo.optimizers.velo import VeLO as VeLO

_MODULES = {
    "Celo": "mulo.optimizers.celo",
    "Celo2": "mulo.optimizers.celo2",
    "CeloAdam": "mulo.optimizers.celo",
    "Checkpoint": "mulo.checkpoint_file",
    "CheckpointError": "mulo.errors",
    "DirectionFC": "mulo.optimizers.direction_fc",
    "InputError": "mulo.errors",
    "MuVeLO": "mulo.optimizers.velo",
    "OptimizerState": "mulo._stateful",
    "SmallFC": "mulo.optimizers.small_fc",
    "VeLO": "mulo.optimizers.velo",
    "apply": "mulo._stateful",
    "init": "mulo._stateful",
    "load": "mulo.loading",
    "optimizer": "mulo._transform",
    "save": "mulo.checkpoint_file",
}
__all__ = [*sorted(_MODULES), "mup"]


def __getattr__(name: str) -> object:
    if name == "mup":
        return importlib.import_module("mulo.mup")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'mulo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
