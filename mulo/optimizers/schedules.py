"""The schedules that can be named: share of the steps made -> factor on the steps."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

SCHEDULES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "constant": jnp.ones_like,
    "cosine": lambda done: 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
    "linear": lambda done: 1.0 - done,
}
