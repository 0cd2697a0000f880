"""Task names and their parts: `mlp-w128-d3_cifar10-16` is an MLP of width 128 and depth 3 on cifar10-16."""

import dataclasses
import re

from eval_tasks.data import find_data_set
from eval_tasks.models import DEFAULT_HEADS, MODELS
from mulo.errors import InputError
from mulo.names import lookup
from mulo.printing import quoted

_FORM = re.compile(
    r"(?P<model>[^_]*?)-w(?P<width>[^_]*?)-d(?P<depth>[^_]*?)(?:-h(?P<heads>[^_]*?))?"
    r"(?:-r(?P<residual>[^_]*?))?_(?P<data_set>.*)"
)
_LARGEST = 1_000_000
_MAX_LENGTH = 300  # characters of a task's name
RESIDUALS = ("sqrt", "linear")
"""How residual branches may be scaled with depth: as in `mulo.mup.residual_multiplier`."""


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The parts of a task's name.

    Args:
      model: a key of `eval_tasks.models.MODELS`.
      width: units in each hidden layer, channels, or the size of the residual stream, at least 1; with
        heads, a multiple of their number.
      depth: number of hidden layers or blocks, at least 1.
      data_set: as `eval_tasks.data.find_data_set` takes it, of the kind that the model is for.
      heads: of attention, where the model has it: by default 4.
      residual: of models with residual branches: "sqrt" or "linear" divides what each block adds by the root
        of the depth, or by the depth; by default it is added as it is.

    Raises:
      InputError: an unknown model or data set, or one that the model is not for; a width, depth or number
        of heads that is not a whole number from 1; a width that is not a multiple of what it must be; a
        scaling of residual branches that there is not, or that the model has no use for.

    >>> str(TaskName("mlp", 128, 3, "cifar10-16")), str(TaskName("transformer", 128, 2, "pydoc"))
    ('mlp-w128-d3_cifar10-16', 'transformer-w128-d2-h4_pydoc')
    """

    model: str
    width: int
    depth: int
    data_set: str
    heads: int | None = None
    residual: str | None = None

    def __post_init__(self):
        """Refuses what is no task."""
        entry = lookup(MODELS, self.model, "model")
        _check_data(self.model, self.data_set)
        if entry.has_heads and self.heads is None:
            object.__setattr__(self, "heads", DEFAULT_HEADS)
        if not entry.has_heads and self.heads is not None:
            raise InputError(f"Model {self.model!r} has no heads; leave out -h{self.heads}.")
        if self.residual is not None:
            lookup(dict.fromkeys(RESIDUALS), self.residual, "scaling of residual branches")
            if not entry.branches:
                raise InputError(
                    f"Model {self.model!r} has no residual branches; leave out -r{self.residual}."
                )
        for field in ("width", "depth", *(["heads"] if entry.has_heads else [])):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise InputError(
                    f"The {_NOUNS[field]} of a task is {value!r}; wanted a whole number from 1 to {_LARGEST}."
                )
        if self.width % self.width_multiple:
            heads = f" with {self.heads} heads" if self.heads else ""
            other = " or another number of heads, as -h1" if self.heads else ""
            raise InputError(
                f"Model {self.model!r}{heads} was given the width {self.width}; wanted a multiple of "
                f"{self.width_multiple}{other}."
            )

    @property
    def width_multiple(self) -> int:
        """What the width is a multiple of."""
        return MODELS[self.model].width_multiple * (self.heads or 1)

    def __str__(self) -> str:
        heads = "" if self.heads is None else f"-h{self.heads}"
        residual = "" if self.residual is None else f"-r{self.residual}"
        return f"{self.model}-w{self.width}-d{self.depth}{heads}{residual}_{self.data_set}"


_NOUNS = {"width": "width", "depth": "depth", "heads": "number of heads"}


def _check_data(model: str, data_set: str) -> None:
    wanted, given = MODELS[model].data, find_data_set(data_set).kind
    if wanted != given:
        fitting = ", ".join(name for name, entry in MODELS.items() if entry.data == given)
        raise InputError(
            f"Model {model!r} is for {wanted} data, and {data_set!r} is {given}. "
            f"For {given} there are: {fitting}."
        )


def parse_task_name(name: str) -> TaskName:
    """Takes a task name apart; the inverse of `str(TaskName(...))`.

    Args:
      name: such as "mlp-w128-d3_cifar10-16".

    Raises:
      InputError: not of the form MODEL-wWIDTH-dDEPTH_DATASET, with -hHEADS and -rSCALING after the depth
        where the model takes them, or a part is wrong.

    >>> parse_task_name("vit-w8-d2-h2-rlinear_digits")
    TaskName(model='vit', width=8, depth=2, data_set='digits', heads=2, residual='linear')
    """
    # The form can be tried in as many ways as a name has dashes, so names are of bounded length.
    match = _FORM.fullmatch(name) if len(name) <= _MAX_LENGTH else None
    if match is None:
        raise InputError(
            f"{quoted(name)} is no task name; wanted MODEL-wWIDTH-dDEPTH_DATASET, for example "
            "mlp-w32-d2_digits, or MODEL-wWIDTH-dDEPTH-hHEADS_DATASET, or with -rsqrt or -rlinear before the "
            "underscore."
        )
    sizes = {}
    for field in ("width", "depth", "heads"):
        if field == "heads" and match[field] is None:
            continue
        # No sign, no leading zero: each task has exactly one name.
        if not re.fullmatch(r"[1-9][0-9]{0,6}", match[field], re.ASCII):
            raise InputError(
                f"The {_NOUNS[field]} in task name {quoted(name)} is {quoted(match[field])}; wanted a whole "
                f"number from 1 to {_LARGEST}."
            )
        sizes[field] = int(match[field])
    return TaskName(model=match["model"], data_set=match["data_set"], residual=match["residual"], **sizes)
