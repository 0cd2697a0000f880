"""The rows, and what every promise is tried on; of session scope, so that each step compiles once."""

import jax
import jax.numpy as jnp
import optax
import pytest

import mulo
from tests.descriptors import ROWS

SHAPES = {"b": (4,), "w": (8, 4)}
NUM_STEPS = 3


@pytest.fixture(scope="session", params=ROWS, ids=lambda row: row.name)
def row(request):
    return request.param


@pytest.fixture(scope="session")
def checkpoint(row):
    """Random weights: every feature counts."""
    return row.checkpoint(golden=False)


@pytest.fixture(scope="session")
def tx(row, checkpoint):
    return mulo.optimizer(checkpoint, num_steps=row.num_steps)


def make_step(tx):
    """One training step, to be jitted."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return optax.apply_updates(params, updates), state

    return step


def run(step, params, state, grads):
    """Parameters and state after a step for each gradient."""
    for g in grads:
        params, state = step(params, state, g)
    return params, state


@pytest.fixture(scope="session")
def step(tx):
    """The jitted step, compiled once for each tree of shapes."""
    return jax.jit(make_step(tx))


@pytest.fixture(scope="session")
def wanted(tx, step, params, grads):
    """Parameters and state after all of `grads`."""
    return run(step, params, tx.init(params), grads)


def _random(seed, shapes=SHAPES):
    return {
        name: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


@pytest.fixture(scope="session")
def params():
    return _random(0)


@pytest.fixture(scope="session")
def grads():
    """One tree for each step, of different sizes."""
    return [jax.tree.map(lambda g, s=10.0**-i: g * jnp.float32(s), _random(i + 1)) for i in range(NUM_STEPS)]
