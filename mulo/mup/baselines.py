"""The rules of muP as an optax transform: muAdam and muSGD are chains with it."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from mulo._types import Params, Updates
from mulo.errors import InputError
from mulo.mup.shapes import OPTIMIZERS, MuP
from mulo.names import lookup


def scale_by_mup(mup: MuP, optimizer: str) -> optax.GradientTransformation:
    """Multiplies each leaf's update by its multiplier (Tensor Programs V, arXiv 2203.03466, table 8).

    Put it behind what makes the step, before the learning rate. Weight decay that stands before it is
    multiplied too, and so falls with width in hidden weights; behind it, it stays. It has no state
    and needs no `params`; under `optax.masked` and `optax.partition` it scales the leaves that are there.

    Args:
      mup: from `mulo.mup.infer`, in either form (see `MuP.multipliers`), or `mulo.mup.STANDARD`.
      optimizer: whose rules: "adam" (and others whose steps do not depend on the size of the gradients,
        as Lion), "sgd" or "learned" (for steps of a learned optimizer that got no muP; `mulo.optimizer`
        applies its own).

    Raises:
      InputError: no such optimizer, `mup` is no MuP, or "learned" in standard form; when it updates:
        the updates are those of another network.

    >>> from mulo import mup
    >>> shapes = [{"w": jnp.ones((n, n))} for n in (64, 16)]
    >>> musign = optax.chain(  # for muAdam with optax.scale_by_adam()
    ...     optax.scale_by_sign(), scale_by_mup(mup.infer(*shapes), "adam"), optax.scale(-0.01))
    >>> updates, _ = musign.update(shapes[0], musign.init(shapes[0]))
    >>> round(float(updates["w"][0, 0]), 6)
    -0.0025
    """
    if not isinstance(mup, MuP):
        raise InputError(
            f"mup is of type {type(mup).__name__}; wanted what mulo.mup.infer returns, or mulo.mup.STANDARD."
        )
    lookup(OPTIMIZERS, optimizer, "kind of optimizer for muP")
    mup.multipliers({}, optimizer)  # refuses at once what it would refuse at the first step

    def update(
        updates: Updates, state: optax.EmptyState, params: Params | None = None
    ) -> tuple[Updates, optax.EmptyState]:
        del params
        multipliers = mup.multipliers(updates, optimizer)
        if multipliers is None:
            return updates, state
        return jax.tree.map(_scale, updates, multipliers), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


def _scale(update: Any, multiplier: float) -> jax.Array:
    return update if multiplier == 1 else update * jnp.asarray(multiplier, jnp.result_type(update))
