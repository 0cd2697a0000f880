"""Flax Linen layers, started and scaled as the parametrization says, and Linen modules as a `Model`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from eval_tasks.models.parametrization import Model, Parametrization
from mulo.mup import Role

_RECORD = "intermediates"  # Linen's own name of the collection that `sow` and `capture_intermediates` fill


class Linear(nn.Module):
    """`nn.Dense`, whose output is multiplied."""

    features: int  # number of outputs
    role: Role  # of the kernel
    parametrization: Parametrization
    multiplier: float = 1.0  # a further factor on the output

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., fan_in] -> [..., features]."""
        fan_in = x.shape[-1]
        std = self.parametrization.init_std(self.role, fan_in)
        kernel = self.param("kernel", initializer(std), (fan_in, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = x @ kernel + bias.reshape((1,) * (x.ndim - 1) + (-1,))
        return y * (self.parametrization.forward_multiplier(self.role, fan_in) * self.multiplier)


class Embedding(nn.Module):
    """A vector for each of `num_embeddings` symbols, started at a size of one.

    A look-up is the product with a vector that has a single one, so that its fan-in is 1, not the number
    of symbols.
    """

    num_embeddings: int
    features: int
    parametrization: Parametrization
    multiplier: float = 1.0  # factor on the output

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """tokens: [B, T], integers -> [B, T, features]."""
        std = self.parametrization.init_std(Role.INPUT, 1)
        table = self.param("embedding", initializer(std), (self.num_embeddings, self.features))
        return table[tokens] * self.multiplier


def initializer(std: float) -> nn.initializers.Initializer:
    """A normal of standard deviation `std`, cut at two of these, not rescaled; zeros for 0."""
    return nn.initializers.truncated_normal(std) if std else nn.initializers.zeros


def linen_model(module: nn.Module) -> Model:
    """The model whose outputs are `module(inputs)`; it has no state."""

    def init(key: jax.Array, inputs: jax.Array) -> tuple[Any, dict]:
        return module.init(key, inputs)["params"], {}

    def apply(params: Any, state: Any, inputs: jax.Array, is_training: bool) -> tuple[jax.Array, Any]:
        del is_training
        return module.apply({"params": params}, inputs), state

    def activations(params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        _, recorded = module.apply(
            {"params": params},
            inputs,
            capture_intermediates=lambda layer, method: (
                isinstance(layer, Linear | Embedding) and method == "__call__"
            ),
            mutable=[_RECORD],
        )
        return _by_layer(recorded[_RECORD])

    return Model(init=init, apply=apply, activations=activations)


def record(module: nn.Module, name: str, x: jax.Array) -> None:
    """Adds x to the activations as `name` of `module`; for what is no layer's output."""
    module.sow(_RECORD, name, x)


def _by_layer(recorded: Mapping[str, Any]) -> dict[str, jax.Array]:
    """{"block_0": {"query": {"__call__": (x,)}}} -> {"block_0/query": x}."""
    return {
        "/".join(part for part in path if part != "__call__"): value
        for path, (value,) in flatten_dict(recorded).items()
    }


def repeat(x: jax.Array, batch_size: int) -> jax.Array:
    """The same for every example: [...] -> [B, ...]."""
    return jnp.broadcast_to(x[jnp.newaxis], (batch_size, *x.shape))
