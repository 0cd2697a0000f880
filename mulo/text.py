"""Foreign text made fit to be shown: names, paths and errors, on one line, without control characters."""

import os
import shlex
from typing import Any

MAX_QUOTED = 80
MAX_ERROR = 300


def printable(text: str, max_length: int | None = None) -> str:
    r"""Text that can be printed anywhere: what controls a terminal, line ends and lone surrogates are escaped.

    Args:
      text: of any source.
      max_length: of the result; longer text is cut, and ends in three dots.

    >>> printable("a\x1b[31mb\nc"), printable("a" * 99, 6)
    ('a\\x1b[31mb\\nc', 'aaa...')
    """
    if max_length is not None:
        text = text[: max_length + 1]
    if not text.isprintable():
        text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
    if max_length is None or len(text) <= max_length:
        return text
    return text[: max_length - 3] + "..."


def quoted(value: Any) -> str:
    """`repr` on one line and cut short, so that a hostile file cannot write the error message."""
    if isinstance(value, str | bytes):
        value = value[:200]
    try:
        text = repr(value)
    except Exception:  # an object of a plug-in, or an integer of too many digits
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
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in _raw(text))
    return f"$'{''.join(plain)}'"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape" if _is_path(text) else "backslashreplace")


def _is_path(text: str) -> bool:
    return all(not 0xD800 <= ord(one) <= 0xDFFF or 0xDC80 <= ord(one) <= 0xDCFF for one in text)
