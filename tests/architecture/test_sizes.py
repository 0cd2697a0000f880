"""Functions and modules fit the eye. Lines of code: without docstrings, comments and blank lines."""

import ast
import io
import tokenize

import pytest

from tests.architecture.sources import PACKAGES, Source, sources

MAX_FUNCTION_LINES = 40
MAX_MODULE_LINES = 400
LONGER_FUNCTIONS: dict[str, str] = {}
"""`path:function` -> the reason why it is longer."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


def _code_lines(source: Source) -> set[int]:
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(source.tree):
        # A string that stands alone: a docstring, of a module's constants too.
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                lines.difference_update(range(node.lineno, node.end_lineno + 1))
    return lines


def _function_lengths(source: Source) -> dict[str, int]:
    lines = _code_lines(source)
    return {
        f"{source.name}:{node.name}": len(lines.intersection(range(node.lineno, node.end_lineno + 1)))
        for node in ast.walk(source.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_functions(package):
    lengths = {name: n for source in sources(package) for name, n in _function_lengths(source).items()}
    too_long = {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES}
    assert too_long.keys() <= LONGER_FUNCTIONS.keys(), too_long


def test_modules():
    lengths = {source.name: len(_code_lines(source)) for source in sources(*PACKAGES)}
    assert {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_exceptions_are_still_needed():
    lengths = {name: n for source in sources(*PACKAGES) for name, n in _function_lengths(source).items()}
    assert all(lengths.get(name, 0) > MAX_FUNCTION_LINES for name in LONGER_FUNCTIONS)


def test_docstrings_comments_and_blank_lines_do_not_count():
    text = 'def f(\n    x,\n):\n    """Doc.\n\n    More.\n    """\n    # why\n\n    return x\n'
    (source,) = [Source(path=sources("mulo")[0].path, text=text)]
    assert list(_function_lengths(source).values()) == [4]
