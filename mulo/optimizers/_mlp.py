"""The per-parameter network: initial weights, and its application to the features of one tensor.

Features come first and the tensor's own axes last, so that elementwise work is contiguous.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Theta
from mulo.optimizers._features import (
    COL_ROWS,
    ELEMENT_ROWS,
    NUM_FEATURES,
    ROW_ROWS,
    TIME_SCALES,
    AxisFeatures,
    Ingredients,
    element_features,
    inverse_rms,
)

NUM_INPUTS = NUM_FEATURES + len(TIME_SCALES)

MAX_UNROLLED = 16
"""Networks of at most so many hidden units are written out; larger ones would compile for seconds."""

BLOCK_SIZE = 16384
"""Parameters that larger networks are applied to at once."""


def init_mlp(key: jax.Array, hidden_size: int) -> Theta:
    """Weights `w0 [39, H]`, `w1 [H, H]`, `w2 [H, 2]` and biases `b0 [H]`, `b1 [H]`, `b2 [2]`.

    Weights are normal with standard deviation 1/sqrt(fan_in), cut at two standard deviations
    without correction for the cut; biases are zero.
    """
    sizes = (NUM_INPUTS, hidden_size, hidden_size, 2)
    mlp = {}
    for i, layer_key in enumerate(jax.random.split(key, 3)):
        shape = sizes[i : i + 2]
        normal = jax.random.truncated_normal(layer_key, -2.0, 2.0, shape, jnp.float32)
        mlp[f"w{i}"] = normal / np.sqrt(shape[0]).astype(np.float32)
        mlp[f"b{i}"] = jnp.zeros(shape[1:], jnp.float32)
    return mlp


def apply_mlp(
    mlp: Theta, ingredients: Ingredients, axis_features: AxisFeatures, time: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Direction and magnitude for every parameter of one tensor.

    What normalises a feature is multiplied into its weights. What is constant along an axis is multiplied
    with its weights before it is spread over that axis; the time features are constant over the tensor
    and become part of the first bias.

    Args:
      mlp: as from `init_mlp`.
      ingredients: of the tensor.
      axis_features: of the tensor.
      time: [11].

    Returns:
      direction [*shape], magnitude [*shape].
    """
    w0, ndim = mlp["w0"], ingredients.grad.ndim
    bias = _spread(mlp["b0"] + time @ w0[NUM_FEATURES:], ndim)
    row = bias + _axis_share(w0[np.array(ROW_ROWS)], axis_features.row)
    col = _axis_share(w0[np.array(COL_ROWS)], axis_features.col)
    scales = jnp.stack([inverse_rms(feature) for feature in element_features(ingredients)])
    # Without the barrier XLA would keep the features from their norms until they are used here.
    ingredients = jax.lax.optimization_barrier(ingredients)
    scaled = {**mlp, "w0": w0[np.array(ELEMENT_ROWS)] * scales[:, None]}
    if len(mlp["b1"]) <= MAX_UNROLLED:
        return _apply_unrolled(scaled, ingredients, row, col)
    return _apply_blocks(scaled, ingredients, row, col)


def _axis_share(weights: jax.Array, features: tuple[jax.Array, ...]) -> jax.Array:
    """Share of the first layer. weights: [6, H] -> [H, *shape] with length 1 where the features have it."""
    scales = jnp.stack([inverse_rms(feature) for feature in features])
    return _linear(weights * scales[:, None], jnp.stack(features))


def _apply_unrolled(
    mlp: Theta, ingredients: Ingredients, row: jax.Array, col: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The network written out, unit by unit: XLA makes one loop over the parameters of it."""
    features = element_features(ingredients)
    hidden = [
        jax.nn.relu(_dot(features, mlp["w0"][:, unit], row[unit] + col[unit])) for unit in range(len(row))
    ]
    hidden = [jax.nn.relu(_dot(hidden, mlp["w1"][:, unit], mlp["b1"][unit])) for unit in range(len(row))]
    direction, magnitude = (_dot(hidden, mlp["w2"][:, output], mlp["b2"][output]) for output in range(2))
    return direction, magnitude


def _dot(inputs: Sequence[jax.Array], weights: jax.Array, start: jax.Array) -> jax.Array:
    """Start + sum of inputs times weights. inputs: [I] arrays [*shape]; weights: [I]."""
    for index, x in enumerate(inputs):
        start = start + x * weights[index]
    return start


def _apply_blocks(
    mlp: Theta, ingredients: Ingredients, row: jax.Array, col: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The network as matrix products, of one part of the tensor after the other.

    The parts are along the longest axis, small enough for a processor's cache.
    """
    shape = ingredients.grad.shape
    axis = int(np.argmax(shape))
    length = max(1, BLOCK_SIZE * shape[axis] // ingredients.grad.size)
    num_blocks, num_rest = divmod(shape[axis], length)
    if num_blocks <= 1:
        return _apply_matrices(mlp, ingredients, row, col)

    def block(start: jax.Array | int, length: int) -> tuple[jax.Array, jax.Array]:
        def cut(x: jax.Array, axis: int = axis) -> jax.Array:
            return x if x.shape[axis] == 1 else jax.lax.dynamic_slice_in_dim(x, start, length, axis)

        return _apply_matrices(mlp, jax.tree.map(cut, ingredients), cut(row, axis + 1), cut(col, axis + 1))

    blocks = jax.lax.map(lambda index: block(index * length, length), jnp.arange(num_blocks))
    whole = num_blocks * length

    def join(x: jax.Array) -> jax.Array:
        return jnp.moveaxis(x, 0, axis).reshape(*shape[:axis], whole, *shape[axis + 1 :])

    direction, magnitude = (join(x) for x in blocks)
    if not num_rest:
        return direction, magnitude
    rest = block(whole, num_rest)
    return jnp.concatenate([direction, rest[0]], axis), jnp.concatenate([magnitude, rest[1]], axis)


def _apply_matrices(
    mlp: Theta, ingredients: Ingredients, row: jax.Array, col: jax.Array
) -> tuple[jax.Array, jax.Array]:
    hidden = _linear(mlp["w0"], jnp.stack(element_features(ingredients))) + row + col
    hidden = jax.nn.relu(hidden)
    hidden = jax.nn.relu(_linear(mlp["w1"], hidden) + _spread(mlp["b1"], hidden.ndim - 1))
    direction, magnitude = _linear(mlp["w2"], hidden) + _spread(mlp["b2"], hidden.ndim - 1)
    return direction, magnitude


def _linear(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """weights: [I, O], inputs: [I, *shape] -> [O, *shape]."""
    return jnp.tensordot(weights, inputs, axes=([0], [0]))


def _spread(bias: jax.Array, ndim: int) -> jax.Array:
    """bias: [O] -> [O, 1, ...], with `ndim` further axes."""
    return jnp.reshape(bias, bias.shape + (1,) * ndim)
