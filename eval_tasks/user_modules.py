"""Modules of the user's, which lie in the current folder; nothing else is imported from there. No JAX."""

import importlib
import importlib.util
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType


def import_user_module(name: str) -> ModuleType:
    """A module that is installed, or else that the current folder has.

    The current folder is never on the path: a file there that is called like an installed module hides
    nothing, and other modules find nothing there. A package there has its own submodules.

    Raises:
      ImportError: it is in neither; and whatever the module itself raises.
    """
    top = name.partition(".")[0]
    if top not in sys.modules and importlib.util.find_spec(top) is None:
        importlib.invalidate_caches()  # the file may be as young as this process
        spec = PathFinder.find_spec(top, [str(Path.cwd())])
        if spec is not None and spec.loader is not None:
            module = sys.modules[top] = importlib.util.module_from_spec(spec)
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[top]
                raise
    return importlib.import_module(name)
