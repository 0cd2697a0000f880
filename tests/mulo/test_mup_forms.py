"""A model in standard form trains as the same model written in muP, with any optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo.mup import Leaf, Role, in_mup_form, scale_by_mup
from tests.closeness import assert_trees_close, assert_trees_equal
from tests.descriptors import SMALL_FC_H4

pytestmark = pytest.mark.optimized

HEADS, INPUTS, OUTPUTS, NUM_STEPS = 3, 5, 2, 8
BATCH = jax.random.normal(jax.random.key(0), (6, 4, INPUTS))
TARGETS = jnp.sin(BATCH[..., :OUTPUTS] * 2)


def shapes(width):
    """Attention with residual, then a hidden layer; no power of 2, so that factors round."""
    head_dim = width // HEADS
    return {
        "in": {"w": (INPUTS, width), "b": (width,)},
        "q": {"w": (width, HEADS, head_dim), "b": (HEADS, head_dim)},
        # No bias: its gradient is zero but for rounding, which Adam would blow up.
        "k": {"w": (width, HEADS, head_dim)},
        "v": {"w": (width, HEADS, head_dim), "b": (HEADS, head_dim)},
        "o": {"w": (HEADS, head_dim, width), "b": (width,)},
        "hidden": {"w": (width, width), "b": (width,)},
        "out": {"w": (width, OUTPUTS), "b": (OUTPUTS,)},
    }


def is_shape(x):
    return isinstance(x, tuple)


def structs(width):
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s, jnp.float32), shapes(width), is_leaf=is_shape)


def init(width):
    """As libraries do it: 1/sqrt(fan_in), here for the output weight too."""
    leaves, structure = jax.tree.flatten(shapes(width), is_leaf=is_shape)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    fan_ins = [shape[0] if len(shape) < 3 or shape[0] == width else width for shape in leaves]
    arrays = [
        jax.random.normal(key, shape) / np.float32(np.sqrt(n))
        for key, shape, n in zip(keys, leaves, fan_ins, strict=True)
    ]
    return structure.unflatten(arrays)


def loss(params, attention_scale, output_multiplier):
    def project(name, x, axes=1):
        y = jnp.tensordot(x, params[name]["w"], axes)
        return y + jnp.broadcast_to(params[name].get("b", 0.0), y.shape)

    x = jnp.tanh(project("in", BATCH))
    q, k, v = (project(name, x) for name in "qkv")
    logits = jnp.einsum("bthd,bshd->bhts", q, k) * attention_scale
    x = x + project("o", jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(logits), v), 2)
    x = jnp.tanh(project("hidden", x))
    y = jnp.tensordot(x, params["out"]["w"], 1) * output_multiplier
    return jnp.mean(jnp.square(y + jnp.broadcast_to(params["out"]["b"], y.shape) - TARGETS))


WIDTH, BASE = 21, 12
HEAD_DIM = WIDTH // HEADS
OVERRIDES = {"q/*": Leaf(forward_multiplier=mulo.mup.attention_scale(HEAD_DIM) * HEAD_DIM**0.5)}
MUP = mulo.mup.infer(structs(WIDTH), structs(BASE))
STANDARD = mulo.mup.infer(structs(WIDTH), structs(BASE), overrides=OVERRIDES, form="standard")


def mup_loss(params):
    return loss(params, mulo.mup.attention_scale(HEAD_DIM), mulo.mup.output_multiplier(WIDTH))


def standard_loss(params):
    return loss(params, HEAD_DIM**-0.5, 1.0)


def starts():
    """The same network in both forms, its output weight not zero."""
    standard = mulo.mup.rescale_init(init(WIDTH), STANDARD)
    return jax.tree.map(lambda p, m: p / m, standard, STANDARD.forward_multipliers(standard)), standard


def train(tx, loss_fn, params):
    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state, value

    state, losses = tx.init(params), []
    for _ in range(NUM_STEPS):
        params, state, value = step(params, state)
        losses.append(float(value))
    return losses, params


def chain_of(optimizer, scaled_as, learning_rate):
    return lambda mup: optax.chain(optimizer, scale_by_mup(mup, scaled_as), optax.scale(-learning_rate))


def random_learned(mup):
    """Every feature counts, sizes of parameters and gradients too."""
    learned = mulo.SmallFC(hidden_size=4, step_mult=0.05)
    theta = learned.init_theta(jax.random.key(7))
    return mulo.optimizer(mulo.Checkpoint(optimizer=learned, theta=theta, parametrization="mup"), mup=mup)


def adamw(mup):
    """With an epsilon and a weight decay that matter."""
    return optax.chain(
        optax.scale_by_adam(eps=1e-3),
        optax.add_decayed_weights(0.3),
        scale_by_mup(mup, "adam"),
        optax.scale(-0.03),
    )


MULTIPLIERS_ARE_ENOUGH = {
    "sgd": chain_of(optax.identity(), "sgd", 0.5),
    "sgd with momentum": chain_of(optax.trace(0.9), "sgd", 0.2),
    "adam, epsilon negligible": chain_of(optax.scale_by_adam(eps=1e-20), "adam", 0.03),
    "learned": random_learned,
}
ANY_OPTIMIZER = {
    "sgd": MULTIPLIERS_ARE_ENOUGH["sgd"],
    "adamw": adamw,
    "learned": random_learned,
}
CASES = {
    **MULTIPLIERS_ARE_ENOUGH,
    **{
        f"{name} in_mup_form": lambda mup, make=make: in_mup_form(make, mup)
        for name, make in ANY_OPTIMIZER.items()
    },
}


def test_the_two_forms_are_one_function():
    ours, standard = starts()
    assert float(mup_loss(ours)) == pytest.approx(float(standard_loss(standard)), rel=1e-6)
    assert float(jnp.std(standard["out"]["w"])) > 0.1


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=pytest.mark.slow if case == "learned in_mup_form" else ()) for case in CASES],
)
def test_both_forms_give_the_same_run(case):
    make = CASES[case]
    ours, standard = starts()
    losses, params = train(make(MUP), mup_loss, ours)
    standard_losses, standard_params = train(make(STANDARD), standard_loss, standard)
    assert losses[-1] < losses[0] - 0.005 or case.startswith("learned")
    assert abs(losses[-1] - losses[0]) > 0.005
    np.testing.assert_allclose(standard_losses, losses, rtol=1e-5)
    # Rounding of the factors, through NUM_STEPS steps.
    moved = jax.tree.map(lambda p, m: p / m, standard_params, STANDARD.forward_multipliers(standard_params))
    assert_trees_close(moved, params, 5e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_multipliers_alone_are_not_enough_for_adamw():
    """Without `in_mup_form` its epsilon and weight decay act on other sizes: the comparison can fail."""
    ours, standard = starts()
    losses, _ = train(adamw(MUP), mup_loss, ours)
    standard_losses, _ = train(adamw(STANDARD), standard_loss, standard)
    assert abs(standard_losses[-1] / losses[-1] - 1) > 1e-3


def small(width):
    """A hidden weight and an output weight."""
    return {"hidden": jnp.full((width, width), 0.5), "out": jnp.full((width, 2), 0.25)}


SMALL = mulo.mup.infer(small(6), small(4), form="standard")


@pytest.mark.parametrize("form", ["mup", "standard"])
def test_the_two_line_form(form):
    params = small(6)
    mup = mulo.mup.infer(params, small(4), form=form)
    learned = mulo.SmallFC(hidden_size=4, step_mult=0.05)
    theta = learned.init_theta(jax.random.key(7))
    checkpoint = mulo.Checkpoint(optimizer=learned, theta=theta, parametrization="mup")
    tx = mulo.optimizer(checkpoint, mup=mup)
    state, optimizer_state = tx.init(params), mulo.init(params, checkpoint, mup=mup)
    update, apply = jax.jit(tx.update), jax.jit(mulo.apply)
    for _ in range(2):
        grads = jax.tree.map(jnp.cos, params)
        updates, state = update(grads, state, params)
        theirs, optimizer_state = apply(optimizer_state, grads)
        # Where `apply` is compiled, adding the update may be one operation with its last product.
        assert_trees_close(theirs, updates, 1e-6)
        params = optax.apply_updates(params, updates)


def test_dtypes_and_shapes_of_half_precision_in_standard_form():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), small(6))
    tx = mulo.optimizer(SMALL_FC_H4.checkpoint("mup"), mup=SMALL)
    updates, _ = jax.jit(tx.update)(half, tx.init(half), half)
    assert jax.tree.map(lambda u: (u.shape, u.dtype), updates) == jax.tree.map(
        lambda p: (p.shape, p.dtype), half
    )
    mapped = optax.tree.map_params(tx, lambda x: x + 1, tx.init(half))
    assert jax.tree.structure(mapped) == jax.tree.structure(tx.init(half))


def test_leaves_that_are_left_out_in_standard_form():
    params = small(6)
    mask = {"hidden": False, "out": True}
    tx = optax.masked(mulo.optimizer(SMALL_FC_H4.checkpoint("mup"), mup=SMALL), mask)
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert_trees_equal(updates["hidden"], params["hidden"])
    assert not np.array_equal(updates["out"], params["out"])


def test_rescale_init():
    params = init(WIDTH)
    scaled = mulo.mup.rescale_init(params, STANDARD)
    wanted = {
        **params,
        "out": {"w": params["out"]["w"] * np.float32((BASE / WIDTH) ** 0.5), "b": params["out"]["b"]},
        "q": jax.tree.map(lambda p: p / np.float32(HEAD_DIM**0.5), params["q"]),
    }
    assert_trees_close(scaled, wanted, 1e-6)
    zeros = mulo.mup.rescale_init(params, STANDARD, output="zeros")
    assert_trees_equal(zeros, {**scaled, "out": {"w": jnp.zeros((WIDTH, OUTPUTS)), "b": params["out"]["b"]}})
    # Base width: the network that was there.
    same = mulo.mup.infer(structs(BASE), structs(BASE), structs(WIDTH), form="standard")
    assert_trees_equal(mulo.mup.rescale_init(init(BASE), same), init(BASE))


def test_rescale_init_with_an_output_factor_of_its_own():
    """A factor that was given moves the weight by itself, whatever the role."""
    given = {"out/w": Leaf(forward_multiplier=BASE / WIDTH)}
    mup = mulo.mup.infer(structs(WIDTH), structs(BASE), overrides=given, form="standard")
    params = init(WIDTH)
    scaled = mulo.mup.rescale_init(params, mup)
    assert_trees_close(scaled["out"]["w"], params["out"]["w"] * np.float32(BASE / WIDTH), 1e-6)
    assert_trees_equal({**scaled, "out": None}, {**params, "out": None})


ERRORS = {
    "learned multipliers": (
        lambda params: STANDARD.update_multipliers(params),
        "looks at the size of parameters and gradients, so in standard form factors .*in_mup_form",
    ),
    "learned transform": (
        lambda _: scale_by_mup(STANDARD, "learned"),
        "in standard form factors on its steps are not enough",
    ),
    "no parameters": (
        lambda params: in_mup_form(lambda _: optax.identity(), STANDARD).update(params, optax.EmptyState()),
        r"needs the parameters: call tx\.update\(grads, state, params\)",
    ),
    "init of the muP form": (
        lambda params: mulo.mup.rescale_init(params, MUP),
        "rescale_init is for models in standard form",
    ),
    "init": (
        lambda params: mulo.mup.rescale_init(params, STANDARD, output="zero"),
        "No initial output weight is called 'zero'. Did you mean 'zeros'?",
    ),
    "gradients of another network": (
        lambda params: in_mup_form(lambda _: optax.identity(), STANDARD).update(
            {"in": params["in"]}, optax.EmptyState(), params
        ),
        "The gradients have no leaf",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    call, message = ERRORS[case]
    with pytest.raises(mulo.InputError, match=message):
        call(init(WIDTH))


def test_a_low_rank_pair_has_its_multiplier_in_standard_form_or_the_role_of_a_hidden_weight():
    def pair(n):
        return {"a": jnp.ones((n, 2)), "b": jnp.zeros((2, n))}

    standard = mulo.mup.infer(pair(8), pair(4), form="standard")
    hidden = mulo.mup.infer(pair(8), pair(4), overrides={"a": Role.HIDDEN})
    assert standard.multipliers(pair(8), "adam") == {"a": 1 / 8, "b": 1}
    assert hidden.multipliers(pair(8), "adam") == {"a": 1 / 2, "b": 1}
