"""The meta-step: from the gradients of the slots to the next theta, and what is reported of it."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from meta_train.config import MetaTrainConfig
from meta_train.meta_optimizer import learning_rate_schedule, make_meta_optimizer
from meta_train.programs import compiler_options
from mulo.optimizers.base import PyTree, Theta
from mulo.optimizers.small_fc import effective_decays

_MANY = 32
"""Slots above which the program that adds their gradients is a loop: written out, 512 compile for minutes."""


class UpdateStatistics(NamedTuple):
    """What the update of theta reports."""

    gradient_norm: jax.Array  # [], float32: before clipping
    skipped: jax.Array  # [], bool: the gradient was not finite, nothing was updated
    learning_rate: jax.Array  # [], float32: of this step, or what it would have been
    theta_norms: dict[str, jax.Array]  # by leaf, such as "mlp/w0"
    decays: dict[str, jax.Array]  # learned decays, such as "momentum/0"; empty if the optimizer has none


def make_meta_update(config: MetaTrainConfig) -> Callable[..., tuple[Theta, PyTree, UpdateStatistics]]:
    """The meta-step: (theta, meta-optimizer state, slot gradients) -> the next two, what is reported.

    The gradients are averaged in slot order, so that theta does not depend on who computed which. If
    their mean is not finite, theta and the meta-optimizer's state stay as they are.
    """
    meta_optimizer, schedule = make_meta_optimizer(config), learning_rate_schedule(config)

    @functools.partial(jax.jit, compiler_options=compiler_options())
    def update(theta, optimizer_state, gradients):
        mean = _mean_in_order(gradients)
        norm = optax.tree.norm(mean)
        finite = jnp.isfinite(norm)
        updates, next_state = meta_optimizer.update(mean, optimizer_state, theta)
        next_theta = optax.apply_updates(theta, updates)
        next_theta, next_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old), (next_theta, next_state), (theta, optimizer_state)
        )
        statistics = UpdateStatistics(
            gradient_norm=norm,
            skipped=~finite,
            learning_rate=schedule(_steps_made(optimizer_state)),
            theta_norms=_theta_norms(next_theta),
            decays=_learned_decays(next_theta),
        )
        return next_theta, next_state, statistics

    def update_from_many(theta, optimizer_state, gradients):
        if len(gradients) > _MANY:
            gradients = jax.tree.map(lambda *slots: np.stack(slots), *jax.device_get(list(gradients)))
        return update(theta, optimizer_state, gradients)

    return update_from_many


def _mean_in_order(gradients: list[Theta] | Theta) -> Theta:
    """The mean over slots, summed one after the other: `jnp.sum` promises no order.

    Args:
      gradients: one for each slot; or their leaves stacked, [slots, ...].
    """
    if isinstance(gradients, list):
        return jax.tree.map(lambda *slots: sum(slots[1:], slots[0]) / len(slots), *gradients)

    def add(total: Theta, slot: Theta) -> tuple[Theta, None]:
        return jax.tree.map(jnp.add, total, slot), None

    first, others = (
        jax.tree.map(lambda leaf: leaf[0], gradients),
        jax.tree.map(lambda leaf: leaf[1:], gradients),
    )
    total, _ = jax.lax.scan(add, first, others)
    return jax.tree.map(lambda leaf: leaf / (len(jax.tree.leaves(others)[0]) + 1), total)


def _steps_made(optimizer_state: PyTree) -> jax.Array:
    """Steps that the meta-optimizer has made; skipped ones are not among them. [], int32."""
    (_, count), *_ = optax.tree.get_all_with_path(optimizer_state, "count")
    return count


def _theta_norms(theta: Theta) -> dict[str, jax.Array]:
    """Euclidean norm of each leaf, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(theta)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): jnp.linalg.norm(jnp.ravel(leaf))
        for path, leaf in leaves
    }


def _learned_decays(theta: Theta) -> dict[str, jax.Array]:
    """Each running mean's decay, as theta has it now."""
    if "decays" not in theta:
        return {}
    return {
        f"{field}/{index}": decay
        for field, decays in effective_decays(theta["decays"])._asdict().items()
        for index, decay in enumerate(decays)
    }
