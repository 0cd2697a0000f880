"""How large the steps of DirectionFC are where the gradients are one tree times factors."""

import jax
import jax.numpy as jnp
import numpy as np


def rms(x):
    return float(jnp.sqrt(jnp.mean(jnp.square(x))))


def sizes_of_steps(optimizer, params, grads, factors, num_steps):
    """Root mean square of each step of leaf `w` over `step_mult`, gradients being `grads` times these."""
    theta = optimizer.init_theta(jax.random.key(0))
    update = jax.jit(lambda grads, state: optimizer.update(theta, state, grads, params, None, None))
    state, sizes = optimizer.init(theta, params, num_steps), []
    for factor in factors:
        updates, state = update(jax.tree.map(lambda g, factor=factor: factor * g, grads), state)
        sizes.append(rms(updates["w"]) / optimizer.step_mult)
    return np.array(sizes)
