"""The per-parameter network: initial weights, and its application to the features of one tensor.

Features come first and the tensor's own axes last, so that elementwise work is contiguous.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Theta
from mulo.optimizers._blocks import Part, Put, choose_block_size, fold_blocks
from mulo.optimizers._features import (
    AxisFeatures,
    FeatureSet,
    Ingredients,
    element_features,
    element_scales,
    inverse_rms,
    mean_squares_of,
    stack,
)
from mulo.optimizers._placement import varying_like
from mulo.optimizers._views import factored_axes

MAX_UNROLLED = 16
"""Networks of at most so many hidden units are written out; larger ones would compile for seconds."""

CPU_BLOCK_SIZE = 32768
"""Parameters that larger networks are applied to at once on a CPU: within its caches."""

ACCELERATOR_BLOCK_SIZE = 1048576
"""The same on a GPU or TPU, where small parts would leave it idle."""


def init_mlp(key: jax.Array, num_inputs: int, hidden_size: int, num_outputs: int = 2) -> Theta:
    """Weights `w0 [I, H]`, `w1 [H, H]`, `w2 [H, O]` and biases `b0 [H]`, `b1 [H]`, `b2 [O]`.

    Weights are normal with standard deviation 1/sqrt(fan_in), cut at two standard deviations
    without correction for the cut; biases are zero.
    """
    sizes = (num_inputs, hidden_size, hidden_size, num_outputs)
    mlp = {}
    for i, layer_key in enumerate(jax.random.split(key, 3)):
        shape = sizes[i : i + 2]
        normal = jax.random.truncated_normal(layer_key, -2.0, 2.0, shape, jnp.float32)
        mlp[f"w{i}"] = normal / np.sqrt(shape[0]).astype(np.float32)
        mlp[f"b{i}"] = jnp.zeros(shape[1:], jnp.float32)
    return mlp


def apply_mlp(
    mlp: Theta,
    ingredients: Ingredients,
    axis_features: AxisFeatures,
    time: jax.Array | None,
    *,
    features: FeatureSet,
    exp_mult: float,
) -> jax.Array:
    """Size of a step before its multipliers, direction * exp(exp_mult * magnitude), [*shape].

    Networks of one output have the direction alone.

    What normalises a feature is multiplied into its weights. What is constant along an axis is multiplied
    with its weights before it is spread over that axis; the time features are constant over the tensor
    and become part of the first bias.

    Args:
      mlp: as from `init_mlp`.
      ingredients: of the tensor.
      axis_features: of the tensor.
      time: [11], read by the rows of the weights after those of the features; `None`: it does not count.
      features: which rows of the weights read which features.
      exp_mult: how much the magnitude counts.
    """
    w0, ndim = mlp["w0"], ingredients.grad.ndim
    row_weights, col_weights = w0[np.array(features.row_rows)], w0[np.array(features.col_rows)]
    bias = _spread(mlp["b0"] if time is None else mlp["b0"] + time @ w0[features.size :], ndim)
    if factored_axes(ingredients.grad.shape) is None:
        shares = [bias + _axis_share(row_weights + col_weights, axis_features.row)]
    else:
        shares = [
            bias + _axis_share(row_weights, axis_features.row),
            _axis_share(col_weights, axis_features.col),
        ]
    scales = element_scales(ingredients)
    if ingredients.grad.size > CPU_BLOCK_SIZE:
        # Without the barrier XLA would keep the features from their norms until they are used here.
        ingredients = jax.lax.optimization_barrier(ingredients)
    scaled = {**mlp, "w0": w0[np.array(features.element_rows)] * scales[:, None]}
    if len(mlp["b1"]) <= MAX_UNROLLED:
        return _apply_unrolled(scaled, ingredients, shares, exp_mult)
    return _apply_blocks(scaled, ingredients, shares, exp_mult)


def _axis_share(weights: jax.Array, features: tuple[jax.Array, ...]) -> jax.Array:
    """Share of the first layer. weights: [6, H] -> [H, *shape] with length 1 where the features have it."""
    scales = inverse_rms(mean_squares_of(features))
    return _linear(weights * scales[:, None], stack(features))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _apply_unrolled(
    mlp: Theta, ingredients: Ingredients, shares: Sequence[jax.Array], exp_mult: float
) -> jax.Array:
    """The network written out, unit by unit: XLA makes one loop over the parameters of it.

    Its reverse mode is that of the matrix form: written out too, it would compile for minutes.
    """
    features, units = element_features(ingredients), range(len(mlp["b1"]))
    hidden = [
        jax.nn.relu(dot(features, mlp["w0"], unit, sum(share[unit] for share in shares))) for unit in units
    ]
    hidden = [jax.nn.relu(dot(hidden, mlp["w1"], unit, mlp["b1"][unit])) for unit in units]
    return _step_size(
        [dot(hidden, mlp["w2"], output, bias) for output, bias in enumerate(mlp["b2"])], exp_mult
    )


def _step_size(outputs: Sequence[jax.Array], exp_mult: float) -> jax.Array:
    """From direction and magnitude, or the direction alone."""
    direction, *magnitudes = outputs
    for magnitude in magnitudes:
        direction *= jnp.exp(exp_mult * magnitude)
    return direction


def _unrolled_forward(
    mlp: Theta, ingredients: Ingredients, shares: Sequence[jax.Array], exp_mult: float
) -> tuple[jax.Array, tuple[Any, ...]]:
    return _apply_unrolled(mlp, ingredients, shares, exp_mult), (mlp, ingredients, shares)


def _unrolled_backward(exp_mult: float, arguments: tuple[Any, ...], cotangent: jax.Array) -> tuple[Any, ...]:
    def by_matrices(mlp: Theta, ingredients: Ingredients, shares: Sequence[jax.Array]) -> jax.Array:
        return _apply_matrices(_transpose(mlp), ingredients, shares, exp_mult)

    return jax.vjp(by_matrices, *arguments)[1](cotangent)


_apply_unrolled.defvjp(_unrolled_forward, _unrolled_backward)


def dot(inputs: Sequence[jax.Array], weights: jax.Array, unit: int, start: jax.Array) -> jax.Array:
    """Start + sum of inputs times weights. inputs: [I] arrays [*shape]; weights: [I, O]."""
    for index, x in enumerate(inputs):
        start = start + x * weights[index, unit]
    return start


def _apply_blocks(
    mlp: Theta, ingredients: Ingredients, shares: Sequence[jax.Array], exp_mult: float
) -> jax.Array:
    """The network as matrix products, of one part of the tensor after the other."""
    # The barrier keeps XLA from undoing the transposition, with which products on a CPU are faster.
    mlp = jax.lax.optimization_barrier(_transpose(mlp))

    def apply(steps: jax.Array, part: Part, put: Put) -> jax.Array:
        cut = jax.tree.map(part, ingredients)
        return put(steps, _apply_matrices(mlp, cut, [part(x, 1) for x in shares], exp_mult))

    block_size = choose_block_size(ingredients.grad, on_cpu=CPU_BLOCK_SIZE, elsewhere=ACCELERATOR_BLOCK_SIZE)
    shape = ingredients.grad.shape
    return fold_blocks(
        apply, varying_like(jnp.zeros(shape, jnp.float32), ingredients.grad), shape, block_size
    )


def _transpose(mlp: Theta) -> Theta:
    """Weights [I, O] as [O, I]; biases as they are."""
    return {name: x.T for name, x in mlp.items()}


def _apply_matrices(
    mlp: Theta, ingredients: Ingredients, shares: Sequence[jax.Array], exp_mult: float
) -> jax.Array:
    """The network as matrix products. mlp: weights [O, I]."""
    features, shape = stack(element_features(ingredients)), ingredients.grad.shape
    hidden = _product(mlp["w0"], features.reshape(len(features), -1)).reshape(-1, *shape)
    # In two halves: from sums that are flattened at once XLA makes slow loops on a CPU.
    halves = zip(*(jnp.array_split(x, 2) for x in (hidden, *shares)), strict=True)
    hidden = jnp.concatenate([jax.nn.relu(sum(half)) for half in halves])
    hidden = hidden.reshape(len(hidden), -1)
    hidden = jax.nn.relu(_product(mlp["w1"], hidden) + mlp["b1"][:, None])
    return _step_size(list(_product(mlp["w2"], hidden) + mlp["b2"][:, None]), exp_mult).reshape(shape)


def _product(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """weights: [O, I], inputs: [I, M] -> [O, M]."""
    return jnp.matmul(weights, inputs, precision=jax.lax.Precision.HIGHEST)


def _linear(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """weights: [I, O], inputs: [I, *shape] -> [O, *shape]."""
    return jnp.tensordot(weights, inputs, axes=([0], [0]), precision=jax.lax.Precision.HIGHEST)


def _spread(bias: jax.Array, ndim: int) -> jax.Array:
    """bias: [O] -> [O, 1, ...], with `ndim` further axes."""
    return jnp.reshape(bias, bias.shape + (1,) * ndim)
