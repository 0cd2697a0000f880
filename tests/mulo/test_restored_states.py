"""States that come back from files: with the structure they work, without it one line says so."""

import json

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from tests.closeness import assert_trees_equal
from tests.descriptors import CELO_ADAM, ROW_OF_EACH_STATE, SMALL_FC_H4

EACH = pytest.mark.parametrize("row", [*ROW_OF_EACH_STATE, CELO_ADAM], ids=lambda row: row.name)
PARAMS = {
    "layers": ({"w": jnp.ones((2, 3))}, {"w": jnp.ones(3)}),
    "by number": {0: jnp.ones(2), 1: jnp.ones(3)},
}


def make(row):
    return mulo.optimizer(row.checkpoint(golden=False), num_steps=row.num_steps)


def lists(tree):
    """Tuples as lists, NamedTuples as dictionaries, integer keys as text."""
    if hasattr(tree, "_asdict"):
        return {name: lists(x) for name, x in tree._asdict().items()}
    if isinstance(tree, dict):
        return {str(key): lists(x) for key, x in tree.items()}
    return [lists(x) for x in tree] if isinstance(tree, tuple | list) else tree


def only(kind, change):
    """A function that changes all nodes of one kind, and keeps the others."""

    def walk(tree):
        if hasattr(tree, "_asdict"):
            parts = type(tree)(*map(walk, tree))
            return change(parts) if kind == "NamedTuple" else parts
        if isinstance(tree, dict):
            parts = {key: walk(x) for key, x in tree.items()}
            return change(parts) if kind == "dict" else parts
        if isinstance(tree, tuple | list):
            parts = tuple(map(walk, tree))
            return change(parts) if kind == "tuple" else parts
        return tree

    return walk


CHANGES = {
    "all": lists,
    "tuples to lists": only("tuple", list),
    "keys to text": only("dict", lambda tree: {str(key): x for key, x in tree.items()}),
    "NamedTuples to dictionaries": only("NamedTuple", lambda tree: tree._asdict()),
    "NamedTuples to tuples": only("NamedTuple", tuple),
    "flax": flax.serialization.to_state_dict,
    "msgpack": lambda tree: flax.serialization.msgpack_restore(flax.serialization.to_bytes(tree)),
    "JSON": lambda tree: json.loads(json.dumps(lists(jax.tree.map(lambda x: np.asarray(x).tolist(), tree)))),
}


def assert_one_line(error):
    message = str(error.value)
    assert "\n" not in message
    assert "restored onto" in message


@pytest.mark.parametrize("jit", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@EACH
def test_a_state_in_other_containers_is_one_line(row, change, jit):
    tx = make(row)
    update = jax.jit(tx.update) if jit else tx.update
    state = tx.init(PARAMS)
    with pytest.raises(mulo.InputError) as caught:
        update(PARAMS, change(state), PARAMS, value=1.0)
    assert_one_line(caught)
    inside = change(state.inner)
    if inside != state.inner:
        with pytest.raises(mulo.InputError) as caught:
            update(PARAMS, state._replace(inner=inside), PARAMS, value=1.0)
        assert_one_line(caught)
    optimizer_state = mulo.init(PARAMS, row.checkpoint(golden=False), num_steps=row.num_steps)
    with pytest.raises(mulo.InputError) as caught:
        mulo.apply(optimizer_state.replace(inner=inside), PARAMS, value=1.0)
    assert_one_line(caught)


@EACH
def test_a_state_that_is_restored_onto_one_works(row):
    tx = make(row)
    _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0)
    as_bytes = flax.serialization.to_bytes(state)
    restored = flax.serialization.from_state_dict(
        tx.init(PARAMS), flax.serialization.msgpack_restore(as_bytes)
    )
    assert_trees_equal(restored, state)
    optimizer_state = mulo.init(PARAMS, row.checkpoint(golden=False), num_steps=row.num_steps)
    saved = flax.serialization.to_state_dict(optimizer_state)
    assert_trees_equal(flax.serialization.from_state_dict(optimizer_state, saved), optimizer_state)


def test_the_two_line_state_as_a_dictionary():
    optimizer_state = mulo.init(PARAMS, SMALL_FC_H4.checkpoint(golden=False))
    with pytest.raises(mulo.InputError) as caught:
        mulo.apply(flax.serialization.to_state_dict(optimizer_state), PARAMS)
    assert_one_line(caught)


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_orbax_without_and_with_a_structure(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    tx = optax.chain(optax.clip(1.0), make(SMALL_FC_H4))
    state = tx.init(PARAMS)
    with orbax.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", state)
        bare = checkpointer.restore(tmp_path / "state")
        whole = checkpointer.restore(tmp_path / "state", item=state)
    with pytest.raises(mulo.InputError) as caught:
        tx.update(PARAMS, bare, PARAMS)
    assert_one_line(caught)
    assert_trees_equal(whole, state)
    # optax.chain takes a list of its parts as well, and so ours inside it.
    tx.update(PARAMS, list(state), PARAMS)
