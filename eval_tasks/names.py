"""Task names and their parts: `mlp-w128-d3_cifar10-16` is an MLP of width 128 and depth 3 on cifar10-16."""

import dataclasses
import re

from eval_tasks.data import DATA_SETS
from eval_tasks.models import MODELS
from mulo.errors import InputError
from mulo.names import lookup

_FORM = re.compile(r"(?P<model>[^_]*?)-w(?P<width>[^_]*)-d(?P<depth>[^_]*)_(?P<data_set>.*)")
_LARGEST = 1_000_000


@dataclasses.dataclass(frozen=True)
class TaskName:
    """The parts of a task's name.

    Args:
      model: a key of `eval_tasks.models.MODELS`.
      width: units in each hidden layer, at least 1.
      depth: number of hidden layers, at least 1.
      data_set: a key of `eval_tasks.data.DATA_SETS`.

    Raises:
      InputError: an unknown model or data set; a width or depth that is not a whole number from 1.

    >>> str(TaskName("mlp", 128, 3, "cifar10-16"))
    'mlp-w128-d3_cifar10-16'
    """

    model: str
    width: int
    depth: int
    data_set: str

    def __post_init__(self):
        """Refuses what is no task."""
        lookup(MODELS, self.model, "model")
        lookup(DATA_SETS, self.data_set, "data set")
        for field in ("width", "depth"):
            value = getattr(self, field)
            if type(value) is not int or not 1 <= value <= _LARGEST:
                raise InputError(
                    f"The {field} of a task is {value!r}; wanted a whole number from 1 to {_LARGEST}."
                )

    def __str__(self) -> str:
        return f"{self.model}-w{self.width}-d{self.depth}_{self.data_set}"


def parse_task_name(name: str) -> TaskName:
    """Takes a task name apart; the inverse of `str(TaskName(...))`.

    Raises:
      InputError: not of the form MODEL-wWIDTH-dDEPTH_DATASET, or a part is wrong.

    >>> parse_task_name("mlp-w8-d2_digits")
    TaskName(model='mlp', width=8, depth=2, data_set='digits')
    """
    match = _FORM.fullmatch(name)
    if match is None:
        raise InputError(
            f"{name!r} is no task name; wanted MODEL-wWIDTH-dDEPTH_DATASET, for example mlp-w32-d2_digits."
        )
    sizes = {}
    for field in ("width", "depth"):
        # No sign, no leading zero: each task has exactly one name.
        if not re.fullmatch(r"[1-9][0-9]{0,6}", match[field], re.ASCII):
            raise InputError(
                f"The {field} in task name {name!r} is {match[field]!r}; wanted a whole number from 1 to "
                f"{_LARGEST}."
            )
        sizes[field] = int(match[field])
    return TaskName(model=match["model"], data_set=match["data_set"], **sizes)
