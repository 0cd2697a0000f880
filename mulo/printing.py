"""Text that comes from files, names and paths, as it may be printed. Imports no JAX."""


def printable(text: str) -> str:
    r"""The text on one line, with what is no printable character written as Python writes it.

    Escape sequences would be carried out by a terminal; line ends would make two lines of one; characters
    that turn the direction of writing hide what is there; lone surrogates cannot be written at all.

    >>> print(printable("a\x1b[31mb\nc\ud800 ü"))
    a\x1b[31mb\nc\ud800 ü
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
