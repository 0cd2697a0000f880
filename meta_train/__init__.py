"""Meta-training: theta is trained on many short inner runs."""

# Imported on first use, as in `mulo/__init__.py`: the command line answers wrong flags without JAX.
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meta_train.config import MetaTrainConfig as MetaTrainConfig
    from meta_train.driver import resume as resume
    from meta_train.driver import run as run
    from meta_train.presets import PRESETS as PRESETS

_MODULES = {
    "PRESETS": "meta_train.presets",
    "MetaTrainConfig": "meta_train.config",
    "resume": "meta_train.driver",
    "run": "meta_train.driver",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'meta_train' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
