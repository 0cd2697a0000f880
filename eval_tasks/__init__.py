"""Data sets, models, tasks, baselines and evaluation suites; the command `mulo-eval`.

>>> import eval_tasks
>>> task = eval_tasks.make_task("mlp-w32-d2_digits", "mup")
"""

# The public names are imported on first use (PEP 562): the command line reads `eval_tasks.names` and
# the tables of names to answer a wrong flag, and must not wait for JAX to do so.
import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval_tasks.data import load_data as load_data
    from eval_tasks.data.source import Batch as Batch
    from eval_tasks.data.source import DataSource as DataSource
    from eval_tasks.data.source import Source as Source
    from eval_tasks.data.source import draw_batch as draw_batch
    from eval_tasks.data.source import whole_split as whole_split
    from eval_tasks.data.text import TextBatch as TextBatch
    from eval_tasks.data.text import TextSource as TextSource
    from eval_tasks.names import TaskName as TaskName
    from eval_tasks.names import parse_task_name as parse_task_name
    from eval_tasks.task import Task as Task
    from eval_tasks.task import make_task as make_task

_MODULES = {
    "Batch": "eval_tasks.data.source",
    "DataSource": "eval_tasks.data.source",
    "Source": "eval_tasks.data.source",
    "Task": "eval_tasks.task",
    "TaskName": "eval_tasks.names",
    "TextBatch": "eval_tasks.data.text",
    "TextSource": "eval_tasks.data.text",
    "draw_batch": "eval_tasks.data.source",
    "load_data": "eval_tasks.data",
    "make_task": "eval_tasks.task",
    "parse_task_name": "eval_tasks.names",
    "whole_split": "eval_tasks.data.source",
}
__all__ = sorted(_MODULES)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'eval_tasks' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
