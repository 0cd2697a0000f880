"""Inputs of the per-parameter networks: SmallFC's 28 features of each parameter, VeLO's 30, and the time.

Metz et al. 2022 (arXiv 2203.11860, 2211.09760), as implemented by their authors. Each feature of a
tensor is divided by its root mean square over the tensor; time features are not. Features of the rows and
of the columns are constant along an axis and stay that small, with length 1 along it. They are separate
arrays, never one array of all: XLA then computes each where it is used.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo.optimizers._accumulators import Accumulators, bound_gradient
from mulo.optimizers._blocks import Part, Put, choose_block_size, fold_blocks, is_sharded
from mulo.optimizers._placement import varying_like
from mulo.optimizers._roots import inverse_root, safe_rsqrt
from mulo.optimizers._views import factored_axes

TIME_SCALES = (1, 3, 10, 30, 100, 300, 1000, 3000, 10000, 30000, 100000)
"""Inner steps at which the time features cross zero."""


class FeatureSet(NamedTuple):
    """What a network looks at: which rows of its first layer's weights read which feature, and constants."""

    element_rows: tuple[int, ...]  # those of `element_features`, in its order
    row_rows: tuple[int, ...]  # those of `AxisFeatures.row`
    col_rows: tuple[int, ...]  # those of `AxisFeatures.col`
    vector_epsilon: float  # in the factor on the momenta of tensors of rank 0 and 1
    gradient_bound: float | None  # of the bounded gradient, which VeLO sees too

    @property
    def size(self) -> int:
        """How many features there are."""
        return len(self.element_rows) + len(self.row_rows) + len(self.col_rows)


SMALL_FC_FEATURES = FeatureSet(
    element_rows=(0, 10, 11, 12, 2, 25, 3, 26, 4, 27, 1, 5, 6, 7, 8, 9),
    row_rows=(13, 14, 15, 19, 20, 21),
    col_rows=(16, 17, 18, 22, 23, 24),
    vector_epsilon=1e-6,
    gradient_bound=None,
)
VELO_FEATURES = FeatureSet(
    element_rows=(0, 11, 12, 13, 3, 27, 4, 28, 5, 29, 2, 6, 7, 8, 9, 10, 1, 14),
    row_rows=(15, 16, 17, 21, 22, 23),
    col_rows=(18, 19, 20, 24, 25, 26),
    vector_epsilon=0.0,
    gradient_bound=0.1,
)
_NUM_SCALED = 10
"""The first so many of `element_features` are gradient and momenta, as they are and scaled by factors."""
_PARAM_POSITION = 10


CPU_BLOCK_SIZE = 65536
"""Parameters whose squares are summed at once on a CPU: within its caches."""

MAX_STACKED = 4096
"""Features of vectors of at most so many parameters are normalised at once."""

ACCELERATOR_BLOCK_SIZE = 4194304
"""The same on a GPU or TPU, where small parts would leave it idle."""


class Ingredients(NamedTuple):
    """What the features of single parameters are made of, float32; a factor has length 1 along an axis."""

    grad: jax.Array  # [*shape], not bounded yet: the features bound it where they are computed
    param: jax.Array  # [*shape]
    momenta: tuple[jax.Array, ...]  # three, [*shape]
    second_moment: jax.Array  # [*shape]
    # Row and column factor: their product scales the gradient, or momentum, by the factored second moment.
    grad_factors: tuple[tuple[jax.Array, jax.Array], ...]
    momentum_factors: tuple[tuple[jax.Array, jax.Array], ...]
    # [1, ...]: what gradients are multiplied with before the features are made; `None` for 1.
    gradient_scale: jax.Array | None
    # [1, ...]: bound of the gradient as a further feature; `None` where there is no such feature.
    gradient_bound: jax.Array | None


class AxisFeatures(NamedTuple):
    """Features that are constant along an axis."""

    row: tuple[jax.Array, ...]  # six, [*shape] with length 1 along d0: factored rows, their inverse roots
    col: tuple[jax.Array, ...]  # six, [*shape] with length 1 along d1: the same of the columns


def _safe_rsqrt(x: jax.Array) -> jax.Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def make_ingredients(
    accumulators: Accumulators,
    grad: jax.Array,
    param: jax.Array,
    *,
    features: FeatureSet = SMALL_FC_FEATURES,
    scale_free: bool = False,
) -> tuple[Ingredients, AxisFeatures]:
    """What the features of one tensor are made of, and those that are constant along an axis.

    Args:
      accumulators: of this tensor, updated with `grad`.
      grad: [*shape], float32.
      param: [*shape], float32, before the step.
      features: which features there are.
      scale_free: the features are those of the gradients over s, the root of the mean of the second moment
        over the tensor: gradient and momenta over s, second moments (rows and columns too) over s^2.
        Where all gradients were zero s is 1.
    """
    axes = factored_axes(grad.shape)
    rows, cols, scale, bound = accumulators.rows, accumulators.cols, None, None
    if scale_free:
        inverse = _inverse_scale(accumulators.second_moment)
        rows, cols = ([x * jnp.square(inverse) for x in vectors] for vectors in (rows, cols))
        scale = jnp.reshape(inverse, (1,) * grad.ndim)
    if features.gradient_bound is not None:
        bound = jnp.full((1,) * grad.ndim, features.gradient_bound, jnp.float32)
    if axes is None:
        cols = rows  # of rank 0 and 1 the factored second moment has one set of vectors
    else:
        rows = [jnp.expand_dims(row, axes[1]) for row in rows]
        cols = [jnp.expand_dims(col, axes[0]) for col in cols]
    ingredients = Ingredients(
        grad=grad,
        param=param,
        momenta=accumulators.momenta,
        second_moment=accumulators.second_moment,
        grad_factors=tuple(gradient_factors(rows, cols, axes)),
        momentum_factors=tuple(gradient_factors(rows, cols, axes))
        if axes is not None
        # The reference's form for rank 0 and 1.
        else tuple((_vector_factor(row, features), jnp.ones(1, jnp.float32)) for row in rows),
        gradient_scale=scale,
        gradient_bound=bound,
    )
    return ingredients, AxisFeatures(
        row=(*rows, *(jax.lax.rsqrt(row + 1e-8) for row in rows)),
        col=(*cols, *(jax.lax.rsqrt(col + 1e-8) for col in cols)),
    )


def _vector_factor(row: jax.Array, features: FeatureSet) -> jax.Array:
    # Rows are exactly zero where no gradient so far had a finite entry; zero times infinity would be NaN.
    return inverse_root(jnp.maximum(row + features.vector_epsilon, 1e-36))


def gradient_factors(
    rows: Sequence[jax.Array], cols: Sequence[jax.Array], axes: tuple[int, int] | None
) -> list[tuple[jax.Array, jax.Array]]:
    """Row and column factor that divide a gradient by the root of its factored second moment.

    Args:
      rows: [*shape] with length 1 along d0.
      cols: [*shape] with length 1 along d1.
      axes: (d1, d0); `None` for rank 0 and 1, where rows are whole vectors and columns do not count.
    """
    if axes is None:
        return [(_safe_rsqrt(row + 1e-9), jnp.ones(1, jnp.float32)) for row in rows]
    return [
        (_safe_rsqrt(row / (jnp.mean(row, axis=axes[0], keepdims=True) + 1e-9)), _safe_rsqrt(col))
        for row, col in zip(rows, cols, strict=True)
    ]


def mean(x: jax.Array) -> jax.Array:
    """The mean over all axes, []. x: of rank 1 or more."""
    # The last axis first: of one sum over all axes XLA on the CPU makes slow loops, and copies.
    return jnp.sum(jnp.sum(x, axis=-1)) / float(x.size)


def _inverse_scale(second_moment: jax.Array) -> jax.Array:
    """One over the root of the mean of the second moment, []; 1 where all gradients were zero."""
    square = mean(second_moment)
    # Bounded so that its square is finite.
    return jnp.where(square > 0, safe_rsqrt(jnp.maximum(square, 1e-36)), 1.0)


def _rescale(ingredients: Ingredients) -> Ingredients:
    """The gradient bounded; it and the statistics of single parameters times their scale, if there is one."""
    grad, scale = bound_gradient(ingredients.grad), ingredients.gradient_scale
    if scale is None:
        return ingredients._replace(grad=grad)
    return ingredients._replace(
        grad=grad * scale,
        momenta=tuple(momentum * scale for momentum in ingredients.momenta),
        second_moment=ingredients.second_moment * jnp.square(scale),
    )


def element_features(ingredients: Ingredients) -> tuple[jax.Array, ...]:
    """The features of single parameters, SmallFC's 16 or VeLO's 18, [*shape] each, not normalised."""
    return _make_features(_rescale(ingredients))


def _make_features(rescaled: Ingredients) -> tuple[jax.Array, ...]:
    grad, param, momenta, second_moment, grad_factors, momentum_factors, _, bound = rescaled
    inverse_root = jax.lax.rsqrt(second_moment + 1e-6)
    scaled = zip(momenta, momentum_factors, strict=True)
    return (
        grad,
        *(grad * row * col for row, col in grad_factors),
        *itertools.chain.from_iterable((m, m * row * col) for m, (row, col) in scaled),
        param,
        second_moment,
        *(momentum * inverse_root for momentum in momenta),
        inverse_root,
        *(() if bound is None else (jnp.clip(grad, -bound, bound), grad * inverse_root)),
    )


def inverse_rms(mean_square: jax.Array, epsilon: float | np.ndarray = 1e-5) -> jax.Array:
    """What a feature is multiplied with to be normalised, from its mean square over the tensor."""
    return safe_rsqrt(epsilon + mean_square)


def element_scales(ingredients: Ingredients) -> jax.Array:
    """What each of `element_features` is multiplied with to be normalised, [E]."""
    squares = mean_squares(ingredients)
    epsilons = np.full(squares.shape, 1e-5, np.float32)
    if ingredients.gradient_scale is not None:
        epsilons[_PARAM_POSITION] = 1e-30  # that of the parameters has no part in their scale
    return inverse_rms(squares, epsilons)


def mean_squares_of(features: Sequence[jax.Array]) -> jax.Array:
    """Mean square of each feature over the tensor. features: [F] arrays of one shape -> [F]."""
    return _sum_square(stack(features), features[0].ndim) / float(features[0].size)


def stack(arrays: Sequence[jax.Array]) -> jax.Array:
    """[F] arrays [*shape] -> [F, *shape]. Unlike `jnp.stack`, not transposed when it is mapped over."""
    return jnp.concatenate([jnp.reshape(x, (1, *x.shape)) for x in arrays])


def _sum_square(x: jax.Array, ndim: int) -> jax.Array:
    # The last axis first: XLA on the CPU computes this twice as fast as one sum over all axes.
    return jnp.sum(jnp.sum(jnp.square(x), axis=-1), axis=tuple(range(x.ndim - ndim, x.ndim - 1)))


def mean_squares(ingredients: Ingredients) -> jax.Array:
    """Mean square of each of `element_features` over the tensor, [E]."""
    shape = ingredients.grad.shape

    def add(total: jax.Array, part: Part, put: Put) -> jax.Array:
        del put
        return total + _sum_squares(jax.tree.map(part, ingredients), factored_axes(shape))

    block_size = choose_block_size(ingredients.grad, on_cpu=CPU_BLOCK_SIZE, elsewhere=ACCELERATOR_BLOCK_SIZE)
    num_features = len(SMALL_FC_FEATURES.element_rows)
    if ingredients.gradient_bound is not None:
        num_features = len(VELO_FEATURES.element_rows)
    zeros = varying_like(jnp.zeros(num_features, jnp.float32), ingredients.grad)
    return fold_blocks(add, zeros, shape, block_size) / float(ingredients.grad.size)


def normalised_scales(
    ingredients: Ingredients, axis_features: AxisFeatures, features: FeatureSet
) -> jax.Array:
    """Root mean square of each feature over the tensor, before and after it is normalised, [2, F]."""
    before, factors = (jnp.zeros(features.size, jnp.float32) for _ in range(2))
    squares = mean_squares(ingredients)
    before = before.at[np.array(features.element_rows)].set(jnp.sqrt(squares))
    factors = factors.at[np.array(features.element_rows)].set(element_scales(ingredients))
    for rows, arrays in ((features.row_rows, axis_features.row), (features.col_rows, axis_features.col)):
        squares = mean_squares_of(arrays)
        before = before.at[np.array(rows)].set(jnp.sqrt(squares))
        factors = factors.at[np.array(rows)].set(inverse_rms(squares))
    return jnp.stack([before, before * factors])


def _sum_squares(ingredients: Ingredients, axes: tuple[int, int] | None) -> jax.Array:
    """Sum of squares of each of `element_features`, [E].

    Those scaled by factors of rows and columns are never formed: the sum of (g r c)^2 is r^2 G c^2, with G
    the matrix of g^2. Of a sharded tensor they are: its matrix products would need to be told how to
    spread their results, plain sums do not.
    """
    ingredients = _rescale(ingredients)
    features, ndim = _make_features(ingredients), ingredients.grad.ndim
    if axes is None and ingredients.grad.size <= MAX_STACKED:
        return _sum_square(stack(features), ndim)
    if axes is None or is_sharded(ingredients.grad):
        return jnp.stack([_sum_square(feature, ndim) for feature in features])
    scaled = [_scaled_sum_squares(features[0], ingredients.grad_factors, axes)]
    for momentum, factors in zip(ingredients.momenta, ingredients.momentum_factors, strict=True):
        scaled.append(_scaled_sum_squares(momentum, (factors,), axes))
    return jnp.concatenate(
        [*scaled, jnp.stack([_sum_square(feature, ndim) for feature in features[_NUM_SCALED:]])]
    )


def _scaled_sum_squares(
    x: jax.Array, factors: Sequence[tuple[jax.Array, jax.Array]], axes: tuple[int, int]
) -> jax.Array:
    """Sum of squares of x [*shape], and of x times each pair of factors of rows and columns, [1 + F]."""
    d1, d0 = axes
    rows = jnp.stack([jnp.ones_like(factors[0][0]), *(row for row, _ in factors)])
    cols = jnp.stack([jnp.ones_like(factors[0][1]), *(col for _, col in factors)])
    names = "abcdefghijklmnopqrstuvw"[: x.ndim]
    over_d0 = jnp.einsum(
        f"{names},z{names.replace(names[d1], '')}->z{names.replace(names[d0], '')}",
        jnp.square(x),
        jnp.square(jnp.squeeze(cols, d1 + 1)),
        precision=jax.lax.Precision.HIGHEST,
    )
    scaled = over_d0 * jnp.square(jnp.squeeze(rows, d0 + 1))
    return jnp.sum(scaled, axis=tuple(range(1, x.ndim)))


def time_features(step: jax.Array) -> jax.Array:
    """tanh(step / scale - 1) for each of `TIME_SCALES`. step: [], updates already made -> [11]."""
    return jnp.tanh(step.astype(jnp.float32) / jnp.asarray(TIME_SCALES, jnp.float32) - 1.0)
