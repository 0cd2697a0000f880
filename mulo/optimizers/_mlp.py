"""The per-parameter network: initial weights, and its application to the features of one tensor.

Features come first and the tensor's own axes last, so that elementwise work is contiguous.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Theta
from mulo.optimizers._features import COL_ROWS, ELEMENT_ROWS, NUM_FEATURES, ROW_ROWS, TIME_SCALES, Features

NUM_INPUTS = NUM_FEATURES + len(TIME_SCALES)


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


def apply_mlp(mlp: Theta, features: Features, time: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Direction and magnitude for every parameter of one tensor.

    What is constant along an axis is multiplied with its weights before it is spread over that axis;
    the time features are constant over the tensor and become part of the first bias.

    Args:
      mlp: as from `init_mlp`.
      features: of the tensor.
      time: [11].

    Returns:
      direction [*shape], magnitude [*shape].
    """
    w0 = mlp["w0"]
    bias = mlp["b0"] + time @ w0[NUM_FEATURES:]
    hidden = _linear(w0[np.array(ELEMENT_ROWS)], features.element)
    hidden += _linear(w0[np.array(ROW_ROWS)], features.row)
    hidden += _linear(w0[np.array(COL_ROWS)], features.col)
    hidden = jax.nn.relu(hidden + _spread(bias, hidden.ndim))
    hidden = jax.nn.relu(_linear(mlp["w1"], hidden) + _spread(mlp["b1"], hidden.ndim))
    direction, magnitude = _linear(mlp["w2"], hidden) + _spread(mlp["b2"], hidden.ndim)
    return direction, magnitude


def _linear(weights: jax.Array, inputs: jax.Array) -> jax.Array:
    """weights: [I, O], inputs: [I, *shape] -> [O, *shape]."""
    return jnp.tensordot(weights, inputs, axes=([0], [0]))


def _spread(bias: jax.Array, ndim: int) -> jax.Array:
    """bias: [O] -> [O, 1, ...], of rank `ndim`."""
    return jnp.reshape(bias, bias.shape + (1,) * (ndim - 1))
