"""What is given to `mulo.mup.infer`, `mulo.init` and `tx.init` in place of parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo.mup import Leaf, Role
from tests.descriptors import SMALL_FC_H4


def layer(n):
    return {"w": jnp.ones((n, n)), "b": jnp.ones(n)}


def linear(n):
    return {"a": {"w": jnp.ones((3, n))}, "o": {"w": jnp.ones((n, 2))}}


def variables(n):
    return {"params": {"l": layer(n)}, "batch_stats": {"l": {"mean": jnp.ones(n)}}}


def equinox(n):
    eqx = pytest.importorskip("equinox")
    return eqx.nn.MLP(3, 2, n, 2, key=jax.random.key(0))


def linen(n):
    nn = pytest.importorskip("flax.linen")
    return nn.Dense(n)


def haiku(n):
    hk = pytest.importorskip("haiku")
    return hk.transform(lambda x: hk.Linear(n)(x))


def nnx_model(n):
    nnx = pytest.importorskip("flax.nnx")
    return nnx.Dict(norm=nnx.BatchNorm(n, rngs=nnx.Rngs(0)))


WRONG = {
    "numbers": (lambda n: n, r"`target` is 8; wanted the network's parameters: .*jax.eval_shape"),
    "none": (lambda _: None, "`target` is None; wanted"),
    "a function": (lambda _: layer, "`target` is a function; wanted"),
    "a Linen module": (linen, "`target` is a Dense; wanted"),
    "a Haiku transform": (haiku, "Leaf init is a function.*Pass the parameters that its `init` returns"),
    "an Equinox model": (equinox, r"Leaf activation is .*custom_jvp.*eqx\.filter\(model, eqx\.is"),
    "an NNX model": (nnx_model, r"Leaf norm/mean is an nnx\.BatchStat.*nnx\.state\(model, nnx\.Param\)"),
    "Linen's variables": (variables, r"parameters and, beside them, 'batch_stats'.*variables\['params'\]"),
    "variables inside": (lambda n: {"net": variables(n)}, r"Leaf net holds .*variables\['params'\]"),
    "integers": (lambda n: {**layer(n), "count": jnp.zeros(n, int)}, "Leaf count has dtype int32;.*masked"),
    "booleans": (lambda n: {**layer(n), "train": True}, "Leaf train is True; wanted arrays that are trained"),
    "tuples for shapes": (lambda n: {"w": (n, n)}, "Leaf w/0 is 8; wanted arrays"),
    "random keys": (lambda n: {**layer(n), "key": jax.random.key(0)}, r"Leaf key has dtype key<fry>"),
    "equal paths": (
        lambda n: {"a/b": jnp.ones(n), "a": {"b": jnp.ones((n, n))}},
        r"Two leaves of the tree have the path a/b, as in \{'a/b': x, 'a': \{'b': y\}\}\. Rename",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_tree_of_parameters_is_refused_by_infer(case):
    make, message = WRONG[case]
    with pytest.raises(mulo.InputError, match=message) as error:
        mulo.mup.infer(make(8), make(4))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("argument", ["base", "delta", "other_depth"])
def test_every_tree_is_looked_at(argument):
    trees = {"base": layer(4), argument: 4}
    with pytest.raises(mulo.InputError, match=f"`{argument}` is 4; wanted"):
        mulo.mup.infer(layer(8), **trees)


@pytest.mark.parametrize(
    "case", ["an Equinox model", "an NNX model", "Linen's variables", "booleans", "integers"]
)
def test_what_is_not_trained_is_refused_at_the_start_of_training(case):
    make, message = WRONG[case]
    for start in (mulo.optimizer(SMALL_FC_H4.checkpoint()).init, mulo.init):
        source = (SMALL_FC_H4.checkpoint(),) if start is mulo.init else ()
        with pytest.raises(mulo.InputError, match=message):
            start(make(8), *source)


def test_variables_with_parameters_only_and_other_trees_beside_parameters_are_taken():
    mulo.mup.infer({"params": layer(8)}, {"params": layer(4)})
    mulo.mup.infer(*({"params": layer(n), "critic": {"q": layer(n)}} for n in (8, 4)))


@pytest.mark.parametrize("wrap", [True, False])
def test_a_mup_of_another_nesting(wrap):
    trees = [({"params": layer(n)}, layer(n)) for n in (8, 4)]
    inferred, given = (0, 1) if wrap else (1, 0)
    mup = mulo.mup.infer(*(pair[inferred] for pair in trees))
    message = "holds these parameters as 'params'" if wrap else "inferred for the tree inside 'params' of"
    with pytest.raises(mulo.InputError, match=message):
        mup.update_multipliers(trees[0][given])


def test_a_field_called_value_keeps_its_name():
    eqx = pytest.importorskip("equinox")

    class Attention(eqx.Module):
        query: jax.Array
        key: jax.Array
        value: jax.Array

    def make(n):
        return {"attention": Attention(*(jnp.ones((n, n)) for _ in range(3)))}

    mup = mulo.mup.infer(make(8), make(4), overrides={"attention/value": Leaf(lr_multiplier=0.5)})
    factors = mup.multipliers(make(8), "adam")["attention"]
    assert (factors.query, factors.key, factors.value) == (0.5, 0.5, 0.25)


def test_what_stands_around_an_array_has_no_name():
    nnx = pytest.importorskip("flax.nnx")
    nn = pytest.importorskip("flax.linen")

    def trees(n):
        arrays = layer(n)
        return (
            arrays,
            jax.tree.map(nnx.Param, arrays),
            jax.tree.map(lambda x: nn.Partitioned(x, names=(None,) * x.ndim), arrays),
        )

    plain, *wrapped = (mulo.mup.infer(*pair) for pair in zip(trees(8), trees(4), strict=True))
    assert wrapped == [plain, plain]
    for tree in trees(8):
        assert jax.tree.leaves(plain.update_multipliers(tree)) == [1.0, 1 / 8]


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("form", ["mup", "standard"])
def test_complex_parameters_under_mup(form):
    def make(n):
        return {"w": jnp.ones((n, n), jnp.complex64) * (1 + 2j), "o": jnp.ones((n, 2))}

    params, mup = make(8), mulo.mup.infer(make(8), make(4), form=form)
    inner = mulo.optimizer(SMALL_FC_H4.checkpoint("mup"), mup=mup)
    with pytest.raises(mulo.InputError, match=r"w has dtype complex64.*split_real_and_imaginary"):
        inner.init(params)
    tx = optax.contrib.split_real_and_imaginary(inner)
    updates, _ = tx.update(params, tx.init(params), params)
    assert jax.tree.map(lambda u: (u.dtype, u.shape), updates) == jax.tree.map(
        lambda p: (p.dtype, p.shape), params
    )
    assert np.all(np.isfinite(updates["w"]))
    assert [leaf.role for leaf in mup.leaves] == [Role.OUTPUT, Role.HIDDEN]


def test_equal_paths_are_told_by_every_user_of_paths():
    params = {"a/b": jnp.ones(8), "a": {"b": jnp.ones(8)}}
    mup = mulo.mup.infer({"a": {"b": jnp.ones(8)}}, {"a": {"b": jnp.ones(4)}})
    with pytest.raises(mulo.InputError, match="Two leaves of the tree have the path a/b"):
        mup.update_multipliers(params)
    # Without muP nothing is named, and all goes well; a leaf of another shape is still seen.
    tx = mulo.optimizer(SMALL_FC_H4.checkpoint())
    state = tx.init(params)
    tx.update(params, state, params)
    for key in params:
        other = {**params, key: jax.tree.map(lambda x: x[:4], params[key])}
        with pytest.raises(mulo.InputError, match="for a/b it has shape"):
            tx.update(other, state, other)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([Role.HIDDEN], r"overrides is a list; wanted a dictionary of path or pattern"),
        ({3: Role.HIDDEN}, r"overrides names 3; wanted a path or a pattern"),
    ],
)
def test_overrides_of_another_type(overrides, message):
    with pytest.raises(mulo.InputError, match=message):
        mulo.mup.infer(layer(8), layer(4), overrides=overrides)


@pytest.mark.parametrize("factor", ["2", float("inf"), float("nan"), -1, True])
def test_factors_that_are_no_numbers_above_0(factor):
    with pytest.raises(mulo.InputError, match=r"lr_multiplier of a Leaf is .*; wanted a number above 0"):
        Leaf(lr_multiplier=factor)
