"""Running statistics of the gradients of one tensor: momenta, second moment, factored second moment.

Formulas of Metz et al. 2022 (arXiv 2203.11860) and, for the factored one, of Adafactor (arXiv
1804.04235), without bias correction. Everything is float32, whatever the parameter's dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Params, PyTree
from mulo.optimizers._placement import zeros_like, zeros_over
from mulo.optimizers._views import factored_axes, views_of

NUM_DECAYS = 3
"""Decays of the momenta, and as many of the factored second moment."""

GRADIENT_BOUND = 1e15
"""Larger gradients are clipped to this, so that their squares stay finite and the statistics recover."""


class Decays(NamedTuple):
    """Decay of each running mean, each float32 and below 1."""

    momentum: jax.Array  # [3]
    second_moment: jax.Array  # [1]
    factored: jax.Array  # [3]


class Accumulators(NamedTuple):
    """Statistics of one tensor, or (in an optimizer's state) trees of them, shaped like the parameters."""

    momenta: tuple[PyTree, ...]  # three, each shaped like the parameter: means of g, slower and slower
    second_moment: PyTree  # shaped like the parameter: mean of g^2
    rows: tuple[PyTree, ...]  # three: mean of g^2 over the largest axis d0 of a tensor; vectors: over no axis
    cols: tuple[PyTree, ...]  # three: the same over the second largest axis d1; vectors: one unused 0


STRUCTURE = jax.tree.structure(Accumulators((0, 0, 0), 0, (0, 0, 0), (0, 0, 0)))
"""Of the statistics of one tensor, to take a state apart with."""

INITIAL_DECAYS = Decays(
    momentum=np.float32([0.9, 0.99, 0.999]),
    second_moment=np.float32([0.999]),
    factored=np.float32([0.9, 0.99, 0.999]),
)
"""Those of VeLO, for good, and those from which SmallFC's are learned."""


def init_accumulators(params: Params, mup: PyTree | None = None) -> Accumulators:
    """Zeros for every leaf of `params`.

    Args:
      params: parameters.
      mup: records of the leaves, shaped like `params`; `None` without muP.
    """
    views = jax.tree.structure(params).unflatten(views_of(params, mup))

    return Accumulators(
        momenta=tuple(zeros_like(params) for _ in range(NUM_DECAYS)),
        second_moment=zeros_like(params),
        rows=tuple(zeros_over(params, views, lambda view: view.row_axes) for _ in range(NUM_DECAYS)),
        cols=tuple(zeros_over(params, views, lambda view: view.col_axes) for _ in range(NUM_DECAYS)),
    )


def bound_gradient(grad: jax.Array) -> jax.Array:
    """The gradient in float32 with NaN and infinities as 0 and the rest within `GRADIENT_BOUND`.

    The references differ: in SP they let NaN through, under muP they turn infinities into 3.4e38,
    whose square is infinite; either way the tensor is NaN from then on.
    """
    grad = jnp.asarray(grad, jnp.float32)
    return jnp.clip(jnp.where(jnp.isfinite(grad), grad, 0.0), -GRADIENT_BOUND, GRADIENT_BOUND)


def accumulate(decays: Decays, accumulators: Accumulators, grad: jax.Array) -> Accumulators:
    """Statistics of one tensor after one more gradient.

    Args:
      decays: see `Decays`; those of squares are clipped to [0, 1].
      accumulators: of this tensor, before.
      grad: float32, finite.
    """
    square = jnp.square(grad)
    axes = factored_axes(grad.shape)

    def mean(axis: int) -> jax.Array:
        # As Adafactor; keeps rows and columns of zeros above zero.
        return square.mean(axis=axis) + 1e-30

    row_input = square + 1e-30 if axes is None else mean(axes[1])
    return Accumulators(
        momenta=tuple(_running_mean(decays.momentum[i], m, grad) for i, m in enumerate(accumulators.momenta)),
        second_moment=_running_mean(
            jnp.clip(decays.second_moment[0], 0.0, 1.0), accumulators.second_moment, square
        ),
        rows=tuple(
            _running_mean(jnp.clip(decays.factored[i], 0.0, 1.0), row, row_input)
            for i, row in enumerate(accumulators.rows)
        ),
        cols=accumulators.cols
        if axes is None
        else tuple(
            _running_mean(jnp.clip(decays.factored[i], 0.0, 1.0), col, mean(axes[0]))
            for i, col in enumerate(accumulators.cols)
        ),
    )


def _running_mean(decay: jax.Array, mean: jax.Array, value: jax.Array) -> jax.Array:
    return decay * mean + (1.0 - decay) * value
