"""Tasks of other packages: entry points in the group `mulo.tasks`, named `NAME:ARGUMENT`. Imports no JAX.

A package offers tasks with, in its pyproject.toml,

    [project.entry-points."mulo.tasks"]
    sine = "my_package:make_task"

after which `sine:16` is a task name: `make_task("16", parametrization)` is called for it, and returns an
`eval_tasks.Task`.
"""

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from eval_tasks.foreign_code import one_line_errors
from eval_tasks.names import parse_task_name
from mulo.errors import InputError
from mulo.names import lookup
from mulo.printing import quoted

GROUP = "mulo.tasks"


def is_plugin_task(name: str) -> bool:
    """Whether `name` is `NAME:ARGUMENT` rather than one of the built-in tasks."""
    return ":" in name


def check_task_name(name: str) -> None:
    """Refuses what is no task name, without importing the package that offers it.

    Raises:
      InputError: neither of the form MODEL-wWIDTH-dDEPTH_DATASET, nor NAME:ARGUMENT with a known entry point.
    """
    if is_plugin_task(name):
        _entry_point(name)
    else:
        parse_task_name(name)


def load_plugin(name: str) -> tuple[Callable[[str, str], Any], str]:
    """The function that makes the task called `NAME:ARGUMENT`, and its argument.

    Raises:
      InputError: no package offers it, or the package cannot be imported.
    """
    entry_point = _entry_point(name)
    with one_line_errors(f"Task {quoted(name)} is offered by {entry_point.value}, which fails"):
        function = entry_point.load()
    if not callable(function):
        raise InputError(
            f"Task {quoted(name)} is offered by {entry_point.value}, which is a {type(function).__name__}; "
            "wanted a function."
        )
    return function, name.partition(":")[2]


def _entry_point(name: str) -> EntryPoint:
    with one_line_errors("What the installed packages say of themselves cannot be read"):
        offered: Mapping[str, EntryPoint] = {point.name: point for point in entry_points(group=GROUP)}
    return lookup(offered, name.partition(":")[0], f"task of an installed package ({GROUP})")
