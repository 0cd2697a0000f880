"""The pre-norm transformer block of the ViT and of the language model, in Flax Linen."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from eval_tasks.models.linen_layers import Linear
from eval_tasks.models.parametrization import Parametrization
from mulo.mup import Role

_LONGEST_WAVE = 10_000.0  # of rotary positions


class Attention(nn.Module):
    """Multi-head attention of a sequence to itself.

    Queries, keys, values and the output have kernels [d, heads * d / heads], whose fan-in is d: what is
    summed over, for the output too.
    """

    heads: int
    parametrization: Parametrization
    causal: bool = False
    rotary: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, d] -> [B, T, d]."""
        batch_size, length, width = x.shape
        head_dim = width // self.heads
        query, key, value = (
            self._linear(name, width)(x).reshape(batch_size, length, self.heads, head_dim)
            for name in ("query", "key", "value")
        )
        if self.rotary:
            query, key = rotate(query), rotate(key)
        logits = jnp.einsum("bqhd,bkhd->bhqk", query, key) * self.parametrization.logit_scale(head_dim)
        if self.causal:
            earlier = jnp.tril(jnp.ones((1, 1, length, length), bool))
            logits = jnp.where(earlier, logits, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(logits), value)
        return self._linear("out", width)(mixed.reshape(batch_size, length, width))

    def _linear(self, name: str, width: int) -> Linear:
        return Linear(width, Role.HIDDEN, self.parametrization, name=name)


class Block(nn.Module):
    """Attention, then a feed-forward layer of four times the width, each after a layer norm and added."""

    heads: int
    parametrization: Parametrization
    causal: bool = False
    rotary: bool = False
    residual_multiplier: float = 1.0  # factor on what is added
    eps: float = 1e-6  # of the layer norms

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, T, d] -> [B, T, d]."""
        width = x.shape[-1]
        attention = Attention(self.heads, self.parametrization, self.causal, self.rotary, name="attention")
        x = x + attention(nn.LayerNorm(self.eps, name="norm_0")(x)) * self.residual_multiplier
        hidden = nn.LayerNorm(self.eps, name="norm_1")(x)
        hidden = Linear(4 * width, Role.HIDDEN, self.parametrization, name="linear_0")(hidden)
        hidden = Linear(width, Role.HIDDEN, self.parametrization, name="linear_1")(jax.nn.gelu(hidden))
        return x + hidden * self.residual_multiplier


def rotate(x: jax.Array) -> jax.Array:
    """Rotary positions (Su et al. 2021, arXiv 2104.09864): turns pairs by angles that grow with position.

    Pair i of a head is its components i and i + d/2, turned by position * 10000**(-2i/d): the product of two
    turned vectors depends on their positions' difference only. x: [B, T, heads, d], d even -> the same.
    """
    length, half = x.shape[1], x.shape[-1] // 2
    frequencies = _LONGEST_WAVE ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = jnp.arange(length, dtype=jnp.float32)[:, jnp.newaxis] * frequencies[jnp.newaxis]
    cos, sin = (f(angles)[jnp.newaxis, :, jnp.newaxis] for f in (jnp.cos, jnp.sin))
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)
