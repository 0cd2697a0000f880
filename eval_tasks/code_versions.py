"""Which code an optimizer of others is: the version of its package, or a digest of its files."""

import ast
import hashlib
import importlib
import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

_OURS = ("mulo", "eval_tasks", "meta_train")
"""Not followed: every run has a digest of our code."""


def code_version(module: str) -> dict[str, str]:
    """What tells the code of a module that can be imported from other code of that name.

    Of an installed package it is the version. Of other files, and of packages installed as editable, it is
    a digest of the module and of all that it imports from the folder that it is in: of other modules and
    packages there, however they are nested, but not of what is read or imported by a name made up at run
    time.

    Args:
      module: its dotted name.

    Returns:
      `version` or `digest`; nothing for a module without a file.

    >>> list(code_version("optax")), list(code_version("math"))
    (['version'], [])
    """
    try:
        file = inspect.getsourcefile(importlib.import_module(module))
    except TypeError:  # built into Python
        return {}
    if file is None:
        return {}
    path, top = Path(file), module.split(".")[0]
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    if is_installed:
        try:
            return {"version": importlib.metadata.version(top)}
        except importlib.metadata.PackageNotFoundError:
            pass  # a distribution of another name
    depth = module.count(".") + (path.name == "__init__.py")
    folder = path.parents[depth]
    digest = hashlib.sha256()

    def follows(name: str) -> bool:
        first = name.split(".")[0]
        return first == top if is_installed else first not in _OURS

    for name, content in sorted(imported_sources(folder, module, follows).items()):
        digest.update(f"{name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return {"digest": digest.hexdigest()[:16]}


def imported_sources(folder: Path, module: str, follows: Callable[[str], bool]) -> dict[str, bytes]:
    """A module of a folder and all that it imports from there, by name. follows: name -> whether to."""
    found: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if not name or name in found or not follows(name) or (path := _path_of(folder, name)) is None:
            continue
        found[name] = path.read_bytes()
        waiting += _imported(found[name], name if path.name == "__init__.py" else name.rpartition(".")[0])
        waiting.append(name.rpartition(".")[0])  # a package is imported before its modules
    return found


def _path_of(folder: Path, name: str) -> Path | None:
    stem = folder.joinpath(*name.split("."))
    paths = (stem / "__init__.py", stem.with_suffix(".py"))
    return next((path for path in paths if path.is_file()), None)


def _imported(content: bytes, package: str) -> Iterator[str]:
    """Names of modules, and of what may be one, in the import statements of a module in `package`."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: package.count(".") + 2 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)
