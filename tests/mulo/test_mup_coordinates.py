"""The coordinate check passes what is in muP, and fails what is not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo.mup import Role, WidthModel, coordinate_check, scale_by_mup
from tests.descriptors import SMALL_FC_H4

pytestmark = pytest.mark.usefixtures("standard_promotion")

INPUTS, OUTPUTS, BASE = 16, 4, 64
WIDTHS = (64, 128, 256)
X = jax.random.normal(jax.random.key(3), (32, INPUTS))
BATCH = X, jnp.stack([jnp.sin(X.sum(1)), X[:, 0], X[:, 1] * X[:, 2], jnp.abs(X[:, 3])], axis=1)


def mlp(width, parametrization="mup", loss_scale=1.0):
    """Two hidden layers without biases."""

    def init(key, width=width):
        keys = jax.random.split(key, 3)
        sizes = {"in": (INPUTS, width), "hidden": (width, width), "out": (width, OUTPUTS)}
        params = {
            name: jax.random.normal(key, size) / size[0] ** 0.5
            for key, (name, size) in zip(keys, sizes.items(), strict=True)
        }
        return params if parametrization == "sp" else {**params, "out": jnp.zeros((width, OUTPUTS))}

    def activations(params, batch):
        first = batch[0] @ params["in"]
        second = jax.nn.relu(first) @ params["hidden"]
        logits = jax.nn.relu(second) @ params["out"]
        factor = 1.0 if parametrization == "sp" else mulo.mup.output_multiplier(width)
        return {"in": first, "hidden": second, "out": logits * factor}

    def loss(params, batch):
        return loss_scale * jnp.mean(jnp.square(activations(params, batch)["out"] - batch[1]))

    shapes = [jax.eval_shape(functools.partial(init, width=n), jax.random.key(0)) for n in (width, BASE, 8)]
    mup = mulo.mup.STANDARD if parametrization == "sp" else mulo.mup.infer(*shapes)
    return WidthModel(init=init, loss=loss, activations=activations, mup=mup)


def adam(mup):
    return optax.chain(optax.scale_by_adam(), scale_by_mup(mup, "adam"), optax.scale(-0.01))


def sgd(mup, rules="sgd"):
    return optax.chain(scale_by_mup(mup, rules), optax.scale(-10.0))


check = functools.partial(coordinate_check, batch=BATCH, widths=WIDTHS, num_steps=4, num_seeds=2)


def test_muadam_is_flat():
    result = check(mlp, adam)
    assert result.passed, result.table()
    assert result.layers == ("in", "hidden", "out")
    assert result.changes.shape == (3, 2, 4, 3)
    assert np.all(result.losses[:, :, -1] < result.losses[:, :, 0])


def test_adam_in_standard_parametrization_grows():
    result = check(functools.partial(mlp, parametrization="sp"), adam)
    verdicts = dict(zip(result.layers, result.verdicts, strict=True))
    assert verdicts["hidden"] == "growing", result.table()
    assert result.slopes[1] > 0.7
    assert not result.passed


def test_musgd_is_flat_and_without_its_multipliers_it_vanishes():
    result = check(mlp, sgd)
    assert result.passed, result.table()
    # The same learning rate for all leaves: input and output weights move less and less.
    assert check(mlp, lambda _: optax.sgd(10.0)).verdicts == ("vanishing",) * 3


@pytest.mark.slow
def test_a_learned_optimizer_under_mup_is_flat_and_without_it_grows():
    # The golden theta is momentum over its root mean square, with an epsilon of 1e-5 in the mean square:
    # of gradients that shrink as 1/width, only large ones keep their size.
    large_loss = functools.partial(mlp, loss_scale=1e4)
    checkpoint = SMALL_FC_H4.checkpoint("mup")
    result = check(large_loss, lambda mup: mulo.optimizer(checkpoint, 10.0, mup=mup), widths=(64, 256))
    assert result.passed, result.table()
    without = check(
        large_loss, lambda _: mulo.optimizer(checkpoint, 10.0, mup=mulo.mup.STANDARD), widths=(64, 256)
    )
    assert without.verdicts[1:] == ("growing", "growing"), without.table()


def low_rank(width, role):
    """A pair of low rank beside a hidden weight; the forward pass has no output multiplier for it."""
    model = mlp(width)

    def init(key, width=width):
        pair = {"a": jax.random.normal(key, (width, 4)) / width**0.5, "b": jnp.zeros((4, width))}
        return mlp(width).init(key) | pair

    def activations(params, batch):
        first = batch[0] @ params["in"]
        narrow = jax.nn.relu(first) @ params["a"]
        second = first @ params["hidden"] + narrow @ params["b"]
        logits = jax.nn.relu(second) @ params["out"] * mulo.mup.output_multiplier(width)
        return {"narrow": narrow, "second": second, "out": logits}

    def loss(params, batch):
        return jnp.mean(jnp.square(activations(params, batch)["out"] - batch[1]))

    shapes = [jax.eval_shape(functools.partial(init, width=n), jax.random.key(0)) for n in (width, BASE, 8)]
    mup = mulo.mup.infer(*shapes, overrides={"a": role})
    return model._replace(init=init, loss=loss, activations=activations, mup=mup)


@pytest.mark.slow
def test_a_low_rank_pair_without_multiplier_has_the_role_of_a_hidden_weight():
    assert check(functools.partial(low_rank, role=Role.HIDDEN), adam).passed
    wrong = check(functools.partial(low_rank, role=Role.OUTPUT), adam)
    assert wrong.verdicts[0] == "growing", wrong.table()


def line(width, slope):
    """One weight, of which a step of 1 changes the only layer by width**slope."""
    return WidthModel(
        init=lambda key: {"w": jax.random.normal(key)},
        loss=lambda params, batch: params["w"] * jnp.mean(batch),
        activations=lambda params, batch: {"layer": params["w"] * batch * float(width) ** slope},
        mup=mulo.mup.STANDARD,
    )


def descend(_):
    return optax.sgd(1.0)


@pytest.mark.parametrize(
    ("slope", "verdict"),
    [(0.0, "flat"), (0.09, "flat"), (0.11, "growing"), (-0.11, "vanishing"), (2.0, "growing")],
)
def test_slopes_and_verdicts(slope, verdict):
    result = coordinate_check(
        functools.partial(line, slope=slope), descend, jnp.ones(3), widths=(10, 100), num_steps=2, num_seeds=1
    )
    assert result.slopes[0] == pytest.approx(slope, abs=1e-4)
    assert result.verdicts == (verdict,)
    # Two steps of 1 at 10 and 100.
    assert result.changes[:, 0, 1, 0] == pytest.approx([2 * 10**slope, 2 * 100**slope], rel=1e-4)


def test_layers_that_stand_still_or_are_not_finite():
    def make(width):
        model = line(width, 0.0)
        return model._replace(
            activations=lambda params, batch: {"still": batch, "broken": params["w"] * batch / 0.0}
        )

    result = coordinate_check(make, descend, jnp.ones(3), widths=(2, 4), num_steps=1, num_seeds=1)
    assert result.verdicts == ("no change", "not finite")
    assert np.isnan(result.slopes).all()
    assert not result.passed
    lines = result.table().splitlines()
    assert lines[0].split() == ["layer", "2", "4", "slope", "verdict"]
    assert lines[1].split() == ["still", "0", "0", "+nan", "no", "change"]


def test_a_batch_for_each_step_and_the_loss_as_value():
    seen = []

    def optimizer(_):
        def update(grads, state, params=None, *, value):
            del params
            seen.append(value.shape)
            return jax.tree.map(lambda g: -g, grads), state

        return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)

    settings = {"widths": (2, 4), "num_steps": 3, "num_seeds": 2, "key": jax.random.key(5)}
    make = functools.partial(line, slope=0.0)
    drawn = coordinate_check(
        make, optimizer, jnp.ones(3), draw_batch=lambda key: jax.random.normal(key, (3,)), **settings
    )
    fixed = coordinate_check(make, optimizer, jnp.ones(3), **settings)
    assert set(seen) == {()}
    np.testing.assert_array_equal(drawn.changes[0], drawn.changes[1])  # the same draws at every width
    assert not np.allclose(drawn.changes, fixed.changes)
    assert len(np.unique(drawn.changes)) == 6  # two seeds, three steps


def renamed(width):
    model = line(width, 0.0)
    return model._replace(activations=lambda params, batch: {f"layer_{width}": params["w"] * batch})


ERRORS = {
    "one width": ({"widths": (64, 64)}, r"widths are \(64, 64\); wanted at least two different ones"),
    "no step": ({"num_steps": 0}, "num_steps is 0 and num_seeds 1; wanted at least 1 of each"),
    "tolerance": ({"tolerance": 0.0}, "tolerance is 0.0; wanted a slope above 0"),
    "layers": ({"make": renamed}, "layers at width 4 are layer_4, at width 2 layer_2; wanted the same"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    changed, message = ERRORS[case]
    settings = {"make": functools.partial(line, slope=0.0), "widths": (2, 4), "num_steps": 1, "num_seeds": 1}
    with pytest.raises(mulo.InputError, match=message):
        coordinate_check(**{"optimizer": descend, "batch": jnp.ones(3), **settings, **changed})
