"""What computes a run: versions of packages, and a digest of the code of ours that decides its result."""

import ast
import functools
import hashlib
import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from eval_tasks.code_versions import imported_sources

_PACKAGES = ("mulo", "jax", "jaxlib", "optax", "dm-haiku", "flax", "numpy")
_FOLDERS = ("mulo/mup", "eval_tasks/models", "eval_tasks/data")  # these decide every run
_FILES = (
    "eval_tasks/baselines.py",
    "eval_tasks/contenders.py",
    "eval_tasks/execution.py",
    "eval_tasks/objectives.py",
    "eval_tasks/task.py",
    "eval_tasks/training.py",
    "mulo/optimizers/schedules.py",
)
_LEARNED = "mulo.optimizers."
_TABLES = "mulo.optimizers.descriptions"  # of what there is; decides no number


@functools.cache
def software_versions(optimizer_module: str = "") -> Mapping[str, str]:
    """The versions, and as "code" the digest: with others a run may give other numbers.

    Args:
      optimizer_module: of a learned optimizer, where its class is. It and what it imports from
        `mulo.optimizers` are part of the digest; what other optimizers are made of is not.
    """
    found = {"code": _code_digest(optimizer_module)}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a checkout that is not installed
            continue
    return found


def _decides(name: str) -> bool:
    return name.startswith(_LEARNED) and name != _TABLES


def _code_digest(optimizer_module: str) -> str:
    """Of the modules that decide a run's result, without comments, docstrings and layout."""
    root = Path(__file__).parent.parent
    files = [file for folder in _FOLDERS for file in sorted((root / folder).glob("*.py"))]
    files += [root / name for name in _FILES]
    contents = [file.read_bytes() for file in files]
    learned = imported_sources(root, optimizer_module, _decides)
    contents += [content for _, content in sorted(learned.items())]
    digest = hashlib.sha256()
    for content in contents:
        tree = ast.parse(content)
        for node in ast.walk(tree):
            match node:  # docstrings, and strings behind constants
                case ast.Expr(value=ast.Constant(value=str()) as text):
                    text.value = ""
        digest.update(ast.dump(tree).encode())
    return digest.hexdigest()[:16]
