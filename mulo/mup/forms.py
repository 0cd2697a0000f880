"""The two forms of muP: multipliers in the forward pass, or in the parameters.

A model in standard form computes f(W') with no multipliers; the same model written in muP computes f(m W),
with a multiplier m for each leaf. With W' = m W the two are one function, grad_W = m grad_W', and a step u
of W is the step m u of W' (the abc symmetries of Tensor Programs V, arXiv 2203.03466, appendix J, said
of any optimizer). So an optimizer that is shown W'/m and m grad_W', and whose steps are multiplied by m,
does in the standard form what it does in the muP form.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo import _tree
from mulo._types import Params, PyTree, Updates
from mulo.errors import InputError
from mulo.mup.roles import Role
from mulo.mup.shapes import MuP
from mulo.names import lookup

_OUTPUT_INITS = {"scaled": "1/sqrt(fan-in growth)", "zeros": "zeros"}


def in_mup_form(
    make_optimizer: Callable[[MuP], optax.GradientTransformation], mup: MuP
) -> optax.GradientTransformationExtraArgs:
    """Any optax optimizer on a model in standard form: the run that the muP form would make.

    It holds to rounding for every optimizer, with its epsilon and its weight decay, since it is shown what
    it would see in the muP form. `mulo.optimizer` and `mulo.init` do this by themselves.

    Args:
      make_optimizer: mup -> optimizer; is called with the same muP in the form "mup", for
        `mulo.mup.scale_by_mup`, which must not be given the standard form as well.
      mup: from `mulo.mup.infer(..., form="standard")`. With the form "mup" nothing is added.

    Returns:
      The optimizer, whose `update` needs `params`.

    >>> shapes = [{"w": jnp.ones((n, 1))} for n in (8, 4)]
    >>> from mulo import mup
    >>> standard = mup.infer(*shapes, form="standard")
    >>> tx = in_mup_form(
    ...     lambda mup_: optax.chain(optax.scale_by_sign(), mup.scale_by_mup(mup_, "adam")), standard)
    >>> updates, _ = tx.update(shapes[0], tx.init(shapes[0]), shapes[0])
    >>> float(updates["w"][0, 0])
    0.125
    """
    tx = optax.with_extra_args_support(make_optimizer(mup_form(mup)))

    def init(params: Params) -> PyTree:
        return tx.init(to_mup_form(mup, params))

    def update(
        grads: Updates, state: PyTree, params: Params | None = None, **extra: Any
    ) -> tuple[Updates, PyTree]:
        if params is None and mup.form == "standard":
            raise InputError("The standard form needs the parameters: call tx.update(grads, state, params).")
        return step_in_mup_form(
            mup, lambda _, grads, params: tx.update(grads, state, params, **extra), grads, params
        )

    return optax.GradientTransformationExtraArgs(init, update)


def step_in_mup_form(
    mup: MuP,
    step: Callable[[MuP, Updates, Params], tuple[Updates, PyTree]],
    grads: Updates,
    params: Params,
) -> tuple[Updates, PyTree]:
    """Calls `step` with muP, gradients and parameters of the muP form; gives updates of the form of `mup`.

    Leaves without a multiplier go through untouched; the others are seen in float32 at least. The updates
    have the dtypes of the parameters where the step keeps to those.
    """
    if mup.form != "standard" or not mup.leaves:
        return step(mup, grads, params)
    _tree.check_same_shapes(grads, params)
    multipliers = mup.forward_multipliers(params)
    updates, state = step(
        mup_form(mup),
        jax.tree.map(lambda grad, m: _times(grad, m), grads, multipliers),
        to_mup_form(mup, params),
    )

    def back(update: jax.Array, m: float, param: jax.Array) -> jax.Array:
        return update if m == 1 else _times(update, m).astype(jnp.result_type(param))

    return jax.tree.map(back, updates, multipliers, params), state


def mup_form(mup: MuP) -> MuP:
    """The muP of the same network in the form "mup"."""
    return dataclasses.replace(mup, form="mup")


def to_mup_form(mup: MuP, params: Params) -> Params:
    """The parameters as they are in the muP form, where `mup` is of the standard form."""
    if mup.form != "standard" or not mup.leaves:
        return params
    return mup.map_leaves(lambda leaf, param: _times(param, 1 / leaf.forward_multiplier), params)


def _times(x: jax.Array, factor: float) -> jax.Array:
    if factor == 1:
        return x
    dtype = jnp.result_type(x)
    dtype = dtype if dtype.itemsize >= 4 else jnp.float32
    return jnp.asarray(x, dtype) * jnp.asarray(factor, dtype)


def rescale_init(params: Params, mup: MuP, *, output: str = "scaled") -> Params:
    """Initial parameters of a model in standard form, from those that its library gave.

    Output weights, which libraries start with a standard deviation of 1/sqrt(fan_in), get one of 1/fan_in,
    the same as before at base width (Tensor Programs V, arXiv 2203.03466, table 3), or zeros. Leaves whose
    forward multiplier was given by `mulo.mup.Leaf` are multiplied by it. All others stay: hidden
    weights with 1/sqrt(fan_in) are right as they are. An embedding must not start smaller in wider
    networks, as Flax's default does: give it `nn.initializers.normal(1.0)`.

    Args:
      params: initial parameters, at the width that `mup` was inferred for.
      mup: from `mulo.mup.infer(..., form="standard")`.
      output: "scaled" or "zeros". Zeros are what muLO trains from; they would stop a pair of weights of
        which the other is zero too.

    Raises:
      InputError: `mup` is of the form "mup" or of another network, or no such `output`.

    >>> from mulo import mup
    >>> shapes = [{"w": jnp.ones((n, 1))} for n in (16, 4)]
    >>> rescale_init(shapes[0], mup.infer(*shapes, form="standard"))["w"][0]
    Array([0.5], dtype=float32)
    """
    lookup(_OUTPUT_INITS, output, "initial output weight")
    if mup.form != "standard":
        raise InputError(
            "rescale_init is for models in standard form: pass what mulo.mup.infer(..., form='standard') "
            "returns. A model written in muP has its own initial values; see the column `init std` of its "
            "summary."
        )

    def rescale(leaf: Any, param: jax.Array) -> jax.Array:
        if leaf.role is Role.OUTPUT and output == "zeros":
            factor = 0.0
        elif leaf.role is Role.OUTPUT and leaf.own_forward_multiplier is None:
            factor = math.sqrt(leaf.base_fan_in / leaf.fan_in)
        else:
            factor = leaf.forward_multiplier
        return param if factor == 1 else _times(param, factor).astype(jnp.result_type(param))

    return mup.map_leaves(rescale, params)
