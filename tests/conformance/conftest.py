"""The rows, and what every promise is tried on; kept for each row, so that each step compiles once."""

import functools

import jax
import jax.numpy as jnp
import optax
import pytest

import mulo
from tests.descriptors import ROWS

SHAPES = {"b": (4,), "w": (8, 4)}
NUM_STEPS = 3


@pytest.fixture(params=ROWS, ids=lambda row: row.name)
def row(request):
    return request.param


@functools.cache
def _checkpoint(row):
    return row.checkpoint(golden=False)


@functools.cache
def _tx(row):
    return mulo.optimizer(_checkpoint(row), num_steps=row.num_steps)


@functools.cache
def _step(row):
    return jax.jit(make_step(_tx(row)))


@functools.cache
def _wanted(row):
    params, *grads = _parameters_and_gradients()
    return run(_step(row), params, _tx(row).init(params), grads)


@pytest.fixture
def checkpoint(row):
    """Random weights: every feature counts."""
    return _checkpoint(row)


@pytest.fixture
def tx(row):
    return _tx(row)


@pytest.fixture
def step(row):
    """The jitted step, compiled once for each tree of shapes."""
    return _step(row)


@pytest.fixture
def wanted(row):
    """Parameters and state after all of `grads`."""
    return _wanted(row)


def loss_of(grads):
    """A loss to go with gradients; not constant: VeLO looks at differences, then of roundings alone."""
    return jnp.sum(jnp.square(jax.tree.leaves(grads)[-1].astype(jnp.float32)))


def make_step(tx):
    """One training step, to be jitted."""

    def step(params, state, grads):
        updates, state = tx.update(grads, state, params, value=loss_of(grads))
        return optax.apply_updates(params, updates), state

    return step


def run(step, params, state, grads):
    """Parameters and state after a step for each gradient."""
    for g in grads:
        params, state = step(params, state, g)
    return params, state


def _random(seed, shapes=SHAPES):
    return {
        name: jax.random.normal(jax.random.fold_in(jax.random.key(seed), i), shape)
        for i, (name, shape) in enumerate(shapes.items())
    }


@functools.cache
def _parameters_and_gradients():
    """Parameters, and a gradient for each step, of different sizes."""
    grads = [jax.tree.map(lambda g, s=10.0**-i: g * jnp.float32(s), _random(i + 1)) for i in range(NUM_STEPS)]
    return [_random(0), *grads]


@pytest.fixture
def params():
    return _parameters_and_gradients()[0]


@pytest.fixture
def grads():
    return _parameters_and_gradients()[1:]
