"""Inputs of the per-parameter network: 28 features per parameter and 11 of the step count.

Metz et al. 2022 (arXiv 2203.11860), as implemented by its authors. Each feature of a tensor is divided by
its root mean square over the tensor; time features are not. Features of the rows and of the columns
are constant along an axis and stay that small: axis words `F` features, `*shape` the tensor's shape,
with length 1 along an axis on which a feature does not depend.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mulo.optimizers._accumulators import Accumulators, factored_axes

NUM_FEATURES = 28
TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
"""Inner steps at which the time features cross zero."""

ELEMENT_ROWS = (*range(13), 25, 26, 27)
"""Rows of the first layer's weights that belong to `Features.element`, in its order."""
ROW_ROWS = (13, 14, 15, 19, 20, 21)
COL_ROWS = (16, 17, 18, 22, 23, 24)


class Features(NamedTuple):
    """Normalised features of one tensor, float32."""

    element: jax.Array  # [16, *shape]: g, p, momenta, second moment, and ratios of them
    row: jax.Array  # [6, *shape] with length 1 along d0: factored rows and their inverse roots
    col: jax.Array  # [6, *shape] with length 1 along d1: the same of the columns


def _safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _normalise(features: jax.Array) -> jax.Array:
    """Divides each feature by its root mean square over the tensor. features: [F, *shape]."""
    axes = tuple(range(1, features.ndim))
    mean_square = jnp.mean(jnp.square(features), axis=axes, keepdims=True)
    return features * jax.lax.rsqrt(1e-5 + mean_square)


def _factored_parts(accumulators: Accumulators, shape: tuple[int, ...]):
    """Rows, columns and the factored inverse root of the second moment.

    Returns:
      row: [3, *shape], length 1 along d0; col: [3, *shape], length 1 along d1; and
      (row factor, column factor), whose product times g is the preconditioned gradient.
    """
    axes = factored_axes(shape)
    row, col = jnp.stack(accumulators.rows), jnp.stack(accumulators.cols)
    if axes is None:
        return row, row, (_safe_rsqrt(row + 1e-9), jnp.ones((), jnp.float32))
    d1, d0 = axes
    row, col = jnp.expand_dims(row, d0 + 1), jnp.expand_dims(col, d1 + 1)
    row_mean = jnp.mean(row, axis=d1 + 1, keepdims=True)
    return row, col, (_safe_rsqrt(row / (row_mean + 1e-9)), _safe_rsqrt(col))


def make_features(accumulators: Accumulators, grad: jax.Array, param: jax.Array) -> Features:
    """Features of one tensor.

    Args:
      accumulators: of this tensor, updated with `grad`.
      grad: [*shape], float32, finite.
      param: [*shape], float32, before the step.
    """
    momenta = jnp.stack(accumulators.momenta)
    second_moment = accumulators.second_moment[None]
    inverse_root = jax.lax.rsqrt(second_moment + 1e-6)
    row, col, (row_factor, col_factor) = _factored_parts(accumulators, grad.shape)
    if factored_axes(grad.shape) is None:
        momenta_factored = momenta * (row + 1e-6) ** -0.5  # the reference's form for rank 0 and 1
    else:
        momenta_factored = momenta * row_factor * col_factor
    element = [
        grad[None],
        param[None],
        momenta,
        second_moment,
        momenta * inverse_root,
        inverse_root,
        grad[None] * row_factor * col_factor,
        momenta_factored,
    ]
    return Features(
        element=_normalise(jnp.concatenate(element)),
        row=_normalise(jnp.concatenate([row, jax.lax.rsqrt(row + 1e-8)])),
        col=_normalise(jnp.concatenate([col, jax.lax.rsqrt(col + 1e-8)])),
    )


def time_features(step: jax.Array) -> jax.Array:
    """tanh(step / scale - 1) for each of `TIME_SCALES`. step: [], updates already made -> [11]."""
    return jnp.tanh(step.astype(jnp.float32) / jnp.asarray(TIME_SCALES, jnp.float32) - 1.0)
