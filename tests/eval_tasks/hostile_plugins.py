"""Packages of others that fail in every way: tasks behind entry points, and functions for `--optimizer`."""

RAISING = [
    "raise SystemExit(0)",
    "raise SystemExit('bye')",
    "import sys; sys.exit()",
    "raise MemoryError",
    "raise RecursionError",
    "raise ValueError('a\\nb\\x1b[31m' + 'x' * 10_000)",
    "raise StopIteration",
    "raise type('Own', (BaseException,), {})",
    "raise type('Own\\n', (KeyboardInterrupt,), {})",
    "raise type('Mute', (Exception,), {'__str__': lambda self: 1 / 0})",
    "raise type('Deaf', (Exception,), {'__str__': lambda self: None})",
    "raise ExceptionGroup('several', [ValueError('a\\nb')])",
    "raise UnicodeDecodeError('utf-8', b'\\xff', 0, 1, 'bad')",
    "raise OSError(28, 'No space left on device')",
    "import no_such_module",
    "assert False",
]
"""What a plug-in does when it is imported, or called."""

NONSENSE = [
    "None", "0", "'text'", "[]", "{}", "object", "lambda *_: None", "float('nan')",
    "type('Odd', (), {'__repr__': lambda self: 1 / 0})()",
    "type('Odd\\n', (), {'__class__': property(lambda self: 1 / 0)})()",
    "optax.GradientTransformation(None, None)",
    "optax.GradientTransformation(lambda params: None, lambda *_: None)",
    "optax.GradientTransformation(lambda params: params, lambda grads, state, params=None: ('a', 'b'))",
    "optax.GradientTransformation(lambda params: (), lambda grads, state, params=None: (grads, state, 3))",
]  # fmt: skip
"""What a plug-in returns."""

TASK = """
import jax.numpy as jnp
import jax
from eval_tasks import Task
from mulo.mup import STANDARD

def make(argument, parametrization):
    fields = dict(
        name="x", parametrization=parametrization, init=lambda key: {{"w": jnp.zeros(3)}},
        loss=lambda params, key, batch: jnp.mean(params["w"]), accuracy=None, source=(), mup=STANDARD,
        guessing_loss=1.0, draw_batch=lambda source, split, key, size: jnp.zeros((size, 3)),
    )
    return Task(**{{**fields, {change}}})
"""

TASK_CHANGES = [
    '"init": None',
    '"init": lambda key: None',
    '"init": lambda key: {"w": jnp.zeros(3, int)}',
    '"init": lambda key: {"w": "text"}',
    '"init": lambda: 3',
    '"loss": 3',
    '"loss": lambda params, key, batch: params["w"]',
    '"loss": lambda params, key, batch: "text"',
    '"loss": lambda params, key, batch: None',
    '"loss": lambda params, key, batch: 1 / 0',
    '"loss": lambda params, key, batch: exit()',
    '"loss": lambda params, key, batch: jnp.int32(1)',
    '"draw_batch": lambda *_: batch',
    '"draw_batch": "text"',
    '"mup": None',
    '"guessing_loss": "text"',
    '"guessing_loss": float("nan")',
    '"guessing_loss": None',
    '"parametrization": "other"',
    '"evaluate": lambda *_: None',
    '"evaluate": 3',
    '"loss_and_state": lambda *_: 3',
    '"init_state": lambda: exit()',
    '"accuracy": 3',
    '"source": object()',
]
"""Parts of a task that are not what they should be."""
