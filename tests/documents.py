"""The project's documents, and the code and command lines in them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from tests import ROOT

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "checkpoints/*/*.md", "benchmarks/*.md")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"  # names what is gone, too
)
PROGRAMS = ("mulo-eval", "mulo-meta-train")
_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def python_blocks(path: Path) -> list[str]:
    """The fenced blocks of Python."""
    return [body for name, body in _FENCED.findall(path.read_text(encoding="utf-8")) if name == "python"]


def command_lines(path: Path) -> Iterator[list[str]]:
    """The words of each call of a program: in fenced blocks, in indented lines, and in backticks with flags.

    Where its output goes is left out, and so are comments.
    """
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    shell = [body for name, body in _FENCED.findall(text) if name in ("bash", "sh", "")]
    lines = "".join(shell).splitlines()
    text = _FENCED.sub("", text)
    lines += re.findall(r"^    (.*)$", text, re.MULTILINE)
    lines += [span for span in re.findall(r"`([^`]+)`", text) if " -" in span]
    for line in lines:
        for part in re.split(r"\s(?:\||&&|>|2>|;)\s", line):
            if part.strip().startswith(PROGRAMS):
                yield shlex.split(part, comments=True)
