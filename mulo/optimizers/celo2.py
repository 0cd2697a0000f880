"""Celo2: a learned direction for every parameter, of root mean square 1; the step size is the user's.

Moudgil et al. 2026 (arXiv 2602.19142), as implemented by its authors. The step of a tensor p is

    -step_mult * (multiplier * direction / rms(direction) + weight_decay * p)

with direction = MLP(features of each parameter), made orthogonal by Newton-Schulz iterations where that is
asked for, and rms over the last two axes. `Leaf(lr_multiplier=x)` multiplies all of the step, decay too, as a
learning rate does; muP's 1/fan_in is on the direction alone.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.optimizers._accumulators import (
    INITIAL_DECAYS,
    Accumulators,
    bound_gradient,
    init_accumulators,
)
from mulo.optimizers._features import VELO_FEATURES, gradient_factors
from mulo.optimizers._fields import Configured
from mulo.optimizers._mlp import dot, init_mlp
from mulo.optimizers._orthogonalise import orthogonalise
from mulo.optimizers._placement import varying_like
from mulo.optimizers._tensors import (
    Tensor,
    add_count,
    flat_decay_multipliers,
    flat_multipliers,
    next_statistics,
    put_together,
    take_apart,
    update_tensors,
)
from mulo.optimizers._views import factored_axes

DECAYS = INITIAL_DECAYS._replace(second_moment=np.float32([0.95]))
ADAM_RATE = 20.0
"""Learning rate of Adam over step_mult; of its weight decay too."""
NEWTON_SCHULZ_ITERATIONS = 5
NUM_VECTOR_FEATURES = 15
"""Tensors of rank 0 and 1 have so many features, the first ones."""


class Celo2State(NamedTuple):
    """What is kept between steps; four numbers a parameter and the factored vectors."""

    step: jax.Array  # [], int32: updates made
    accumulators: Accumulators  # trees shaped like the parameters, float32
    num_nonfinite: jax.Array  # [], int32: entries of gradients so far that were NaN or infinite


@dataclasses.dataclass(frozen=True, kw_only=True)
class Celo2(Configured):
    """The learned optimizer of directions alone: its step size is to be chosen, and scheduled, as AdamW's is.

    `newton_schulz=False` with empty `adam_names` is its authors' Celo2-base.

    Args:
      hidden_size: units in each of the two hidden layers.
      step_mult: root mean square of a step; `learning_rate` of `mulo.optimizer` multiplies it.
      weight_decay: decoupled, times the step size.
      newton_schulz: make the directions of matrices, without muP records of rank 2 and more, orthogonal.
      adam_names: last names in the paths of the parameters that have Adam's step, at 20 times the step size:
        biases, as Haiku, Flax and Equinox call them; separated by commas, empty for none.

    >>> optimizer = Celo2()
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=None, mup=None)
    >>> updates["w"].shape, int(state.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "celo2"

    hidden_size: int = 8
    step_mult: float = 0.001
    weight_decay: float = 0.0
    newton_schulz: bool = True
    adam_names: str = "b,bias"

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights; biases are zero."""
        return {"mlp": init_mlp(key, VELO_FEATURES.size, self.hidden_size, num_outputs=1)}

    def init(
        self, theta: Theta, params: Params, num_steps: Any = None, mup: PyTree | None = None
    ) -> Celo2State:
        """Zero statistics. `num_steps` is not used.

        Raises:
          InputError: a leaf is not of a floating-point dtype.
        """
        del theta, num_steps
        _tree.check_float_leaves(params)
        return Celo2State(
            step=jnp.zeros([], jnp.int32),
            accumulators=init_accumulators(params, mup),
            num_nonfinite=varying_like(jnp.zeros([], jnp.int32), params),
        )

    def update(
        self, theta: Theta, state: Celo2State, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, Celo2State]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`. `loss` is not used.

        Raises:
          InputError: `grads` or `state` have not the structure and shapes of `params`.
        """
        del loss
        leaves = take_apart(state.accumulators, grads, params, mup)
        multipliers, decays = flat_multipliers(params, mup), flat_decay_multipliers(params, mup)
        learned_leaves = self._learned(params)
        learned = np.repeat(learned_leaves, [len(leaf.param) for leaf in leaves])
        learned_rule = functools.partial(self._learned_step, theta["mlp"])
        rules = ((True, learned_rule, 1.0), (False, _adam_step, ADAM_RATE))
        results: list[Any] = [None] * len(leaves)
        num_nonfinite = state.num_nonfinite
        for kind, rule, rate in rules:
            places, chosen = np.flatnonzero(learned_leaves == kind), learned == kind
            fn = functools.partial(self._update_tensor, rule, rate)
            made, count = update_tensors(
                fn, [leaves[place] for place in places], multipliers[chosen], decays[chosen]
            )
            num_nonfinite = add_count(num_nonfinite, count)
            for place, result in zip(places, made, strict=True):
                results[place] = result
        updates, accumulators = put_together(results, state.accumulators, params, mup)
        return updates, Celo2State(
            step=optax.safe_increment(state.step), accumulators=accumulators, num_nonfinite=num_nonfinite
        )

    def _learned(self, params: Params) -> np.ndarray:
        """Which of the leaves with entries are updated by the network: bool."""
        named = zip(_tree.leaf_names(params), jax.tree.leaves(params), strict=True)
        last_names = [name.rpartition("/")[2] for name, x in named if jnp.size(x)]
        return np.array([name not in self.adam_names.split(",") for name in last_names], bool)

    def _update_tensor(
        self,
        rule: Callable[..., jax.Array],
        rate: float,
        tensor: Tensor,
        multiplier: jax.Array,
        decay_multiplier: jax.Array,
    ) -> tuple[jax.Array, Accumulators]:
        grad = bound_gradient(tensor.grad)
        accumulators = next_statistics(DECAYS, tensor, grad)
        step = multiplier * rule(accumulators, grad, tensor.param)
        decay = self.weight_decay * decay_multiplier
        return -self.step_mult * rate * (step + decay * tensor.param), accumulators

    def _learned_step(
        self, mlp: Theta, accumulators: Accumulators, grad: jax.Array, param: jax.Array
    ) -> jax.Array:
        """Direction of root mean square 1, [*shape]."""
        scales = [_inverse_rms(x) for x in _make_features(accumulators, grad, param)]
        # Without the barrier XLA would keep all features from their norms until they are used here.
        accumulators, grad, param = jax.lax.optimization_barrier((accumulators, grad, param))
        features = _make_features(accumulators, grad, param)
        features = [x * scale for x, scale in zip(features, scales, strict=True)]
        units = range(self.hidden_size)
        hidden = [jax.nn.relu(dot(features, mlp["w0"], unit, mlp["b0"][unit])) for unit in units]
        hidden = [jax.nn.relu(dot(hidden, mlp["w1"], unit, mlp["b1"][unit])) for unit in units]
        direction = dot(hidden, mlp["w2"], 0, mlp["b2"][0])
        if self.newton_schulz and param.ndim >= 2:
            direction = orthogonalise(direction, NEWTON_SCHULZ_ITERATIONS)
        return direction * _inverse_rms(direction)


def _adam_step(accumulators: Accumulators, grad: jax.Array, param: jax.Array) -> jax.Array:
    """Adam's step at a learning rate of 1, beta (0.9, 0.95), without bias correction."""
    del grad, param
    return accumulators.momenta[0] * jax.lax.rsqrt(accumulators.second_moment + 1e-8)


def _inverse_rms(x: jax.Array) -> jax.Array:
    """One over the root mean square over the last two axes, kept with length 1; of a vector, over all."""
    square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
    if x.ndim > 1:
        square = jnp.mean(square, axis=-2, keepdims=True)
    return jax.lax.rsqrt(square + 1e-9)


def _make_features(accumulators: Accumulators, grad: jax.Array, param: jax.Array) -> list[jax.Array]:
    """The 30 features of a tensor, or the first 15 where its rank is 0 or 1; in the order of VeLO's.

    Those of rows and columns have length 1 along an axis.
    """
    momenta, second_moment, rows, cols = accumulators
    inverse_root = jax.lax.rsqrt(second_moment + 1e-8)
    axes = factored_axes(grad.shape)
    if axes is not None:
        rows = [jnp.expand_dims(row, axes[1]) for row in rows]
        cols = [jnp.expand_dims(col, axes[0]) for col in cols]
    factors = [row * col for row, col in gradient_factors(rows, cols, axes)]
    features = [
        *(grad, jnp.clip(grad, -0.1, 0.1), param, *momenta, second_moment),
        *(momentum * inverse_root for momentum in momenta),
        *(inverse_root, *(grad * factor for factor in factors), grad * inverse_root),
    ]
    if axes is not None:
        features += [*rows, *cols, *(jax.lax.rsqrt(x + 1e-8) for x in (*rows, *cols))]
        features += [momentum * factor for momentum, factor in zip(momenta, factors, strict=True)]
    return features
