"""What `--optimizer` may be, taken apart. Imports neither JAX nor what it names.

- a baseline: `adamw`, `muon-oracle`;
- a learned optimizer: `velo` or `celo`, as their authors released them, a released name of ours, a
  checkpoint file, a run directory or `hf://owner/name/file`, alone or as a variant: `mulo-quick@cosine`,
  `runs/a@linear,weight_decay=0.0001`, `celo2.mulo@learning_rate=0.5`. `learning_rate` multiplies the whole
  update, as that of `mulo.optimizer` does and as AdamW's: the learned step and the weight decay;
- a function of another package: `optax.lion`, `optax.lamb(b2=0.99)`, `mymodule:make`.
"""

import ast
import dataclasses
import difflib
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from eval_tasks.baselines import BASELINES, RELEASED
from mulo.errors import InputError
from mulo.importers.hub import is_hub_name
from mulo.names import lookup
from mulo.printing import printable, quoted

SCHEDULES = ("constant", "cosine", "linear")
"""Factors on a learned optimizer's steps, from 1 at the first down to 0 after the last."""

_NUMBERS: Mapping[str, tuple[Callable[[float], bool], str]] = {
    "learning_rate": (lambda number: 0 < number < math.inf, "a positive number"),
    "weight_decay": (lambda number: 0 <= number < 1, "a number from 0 to 1"),
}
"""Numbers that a variant may set: field of `Learned` -> whether a value will do, and that in words."""


@dataclasses.dataclass(frozen=True)
class Learned:
    """A checkpoint, and what is added to its optimizer."""

    path: str  # or the name of a released one
    schedule: str = "constant"
    learning_rate: float = 1.0  # factor on the whole update, beside the schedule
    weight_decay: float = 0.0  # of every parameter, at each step, times schedule and learning_rate

    @property
    def variant(self) -> str:
        """What is added, as it is written after `@`."""
        words = (
            self.schedule if self.schedule != "constant" else "",
            f"learning_rate={self.learning_rate:g}" if self.learning_rate != 1 else "",
            f"weight_decay={self.weight_decay:g}" if self.weight_decay else "",
        )
        return ",".join(filter(None, words))


@dataclasses.dataclass(frozen=True)
class External:
    """A function that returns an optax transform, and the arguments that were given."""

    module: str
    function: str
    arguments: Mapping[str, Any]  # Python literals

    @property
    def label(self) -> str:
        """What it is called in tables."""
        said = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{self.module}.{self.function}" + (f"({said})" if said else "")


_CALL = re.compile(
    r"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?P<mark>[.:])(?P<function>[A-Za-z_]\w*)(?P<call>\(.*\))?",
    re.ASCII | re.DOTALL,
)


def parse_source(source: str) -> str | Learned | External:
    """The name of a baseline, a checkpoint or a function.

    Raises:
      InputError: nothing of that kind, or arguments that are no literals.

    >>> parse_source("optax.lamb(b2=0.99)")
    External(module='optax', function='lamb', arguments={'b2': 0.99})
    >>> parse_source("mulo-quick@cosine,weight_decay=0.1").variant
    'cosine,weight_decay=0.1'
    """
    if not source.strip():
        raise InputError("--optimizer is empty; wanted a baseline, a checkpoint or a function.")
    if source in BASELINES:
        return source
    is_there = source in RELEASED or os.path.exists(source)  # noqa: PTH110 (False for too long a name)
    match = None if is_there else _CALL.fullmatch(source)
    if match and _is_function(match):
        return External(match["module"], match["function"], _parse_arguments(source, match["call"]))
    path, mark, variant = source.rpartition("@")
    is_revision = is_hub_name(source) and "/" in variant  # as in hf://owner/name@revision/file
    if mark and not is_revision and not is_there:
        _check_has_variants(path, source)
        return _parse_variant(path, variant)
    begun = None if is_there else _CALL.match(source)
    if begun and source[begun.end() :].startswith("("):  # never closed, or with something behind it
        _parse_arguments(source, source[begun.end() :])
    near = [] if is_there else difflib.get_close_matches(source, (*BASELINES, *RELEASED), n=1, cutoff=0.8)
    if near:
        raise InputError(f"No optimizer is called {quoted(source)}. Did you mean {near[0]!r}?")
    return Learned(source)


def _is_function(match: re.Match[str]) -> bool:
    return match["mark"] == ":" or bool(match["call"]) or match["module"].split(".")[0] == "optax"


def _check_has_variants(path: str, source: str) -> None:
    """Refuses variants of what has none: they would be left out without a word."""
    if os.path.exists(path) or path in RELEASED or is_hub_name(path):  # noqa: PTH110
        return
    match = _CALL.fullmatch(path)
    what = "baseline" if path in BASELINES else "function" if match and _is_function(match) else ""
    if what:
        raise InputError(
            f"{quoted(source)}: that is a {what}; only a learned optimizer has variants (@...)."
        )
    if "@" in path:
        raise InputError(f"{quoted(source)} has more than one @; wanted NAME@cosine,learning_rate=0.5.")
    if not path:
        raise InputError(f"{quoted(source)} has nothing before the @; wanted NAME@cosine.")


def find_checkpoint(path: str) -> str:
    """Where the checkpoint of a learned optimizer is: what was given, unless it is a name in `RELEASED`.

    A name goes before a file called the same, which is `./name`.

    Those are read from `$MULO_DATA_DIR/NAME.mulo`, as `mulo-eval import` writes it, where that file is
    there, and from the hub or its local cache otherwise.
    """
    if path not in RELEASED:
        return path
    file = Path(os.environ.get("MULO_DATA_DIR", ".")) / f"{path}.mulo"
    return str(file) if file.is_file() else RELEASED[path]


def _parse_arguments(source: str, call: str | None) -> dict[str, Any]:
    """The arguments of the one call there is; all of the text is made use of, or it is refused."""
    text = f"f{call or '()'}"
    try:
        if not text.isprintable():  # comments end at a line end, and the parser stops at NUL
            raise ValueError("characters that cannot be printed")
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # unknown escapes in texts
            node = ast.parse(text, mode="eval").body
            arguments = _literal_arguments(node, text)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, Warning) as error:
        raise InputError(
            f"The arguments of {quoted(source)} are not keywords with plain values, each given once; wanted "
            "for example optax.lion(b1=0.95, weight_decay=0.1)."
        ) from error
    return arguments


def _literal_arguments(node: ast.expr, text: str) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.args:
        raise ValueError("not one call")
    if node.end_col_offset != len(text.encode()):
        raise ValueError("text after the call")
    names = [word.arg for word in node.keywords]
    if len(names) > len(set(names)):
        raise ValueError("a keyword twice")
    for inner in ast.walk(node):
        if isinstance(inner, ast.Dict | ast.Set):
            given = inner.keys if isinstance(inner, ast.Dict) else inner.elts
            values = [ast.literal_eval(one) for one in given if one is not None]
            if len(values) > len(set(values)):
                raise ValueError("a key twice")
    if None in names:
        raise ValueError("**")
    return {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}


def _parse_variant(path: str, variant: str) -> Learned:
    shown = printable(f"{path}@{variant}", 200)
    fields: dict[str, Any] = {}
    for word in variant.split(","):
        name, equals, value = word.partition("=")
        field = name if equals else "schedule"
        if field in fields:
            raise InputError(f"{shown} gives its {printable(field, 80)} twice; wanted it once.")
        if equals and name in _NUMBERS:
            is_good, wanted = _NUMBERS[name]
            try:
                fields[name] = float(value)
            except ValueError:
                fields[name] = math.nan
            if not is_good(fields[name]):
                raise InputError(f"{name} of {shown} is {quoted(value)}; wanted {wanted}.")
        else:
            words = (*SCHEDULES, *(f"{number}=X" for number in _NUMBERS))
            lookup(dict.fromkeys(words), word, "variant of a learned optimizer")
            fields["schedule"] = word
    return Learned(path, **fields)
