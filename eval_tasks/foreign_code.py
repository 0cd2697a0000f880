"""Code of other people that we call: whatever goes wrong in it is one line. Imports no JAX."""

import contextlib
from collections.abc import Iterator

from mulo.errors import InputError
from mulo.printing import one_line, printable


@contextlib.contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turns what the code of others raises into an `InputError`; `SystemExit` and the like too.

    Our own errors, and the user's interruption, go through.

    Args:
      what: went wrong, as the beginning of the line: "my_tasks:make_task fails".

    Raises:
      InputError: what was raised, with its class.
    """
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if type(error) in (KeyboardInterrupt, GeneratorExit):
            raise
        name = printable(type(error).__name__, 80)
        text = one_line(error, 400)
        said = f"{name}: {text}" if text != name else name
        raise InputError(f"{printable(what, 300)}: {said.rstrip('.')}.") from error
