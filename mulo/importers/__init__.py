"""Released theta files of other implementations -> checkpoints of mulo."""

# What needs JAX is imported on first use (PEP 562): the command line reads the table to answer a wrong flag.
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mulo.importers.layouts import from_reference as from_reference
    from mulo.importers.released import import_theta as import_theta

KINDS: Mapping[str, str] = {
    "velo": "VeLO, as google/learned_optimization writes it",
    "velo_s": "Celo's VeLO of equal budget, velo-s",
    "muvelo": "VeLO under muP, in the same form",
    "celo": "Celo's theta.state",
    "celo_adam": "Celo-Adam's theta.state",
    "celo2": "Celo2's per-parameter network",
    "celo2_base": "the same as Celo2-base: no Newton-Schulz, no Adam",
    "small_fc": "small_fc_lopt, as google/learned_optimization writes it",
    "mulo": "the muLO release for PyTorch (safetensors)",
    "mulo_jax": "small_fc_lopt under muP, as muLO's own repository writes it",
}
"""Kinds of released theta, in words; `mulo.importers.layouts.LAYOUTS` has what each file holds."""

_MODULES = {
    "from_reference": "mulo.importers.layouts",
    "import_theta": "mulo.importers.released",
}
__all__ = ["KINDS", *sorted(_MODULES)]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'mulo.importers' has no attribute {name!r}")
