"""Wrong calls and wrong parameters: one line each that says what to do."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from tests.descriptors import SMALL_FC_H4

PARAMS = {"b": jnp.ones(3), "w": jnp.ones((2, 3))}
CHECKPOINT = SMALL_FC_H4.checkpoint(golden=False)
MUP = mulo.mup.infer({"w": jnp.ones((8, 4))}, {"w": jnp.ones((4, 2))})
CALLS = {
    "lr": (
        lambda: mulo.optimizer(CHECKPOINT, lr=1e-3),
        r"^mulo\.optimizer has no argument lr; what is meant is learning_rate: mulo\.optimizer\(source, ",
    ),
    "weight decay": (
        lambda: mulo.optimizer(CHECKPOINT, wd=0.1),
        "no argument wd; what is meant is weight_decay",
    ),
    "typing error": (
        lambda: mulo.init(PARAMS, CHECKPOINT, num_step=3),
        "num_step; what is meant is num_steps",
    ),
    "length": (
        lambda: mulo.init(PARAMS, CHECKPOINT, total_steps=3),
        "total_steps; what is meant is num_steps",
    ),
    "nothing like it": (
        lambda: mulo.optimizer(CHECKPOINT, nesterov=True),
        r"no argument nesterov; wanted: mulo\.optimizer\(source, learning_rate, mup=\.\.\., num_steps=",
    ),
    "mup by place": (lambda: mulo.optimizer(CHECKPOINT, MUP), r"learning_rate is a MuP; .* mup=mup\.$"),
    "mup as third": (
        lambda: mulo.optimizer(CHECKPOINT, 1.0, MUP),
        r"beyond the first 2 of type MuP; wanted all others by name, as in mup=mup",
    ),
    "mup by place in init": (
        lambda: mulo.init(PARAMS, CHECKPOINT, MUP),
        "of type MuP; wanted all others by name",
    ),
    "loss by place": (lambda: mulo.apply(mulo.init(PARAMS, CHECKPOINT), PARAMS, 1.0), r"value=\.\.\."),
    "loss": (
        lambda: mulo.apply(mulo.init(PARAMS, CHECKPOINT), PARAMS, loss=1.0),
        "mulo.apply has no argument loss; what is meant is value",
    ),
    "rate in init": (lambda: mulo.init(PARAMS, CHECKPOINT, learning_rate=1.0), "no argument learning_rate"),
    "no source": (
        lambda: mulo.optimizer(),
        r"missing a required argument: 'source'; wanted mulo\.optimizer\(",
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_wrong_call_is_one_line(call):
    function, message = CALLS[call]
    with pytest.raises(mulo.InputError, match=message) as caught:
        function()
    assert "\n" not in str(caught.value)


WRONG_RATES = [-1, -1e-3, np.float32(-1), float("nan"), float("inf"), "0.1", None, True, [1.0], jnp.ones(3)]


@pytest.mark.parametrize("rate", [*WRONG_RATES, jnp.float32(-1)], ids=repr)
def test_a_rate_that_is_none_is_refused(rate):
    for name in ("learning_rate", "weight_decay"):
        with pytest.raises(
            mulo.InputError, match=f"{name} is .*; wanted a finite number of at least 0"
        ) as caught:
            mulo.optimizer(CHECKPOINT, **{name: rate})
        assert "\n" not in str(caught.value)
    with pytest.raises(mulo.InputError, match=r"weight_decay is .*; wanted a finite number"):
        mulo.init(PARAMS, CHECKPOINT, weight_decay=rate)


@pytest.mark.parametrize("rate", [0, 1, 0.5, np.float64(0.5), np.array(0.5), jnp.float32(0.5), lambda _: 0.5])
def test_a_rate_is_accepted(rate):
    tx = mulo.optimizer(CHECKPOINT, rate)
    tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_the_error_for_a_missing_mup_begins_with_what_an_existing_model_needs():
    for build in (mulo.optimizer, lambda source: mulo.init(PARAMS, source)):
        with pytest.raises(mulo.InputError) as caught:
            build(SMALL_FC_H4.checkpoint("mup"))
        message = str(caught.value)
        standard, rescale = message.index("form='standard'"), message.index("rescale_init")
        assert standard < rescale < message.index("written in muP") < message.index("STANDARD")
        assert "or mup=mulo.mup.STANDARD" not in message


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=True)(nn.Dense(self.width)(x))
        return nn.Dense(2)(nn.relu(x))


def variables(width):
    return Net(width).init(jax.random.key(0), jnp.zeros((1, 4)))


INNER = mulo.mup.infer(variables(8)["params"], variables(4)["params"])
OUTER = mulo.mup.infer({"params": variables(8)["params"]}, {"params": variables(4)["params"]})
UNDER_MUP = SMALL_FC_H4.checkpoint("mup", golden=False)
BUILDS = {
    "optimizer": lambda params, mup: mulo.optimizer(UNDER_MUP, mup=mup).init(params),
    "init": lambda params, mup: mulo.init(params, UNDER_MUP, mup=mup),
    "jitted": lambda params, mup: jax.jit(mulo.optimizer(UNDER_MUP, mup=mup).init)(params),
    "chain": lambda params, mup: optax.chain(optax.clip(1.0), mulo.optimizer(UNDER_MUP, mup=mup)).init(
        params
    ),
}
STANDARD_FORM = mulo.mup.infer(variables(8)["params"], variables(4)["params"], form="standard")


@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_flax_variables_in_place_of_parameters_are_told(build):
    whole, inner = variables(8), variables(8)["params"]
    outer = {"params": inner}
    for mup in (INNER, STANDARD_FORM):
        with pytest.raises(mulo.InputError, match=r"for the tree inside 'params' .* Pass the tree inside"):
            build(outer, mup)
    with pytest.raises(mulo.InputError, match=r"these parameters as 'params'\. Pass that tree, or infer"):
        build(inner, OUTER)
    for mup in (INNER, OUTER, mulo.mup.STANDARD):
        with pytest.raises(mulo.InputError, match=r"beside them, 'batch_stats'.*variables\['params'\]"):
            build(whole, mup)
    for params, mup in ((inner, INNER), (outer, OUTER), (outer, mulo.mup.STANDARD), (inner, STANDARD_FORM)):
        build(params, mup)
