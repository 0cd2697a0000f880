"""Text that comes from files, names, paths and errors, as it may be printed: on one line. Imports no JAX."""

import os
import shlex
from typing import Any

MAX_QUOTED = 80
MAX_ERROR = 300


def printable(text: str, max_length: int | None = None) -> str:
    r"""The text on one line, with what is no printable character written as Python writes it.

    Escape sequences would be carried out by a terminal; line ends would make two lines of one; characters
    that turn the direction of writing hide what is there; lone surrogates cannot be written at all.

    Args:
      text: of any source.
      max_length: of the result; longer text is cut, and ends in three dots.

    >>> print(printable("a\x1b[31mb\nc\ud800 ü"))
    a\x1b[31mb\nc\ud800 ü
    """
    if max_length is not None:
        text = text[: max_length + 1]
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    if max_length is None or len(text) <= max_length:
        return text
    return text[: max_length - 3] + "..."


def quoted(value: Any) -> str:
    """`repr` on one line and cut short, so that a hostile file cannot write the error message."""
    if isinstance(value, str | bytes):
        value = value[:200]
    try:
        text = repr(value)
    except BaseException:  # an object of a plug-in, or an integer of too many digits
        text = f"a {type(value).__name__}"
    return printable(text, MAX_QUOTED)


def one_line(error: BaseException, max_length: int = MAX_ERROR) -> str:
    """What an error says, on one line; its class where it says nothing, or fails at saying it."""
    try:
        text = " ".join(str(error).split())
    except BaseException:  # a class of someone else
        text = ""
    return printable(text or type(error).__name__, max_length)


def shown(path: str | os.PathLike[str]) -> str:
    """The path as an error shows it, on one line."""
    text = os.fsdecode(path)
    return text if text.isprintable() else quoted(text)


def shell_quoted(path: str | os.PathLike[str]) -> str:
    r"""The path as a word of a command that can be pasted into a shell.

    >>> shell_quoted("my run"), shell_quoted("a\nb")
    ("'my run'", "$'a\\x0ab'")
    """
    text = os.fsdecode(path)
    if text.isprintable():
        return shlex.quote(text)
    kept = set(range(32, 127)) - set(b"'\\")
    return "$'" + "".join(chr(byte) if byte in kept else f"\\x{byte:02x}" for byte in _raw(text)) + "'"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if _is_path(text) else "backslashreplace")


def _is_path(text: str) -> bool:
    return all(not 0xD800 <= ord(one) <= 0xDFFF or 0xDC80 <= ord(one) <= 0xDCFF for one in text)
