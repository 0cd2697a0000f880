"""Transforms, states, checkpoints and muP go to another process."""

import os
import pickle
import subprocess
import sys

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from tests.closeness import assert_trees_equal
from tests.descriptors import ROWS, SMALL_FC_H4

PARAMS = {"b": jnp.ones(3), "w": jnp.full((2, 3), 0.5)}
GRADS = jax.tree.map(jnp.cos, PARAMS)
PICKLES = pytest.mark.parametrize("module", [pickle, cloudpickle], ids=["pickle", "cloudpickle"])
UNDER_MUP = SMALL_FC_H4.checkpoint("mup", golden=False)
MUP = mulo.mup.infer(
    *({"b": jnp.ones(n), "w": jnp.ones((2, n)), "out": jnp.ones((n, 2))} for n in (3, 6)), form="standard"
)


@PICKLES
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_transform_does_the_same_afterwards(row, module):
    tx = mulo.optimizer(row.checkpoint(golden=False), 0.5, num_steps=row.num_steps, weight_decay=0.1)
    again = module.loads(module.dumps(tx))
    assert_trees_equal(again.init(PARAMS), tx.init(PARAMS))
    if module is pickle:  # the update is that of the same class
        results = [jax.jit(t.update)(GRADS, t.init(PARAMS), PARAMS, value=1.0) for t in (tx, again)]
        assert_trees_equal(*results)


@PICKLES
def test_after_use_and_in_a_chain(module):
    tx = optax.chain(mulo.optimizer(UNDER_MUP, mup=MUP, weight_decay=0.1, mask={"b": False, "w": True}))
    tx.update(GRADS, tx.init(PARAMS), PARAMS)
    transform = mulo.optimizer(UNDER_MUP, mup=MUP)
    transform.update(GRADS, transform.init(PARAMS), PARAMS)
    again = module.loads(module.dumps(transform))
    assert_trees_equal(*(t.update(GRADS, t.init(PARAMS), PARAMS) for t in (transform, again)))


def test_cloudpickle_takes_schedules_and_masks_too():
    def mask(params):
        return jax.tree.map(lambda p: p.ndim > 1, params)

    tx = mulo.optimizer(UNDER_MUP, optax.linear_schedule(1.0, 0.0, 10), mup=MUP, weight_decay=0.1, mask=mask)
    again = cloudpickle.loads(cloudpickle.dumps(tx))
    assert_trees_equal(*(t.update(GRADS, t.init(PARAMS), PARAMS) for t in (tx, again)))


@PICKLES
def test_all_that_goes_with_it(module):
    optimizer_state = mulo.init(PARAMS, UNDER_MUP, mup=MUP, num_steps=5)
    again = module.loads(module.dumps((optimizer_state, UNDER_MUP, MUP)))
    assert again[2] == MUP
    assert again[1].optimizer == UNDER_MUP.optimizer
    assert_trees_equal(again[1].theta, UNDER_MUP.theta)
    assert again[0].num_steps == 5
    assert_trees_equal(mulo.apply(again[0], GRADS), mulo.apply(optimizer_state, GRADS))
    error = mulo.CheckpointError("a line")
    assert str(module.loads(module.dumps(error))) == "a line"


PROGRAM = """
import pickle, sys
import jax
tx, params, grads = pickle.load(sys.stdin.buffer)
updates, state = jax.jit(tx.update)(grads, tx.init(params), params)
sys.stdout.buffer.write(pickle.dumps(jax.device_get((updates, int(state.count)))))
"""


@PICKLES
def test_in_another_process(module):
    tx = mulo.optimizer(UNDER_MUP, mup=MUP)
    given = module.dumps((tx, jax.device_get(PARAMS), jax.device_get(GRADS)))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=given, capture_output=True, check=True, env=dict(os.environ)
    )
    updates, count = pickle.loads(done.stdout)
    wanted, _ = jax.jit(tx.update)(GRADS, tx.init(PARAMS), PARAMS)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), updates, jax.device_get(wanted))
    assert count == 1
