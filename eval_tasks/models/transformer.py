"""The decoder-only transformer, in Flax Linen; muP and SP from one definition."""

from typing import Literal

import flax.linen as nn
import jax

from eval_tasks.models.blocks import Block
from eval_tasks.models.linen_layers import Embedding, Linear, linen_model
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.mup import Role
from mulo.names import lookup


class Transformer(nn.Module):
    """Embedded symbols through causal pre-norm blocks; the output layer has a weight of its own.

    Learned positions start at zero, as biases do.
    """

    width: int
    depth: int  # number of blocks
    heads: int
    num_outputs: int  # number of symbols
    parametrization: Parametrization
    positions: Literal["rotary", "learned", "none"] = "rotary"
    input_multiplier: float = 1.0  # factor on the embedded symbols
    output_multiplier: float = 1.0  # factor on the logits, on top of the parametrization's
    residual_multiplier: float = 1.0  # factor on what each half of a block adds
    eps: float = 1e-6  # of the layer norms

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Logits of the next symbol at each place. tokens: [B, T], integers -> [B, T, num_outputs]."""
        rules = self.parametrization
        x = Embedding(self.num_outputs, self.width, rules, self.input_multiplier, name="embedding")(tokens)
        if self.positions == "learned":
            x = x + self.param("positions", nn.initializers.zeros, x.shape[1:])[None]
        for index in range(self.depth):
            block = Block(
                self.heads,
                rules,
                causal=True,
                rotary=self.positions == "rotary",
                residual_multiplier=self.residual_multiplier,
                eps=self.eps,
                name=f"block_{index}",
            )
            x = block(x)
        x = nn.LayerNorm(self.eps, name="norm")(x)
        return Linear(self.num_outputs, Role.OUTPUT, rules, self.output_multiplier, name="head")(x)


def make_transformer(
    *,
    width: int,
    depth: int,
    heads: int,
    num_outputs: int,
    parametrization: str,
    positions: Literal["rotary", "learned"],
    residual_multiplier: float = 1.0,
) -> Model:
    """A transformer of `depth` blocks; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    return linen_model(
        Transformer(
            width, depth, heads, num_outputs, rules, positions, residual_multiplier=residual_multiplier
        )
    )
