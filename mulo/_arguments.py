"""Wrong calls of the public functions: an error that names the argument that was meant."""

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mulo.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")

_OTHER_NAMES = {
    "decay": "weight_decay",
    "init_value": "learning_rate",
    "loss": "value",
    "lr": "learning_rate",
    "parametrization": "mup",
    "step_size": "learning_rate",
    "steps": "num_steps",
    "total_steps": "num_steps",
    "train_steps": "num_steps",
    "transition_steps": "num_steps",
    "wd": "weight_decay",
}
"""What other libraries call an argument -> what it is called here."""


def explained(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: a call with arguments that the function does not have is an `InputError` of one line.

    Args:
      name: of the function, as users write it.

    >>> @explained("mulo.double")
    ... def double(value):
    ...     return 2 * value
    >>> double(loss=1)
    Traceback (most recent call last):
    mulo.errors.InputError: mulo.double has no argument loss; what is meant is value: ...
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                signature.bind(*args, **kwargs)
            except TypeError as error:
                raise InputError(_explain(name, signature, args, kwargs, str(error))) from None
            return function(*args, **kwargs)

        return checked

    return decorate


def _explain(name: str, signature: inspect.Signature, args: tuple, kwargs: dict, said: str) -> str:
    """The error for a call that does not fit. said: what Python says of it."""
    kinds = inspect.Parameter
    names = [p.name for p in signature.parameters.values()]
    first = [p.name for p in signature.parameters.values() if p.kind is not kinds.KEYWORD_ONLY]
    call = f"{name}({', '.join([*first, *(f'{n}=...' for n in names if n not in first)])})"
    for given in kwargs:
        if given not in names:
            near = [n for n in [_OTHER_NAMES.get(given)] if n in names]
            near = near or difflib.get_close_matches(given, names, n=1)
            meant = f"what is meant is {near[0]}" if near else "wanted"
            return f"{name} has no argument {given}; {meant}: {call}."
    if len(args) > len(first):
        extra = ", ".join(type(arg).__name__ for arg in args[len(first) :])
        return (
            f"{name} was given {len(args)} arguments without a name, beyond the first {len(first)} of type "
            f"{extra}; wanted all others by name, as in mup=mup: {call}."
        )
    return f"{name}: {said}; wanted {call}."
