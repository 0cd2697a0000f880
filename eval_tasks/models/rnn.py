"""A recurrent network of gated units, in Flax Linen; muP and SP from one definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from eval_tasks.models.linen_layers import Embedding, Linear, initializer, linen_model, record
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.mup import Role
from mulo.names import lookup


class GRULayer(nn.Module):
    """Gated recurrent units (Cho et al. 2014, arXiv 1406.1078), which reset after the recurrent product.

        r, z = sigmoid(W x + U h);  n = tanh(W x + r * U h);  h <- (1 - z) n + z h

    W, with its bias, and U hold the parts for r, z and n side by side.
    """

    width: int  # units
    parametrization: Parametrization

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The units' values at every place. x: [B, T, fan_in] -> [B, T, width]; they begin at zero."""
        inputs = Linear(3 * self.width, Role.HIDDEN, self.parametrization, name="input")(x)
        std = self.parametrization.init_std(Role.HIDDEN, self.width)
        kernel = self.param("recurrent_kernel", initializer(std), (self.width, 3 * self.width))

        def step(units: jax.Array, now: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
            recurrent = units @ kernel
            (reset, update, new), (reset_h, update_h, new_h) = (
                jnp.split(part, 3, axis=-1) for part in (now, recurrent)
            )
            candidate = jnp.tanh(new + jax.nn.sigmoid(reset + reset_h) * new_h)
            kept = jax.nn.sigmoid(update + update_h)
            units = (1 - kept) * candidate + kept * units
            return units, (units, recurrent)

        start = jnp.zeros((len(x), self.width), x.dtype)
        _, (values, recurrent) = jax.lax.scan(step, start, inputs.swapaxes(0, 1))
        record(self, "recurrent", recurrent.swapaxes(0, 1))
        return values.swapaxes(0, 1)


class RNN(nn.Module):
    """Embedded symbols through layers of gated recurrent units; the output layer has a weight of its own."""

    width: int
    depth: int  # number of recurrent layers
    num_outputs: int  # number of symbols
    parametrization: Parametrization

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next symbol at each place. tokens: [B, T], integers -> [B, T, num_outputs]."""
        x = Embedding(self.num_outputs, self.width, self.parametrization, name="embedding")(tokens)
        for index in range(self.depth):
            x = GRULayer(self.width, self.parametrization, name=f"layer_{index}")(x)
        return Linear(self.num_outputs, Role.OUTPUT, self.parametrization, name="head")(x)


def make_rnn(*, width: int, depth: int, num_outputs: int, parametrization: str) -> Model:
    """`depth` layers of `width` gated recurrent units; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    return linen_model(RNN(width, depth, num_outputs, rules))
