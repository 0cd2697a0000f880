"""What the two command lines share. Imports no JAX."""

import argparse
import contextlib
import difflib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mulo.errors import InputError
from mulo.extras import missing_package
from mulo.printing import printable, shown


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, and that knows what a misspelt flag was to be."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses flags that there are not, before anything else is found missing."""
        words = list(sys.argv[1:] if args is None else args)
        for word in words[: words.index("--")] if "--" in words else words:
            self._check_flag(word)
        return super().parse_known_args(words, namespace)

    def _check_flag(self, word: str) -> None:
        name = word.partition("=")[0]
        flags = self._option_string_actions
        if not _FLAG.fullmatch(name) or name in flags or (name[1] != "-" and name[:2] in flags):
            return
        raise InputError(f"No flag is called {name}. {_nearest(name, flags)}See {self.prog} --help.")

    def error(self, message: str) -> NoReturn:
        """Raises `InputError` instead of printing the usage and leaving."""
        raise InputError(f"{message}. See {self.prog} --help.")


class Termination:
    """Makes the first SIGTERM an interruption, like Control-C, so that all is closed; a second ends at once.

    That it came is kept here, because Ray raises an exception of its own in the place of the one raised here.
    """

    def __init__(self) -> None:
        """Not yet."""
        self.came = False

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Handles the signal; to be entered anew behind what installs a handler of its own, as Ray does."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)

    def _handle(self, number: int, frame: FrameType | None) -> NoReturn:
        del frame
        self.came = True
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt


_FLAG = re.compile("--?[A-Za-z][A-Za-z0-9_-]*", re.ASCII)


def _nearest(name: str, flags: Iterable[str]) -> str:
    """The flag that was probably meant, by its spelling or its initials, as a sentence; "" where none is."""
    plain = name.lower().strip("-").replace("_", "-")
    known = {flag.strip("-"): flag for flag in flags if flag.startswith("--")}
    initials = {"".join(part[0] for part in one.split("-")): one for one in known}
    near = difflib.get_close_matches(plain, known, n=1) or [initials.get(plain)]
    return f"Did you mean {known[near[0]]}? " if near[0] else ""


_MAX_NAME_BYTES, _MAX_PATH_BYTES = 255, 4000  # a temporary name, which is longer, goes beside


def check_name(path: Path, called: str, wanted: str) -> None:
    """Refuses a path that no file can have, wherever it is.

    Raises:
      InputError: a part of it or all of it is too long, or has a NUL in it.
    """
    parts = [os.fsencode(part) for part in path.parts if "\0" not in part]
    if len(parts) < len(path.parts):
        raise InputError(f"{called} {printable(str(path), 80)} has a NUL in it; wanted {wanted}.")
    if max(map(len, parts), default=0) > _MAX_NAME_BYTES or len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InputError(f"{called} {printable(str(path), 80)} is too long; wanted {wanted}.")


def check_folder(
    folder: Path, called: str = "--out", wanted: str = "a folder, which may exist or not"
) -> None:
    """Refuses, before anything is run, what cannot be made a folder or be written into.

    Args:
      folder: may exist or not; of those above it, the first that exists is looked at.
      called: what to call it in the error.
      wanted: what it should be.

    Raises:
      InputError: something else is in the way, or one may not write there.
    """
    check_name(folder, called, wanted)
    there = folder
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        what = "" if there == folder else f", of which {shown(there)}"
        raise InputError(f"{called} {shown(folder)}{what} is no folder; wanted {wanted}.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(
            f"{called} {shown(folder)} cannot be written: no permission to write into {shown(there)}."
        )


def unless_pipe_is_closed(run: Callable[[], int]) -> int:
    """The exit status of `run`; 128 + SIGPIPE where nobody reads its output any more, as with `| head -1`.

    1 where the output cannot be written for another reason, said in one line. Standard streams that were
    closed when the process began are the null device from now on. 2 where a package of one of the extras is
    not installed.
    """
    _open_standard_streams()
    try:
        status = run()
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return 128 + signal.SIGPIPE
    except ImportError as error:
        said = missing_package(error)
        if not said:
            raise
        print(f"{Path(sys.argv[0]).stem}: error: {said}", file=sys.stderr)  # noqa: T201
        return 2
    except OSError as error:
        _discard_output()
        where = f" ({error.filename})" if error.filename else ""
        print(printable(f"error: cannot go on: {error.strerror or error}{where}."), file=sys.stderr)  # noqa: T201
        return 1
    return status


def _open_standard_streams() -> None:
    """Opens what was closed of descriptors 0 to 2, which would be those of the next files otherwise.

    Then messages, of this process and of libraries, would be written into them. And text that the terminal's
    encoding does not have is escaped rather than an error.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_output() -> None:
    """Python flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
