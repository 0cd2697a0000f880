"""The source files of the project, parsed."""

import ast
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("mulo", "eval_tasks", "meta_train", "checkpoints", "benchmarks")


@dataclasses.dataclass(frozen=True)
class Source:
    """One file."""

    path: Path
    text: str

    @property
    def name(self) -> str:
        """Its path in the project."""
        return self.path.relative_to(ROOT).as_posix()

    @property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    def imports(self, *, for_types: bool = True) -> Iterator[str]:
        """The full names of all that is imported anywhere in it: `mulo.mup.infer`.

        Args:
          for_types: with what is imported under `if TYPE_CHECKING:` too.
        """
        nodes = list(ast.walk(self.tree))
        hidden = {
            inner
            for node in nodes
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not for_types
            for inner in node.body
        }
        for node in nodes:
            if node in hidden:
                continue
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.name} has a relative import"
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def foreign_imports(self) -> set[str]:
        """Top-level names that are imported and not of the standard library."""
        return {name.split(".")[0] for name in self.imports()} - sys.stdlib_module_names


def sources(*packages: str) -> list[Source]:
    """The files of these top-level folders that exist."""
    paths = sorted(path for package in packages for path in (ROOT / package).rglob("*.py"))
    return [Source(path, path.read_text(encoding="utf-8")) for path in paths]
