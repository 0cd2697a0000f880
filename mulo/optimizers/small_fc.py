"""SmallFC: one small network, applied to every parameter alike ("small_fc_lopt").

Metz et al. 2022 (arXiv 2203.11860); under muP this is the learned optimizer of muLO, Thérien et al.
2024 (arXiv 2406.00153). The step of a parameter is

    -multiplier * step_mult * direction * exp(exp_mult * magnitude)

with (direction, magnitude) = MLP(features of that parameter, time), and multiplier = 1/fan_in for a
hidden weight under muP, else 1.

The epsilons of the features (1e-5 where they are normalised, 1e-6 to 1e-9 in inverse roots) are those of the
reference: absolute numbers. Gradients shrink with width, under muP as 1/width, and fall below them.
`scale_free=True` takes the features of a tensor from its gradients over s, with

    s^2 = mean over the tensor of its running mean of squares, `second_moment`:

gradient and momenta are divided by s, second moments, rows and columns by s^2, and the formulas applied as
they are; the parameter is normalised without epsilon. All epsilons are then relative to the tensor's own
scale, and steps do not change when all gradients of a tensor are multiplied by a constant.
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo import _tree
from mulo._types import Params, PyTree, Theta, Updates
from mulo.optimizers._accumulators import (
    INITIAL_DECAYS,
    STRUCTURE,
    Accumulators,
    Decays,
    accumulate,
    bound_gradient,
    init_accumulators,
)
from mulo.optimizers._features import (
    SMALL_FC_FEATURES,
    TIME_SCALES,
    make_ingredients,
    normalised_scales,
    time_features,
)
from mulo.optimizers._fields import Configured
from mulo.optimizers._mlp import apply_mlp, init_mlp


class SmallFCState(NamedTuple):
    """What is kept between steps; four numbers a parameter and the factored vectors."""

    step: jax.Array  # [], int32: updates made
    accumulators: Accumulators  # trees shaped like the parameters, float32


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmallFC(Configured):
    """The per-parameter learned optimizer.

    Args:
      hidden_size: units in each of the two hidden layers; 4 in Metz et al., 32 in muLO.
      step_mult: size of a step; 0.001 in SP, 0.01 in muLO's muP runs.
      exp_mult: how much the magnitude output counts.
      max_global_norm: gradients are clipped to this global norm, and a gradient with a non-finite entry
        counts as zero everywhere; 0 switches both off.
      scale_free: features do not depend on the scale of a tensor's gradients; the formula is at the head of
        this module. It holds for gradients of which the root mean square is between about 1e-13 and 1e13.
        Theta is to be meta-trained with it: the same theta makes other steps with and without.

    >>> optimizer = SmallFC(hidden_size=4)
    >>> theta = optimizer.init_theta(jax.random.key(0))
    >>> params = {"w": jnp.ones((2, 3))}
    >>> state = optimizer.init(theta, params, num_steps=None)
    >>> updates, state = optimizer.update(theta, state, params, params, loss=None, mup=None)
    >>> updates["w"].shape, int(state.step)
    ((2, 3), 1)
    """

    name: ClassVar[str] = "small_fc"

    hidden_size: int = 32
    step_mult: float = 0.001
    exp_mult: float = 0.001
    max_global_norm: float = 0.0
    scale_free: bool = False

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights: the network's, and offsets of zero from the initial decays."""
        return {
            "mlp": init_mlp(key, SMALL_FC_FEATURES.size + len(TIME_SCALES), self.hidden_size),
            "decays": initial_decay_offsets(),
        }

    def init(self, theta: Theta, params: Params, num_steps: int | None = None) -> SmallFCState:
        """Zero statistics. `num_steps` is not used.

        Raises:
          InputError: a leaf is not of a floating-point dtype.
        """
        del theta, num_steps
        _tree.check_float_leaves(params)
        return SmallFCState(step=jnp.zeros([], jnp.int32), accumulators=init_accumulators(params))

    def update(
        self, theta: Theta, state: SmallFCState, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, SmallFCState]:
        """One step; see `mulo.optimizers.base.LearnedOptimizer`. `loss` is not used.

        Raises:
          InputError: `grads` or `state` have not the structure and shapes of `params`.
        """
        del loss
        _tree.check_same_shapes(grads, params)
        _tree.check_statistics(state.accumulators.second_moment, params)
        inner = jax.tree.structure(params)
        if self.max_global_norm > 0:
            grads = _clip_global_norm(grads, self.max_global_norm)
        decays, time = effective_decays(theta["decays"]), time_features(state.step)
        multipliers = [1.0] * inner.num_leaves if mup is None else inner.flatten_up_to(mup)

        updates, rows = [], []
        for accumulators, grad, param, multiplier in zip(
            _tree.split_leaves(state.accumulators, STRUCTURE, inner),
            inner.flatten_up_to(grads),
            inner.flatten_up_to(params),
            multipliers,
            strict=True,
        ):
            if jnp.size(param):
                accumulators = accumulate(decays, accumulators, bound_gradient(grad))
                step = self._step(theta["mlp"], accumulators, grad, param, time)
                update = (-step * multiplier).astype(jnp.result_type(param))
            else:
                update = jnp.zeros_like(param)
            updates.append(update)
            rows.append(accumulators)
        return inner.unflatten(updates), SmallFCState(
            step=optax.safe_increment(state.step),
            accumulators=_tree.join_leaves(rows, STRUCTURE, state.accumulators),
        )

    def _step(
        self, mlp: Theta, accumulators: Accumulators, grad: jax.Array, param: jax.Array, time: jax.Array
    ) -> jax.Array:
        """The step of one tensor before the muP multiplier, float32, to be subtracted."""
        # A scalar is handled as one vector element.
        shape = jnp.shape(param)
        accumulators, grad, param = jax.tree.map(
            lambda x: jnp.reshape(x, (1,)) if shape == () and jnp.size(x) else x, (accumulators, grad, param)
        )
        ingredients, axis_features = make_ingredients(
            accumulators,
            jnp.asarray(grad, jnp.float32),
            jnp.asarray(param, jnp.float32),
            scale_free=self.scale_free,
        )
        step = apply_mlp(
            mlp, ingredients, axis_features, time, features=SMALL_FC_FEATURES, exp_mult=self.exp_mult
        )
        return jnp.reshape(step * self.step_mult, shape)


def feature_scales(state: SmallFCState, grads: PyTree, params: Params, *, scale_free: bool) -> PyTree:
    """Root mean square of each feature over each tensor, before and after it is normalised.

    To see whether the features of a network are of order one: after normalisation each is at 1, unless the
    epsilon of the normaliser counts.

    Args:
      state: after the update with `grads`.
      grads: shaped like the parameters.
      params: before that update.
      scale_free: as of `SmallFC`.

    Returns:
      Tree of float32 [2, 28], in the order of the rows of the network's first layer.

    >>> optimizer = SmallFC(hidden_size=4)
    >>> theta, params = optimizer.init_theta(jax.random.key(0)), {"w": jnp.ones((2, 3))}
    >>> _, state = optimizer.update(theta, optimizer.init(theta, params), params, params, loss=None, mup=None)
    >>> scales = feature_scales(state, params, params, scale_free=False)["w"]
    >>> scales.shape, round(float(scales[0, 0]), 3), round(float(scales[1, 0]), 3)
    ((2, 28), 1.0, 1.0)
    """
    inner = jax.tree.structure(params)
    leaves = zip(
        _tree.split_leaves(state.accumulators, STRUCTURE, inner),
        inner.flatten_up_to(grads),
        inner.flatten_up_to(params),
        strict=True,
    )
    return inner.unflatten([
        normalised_scales(*make_ingredients(kept, grad, param, scale_free=scale_free), SMALL_FC_FEATURES)
        for kept, grad, param in leaves
    ])  # fmt: skip


def initial_decay_offsets() -> Theta:
    """Offsets with which `effective_decays` gives the initial decays."""
    return {
        field: jnp.zeros(initial.shape, jnp.float32)
        for field, initial in zip(Decays._fields, INITIAL_DECAYS, strict=True)
    }


def effective_decays(offsets: dict[str, jax.Array]) -> Decays:
    """Decays from their learned offsets: 1 - exp(10 (log(1 - initial)/10 + offset)).

    An offset of 0.01 changes 1 - decay by 10 %.
    """

    def decay(initial: np.ndarray, offset: jax.Array) -> jax.Array:
        return 1.0 - jnp.exp(10.0 * (jnp.log(1.0 - initial) / 10.0 + offset))

    return Decays(
        **{
            field: decay(initial, offsets[field])
            for field, initial in zip(Decays._fields, INITIAL_DECAYS, strict=True)
        }
    )


def _clip_global_norm(grads: PyTree, max_norm: float) -> PyTree:
    """Gradients scaled to a global norm of at most `max_norm`; all zero where the norm is not finite."""
    grads = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grads)
    norm = optax.tree.norm(grads)
    clipped = jax.tree.map(lambda g: jnp.where(norm < max_norm, g, g / norm * max_norm), grads)
    return jax.tree.map(lambda g: jnp.where(jnp.isfinite(norm), g, 0.0), clipped)
