"""Inputs that were, or could be, answered with a traceback or taken in part without a word."""

BAD_OPTIMIZERS = [
    "",
    " ",
    "optax.lion(b1=1)(b2=2)",
    "optax.lion(b1=1, b1=2)",
    "optax.lion(b1=1)(b2=2)(b3=3)",
    "optax.lion()(b2=2)",
    "optax.lion(b1=1)[0](b2=2)",
    "optax.lion(b1=1).lamb(b2=2)",
    "optax.lion(b1=1) if (1) else (2)",
    "optax.lion(b1=1), optax.lamb(b2=2)",
    "optax.lion(b1=1) # (b2=2)",
    "optax.lion(b1=1) and (2)",
    "optax.lion(b1=1)\n(b2=2)",
    "optax.lion(b1=1, # b2=2\n)",
    "optax.lion(mask={'a': 1, 'a': 2})",
    "optax.lion(mask={1, 1})",
    "optax.lion(mask={[]: 1})",
    "optax.lion(mask={[]})",
    "optax.lion(**{'b1': 1})",
    "optax.lion(*[1])",
    "optax.lion(1)",
    "optax.lion(b1=b2)",
    "optax.lion(b1=print())",
    "optax.lion(b1='\\q')",
    "optax.lion(b1=1",
    "optax.lion(b1=1))",
    "optax.lion(b1=1;b2=2)",
    "optax.lion(b1:=1)",
    "optax.lion(b1=\0)",
    "optax.lion(b1='\ud800')",
    "optax.lion(b1='\x1b[31m')",
    "optax.lion(b1=" + "(" * 500 + ")" * 500 + ")",
    "optax.lion(b1=" + "-" * 100_000 + "1)",
    "optax.lion(b1=" + "[" * 5_000 + "]" * 5_000 + ")",
    "optax.lion(b1=" + "1" * 10_000 + ")",
    "optax.lion(b1=f'{1}')",
    "optax.lion(b1=1)@cosine",
    "optax.lion@cosine",
    "mymodule:make@cosine",
    "adamw@cosine",
    "adamw@learning_rate=0.5",
    "@cosine",
    "mulo-quick@",
    "mulo-quick@,",
    "mulo-quick@cosine,",
    "mulo-quick@cosine@linear",
    "mulo-quick@cosine,cosine",
    "mulo-quick@cosine,linear",
    "mulo-quick@learning_rate=0.5,learning_rate=0.5",
    "mulo-quick@weight_decay=0.1,weight_decay=0.1",
    "mulo-quick@learning_rate",
    "mulo-quick@learning_rate=",
    "mulo-quick@learning_rate=1=2",
    "mulo-quick@learning_rate=nan",
    "mulo-quick@learning_rate=1e999",
    "mulo-quick@learning_rate=0",
    "mulo-quick@weight_decay=1",
    "mulo-quick@schedule=cosine",
    "mulo-quick@b1=0.9",
    "mulo-quick@cosine;linear",
    "mulo-quick@\x1b[31m",
    "adamv",
]  # fmt: skip
"""`--optimizer` strings of which something would be left out, or that are none."""

GOOD_OPTIMIZERS = {
    "optax.lion(b1=0.9, b2=0.99,)": {"b1": 0.9, "b2": 0.99},
    "optax.lion( )": {},
    "optax.lion": {},
    "my.module:make(x='a@b', y=(1, -2), z=None)": {"x": "a@b", "y": (1, -2), "z": None},
    "my:make(x={'a': {'b': [1]}, 'c': {'b': [1]}})": {"x": {"a": {"b": [1]}, "c": {"b": [1]}}},
    "my:make(x='ü')": {"x": "ü"},
    "my:make(x='(a=1)(b=2)')": {"x": "(a=1)(b=2)"},
}
"""`--optimizer` strings -> the arguments that are in them."""

LONG_NAMES = ["n" * 256, "n" * 5_000, "a/" * 3_000, f"runs/{'n' * 300}/theta.mulo"]

BAD_VALUES = [
    None, True, False, 0, 1, -1, 0.0, -1.5, 1e-320, 1e308, -1e308, 1e300, 2**63, 10**300, float("nan"),
    float("inf"), "", "a", "\x1b[31m", "\ud800", "\u202e", "x" * 400, [], [1], {}, {"a": 1},
    {"a": {"b": [1]}}, [None], [[]], {"\ud800": "\x07"}, "adamw", "width", "num_steps", "task", "tune",
    "evaluate", "_",
]  # fmt: skip
"""Values that a field of a results file may have, of the wrong type or out of all proportion."""

BAD_LINES = [
    b"", b" ", b"\0", b"\xff\xfe", b"null", b"[]", b'"key"', b"1", b"{", b'{"schema": 2}', b"[" * 100_000,
    b'{"a":' * 50_000, b"{" * 50_000 + b"}" * 50_000, b'"' + b"\\" * 99_999, b"1" * 100_000,
    b'{"schema": 2, "key": ' + b"[" * 990 + b"]" * 990 + b"}", '{"schema": 2}'.encode("utf-16"),
    b'{"schema": 1e999}', b'{"schema": ' + b"9" * 5_000 + b"}", b'{"schema": {"a": {}}}', b"\x1b[2J",
]  # fmt: skip
"""Lines of a results file that are none."""
