"""The vision transformer, in Flax Linen; muP and SP from one definition."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from eval_tasks.models.blocks import Block
from eval_tasks.models.linen_layers import Linear, linen_model, repeat
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.errors import InputError
from mulo.mup import Role
from mulo.names import lookup


class ViT(nn.Module):
    """Patches and a class token through pre-norm blocks (Dosovitskiy et al. 2021, arXiv 2010.11929).

    Positions are learned. They and the class token start at zero, as biases do.
    """

    width: int
    depth: int  # number of blocks
    heads: int
    num_outputs: int  # number of logits
    parametrization: Parametrization
    patch_size: int | None = None  # in pixels; `None`: 4, on images of less than 16 pixels 2
    input_multiplier: float = 1.0  # factor on the embedded patches
    output_multiplier: float = 1.0  # factor on the logits, on top of the parametrization's
    residual_multiplier: float = 1.0  # factor on what each half of a block adds

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits. images: [B, H, W, C], float32 -> [B, num_outputs]."""
        rules = self.parametrization
        patches = cut(images, self.patch_size or (4 if min(images.shape[1:3]) >= 16 else 2))
        x = Linear(self.width, Role.INPUT, rules, self.input_multiplier, name="embedding")(patches)
        token = self.param("class_token", nn.initializers.zeros, (self.width,))
        x = jnp.concatenate([repeat(token[jnp.newaxis], len(images)), x], axis=1)
        positions = self.param("positions", nn.initializers.zeros, x.shape[1:])
        x = x + positions[jnp.newaxis]
        for index in range(self.depth):
            block = Block(
                self.heads, rules, residual_multiplier=self.residual_multiplier, name=f"block_{index}"
            )
            x = block(x)
        x = nn.LayerNorm(name="norm")(x)[:, 0]
        return Linear(self.num_outputs, Role.OUTPUT, rules, self.output_multiplier, name="head")(x)


def cut(images: jax.Array, size: int) -> jax.Array:
    """Patches in reading order, flattened: [B, H, W, C] -> [B, H/size * W/size, size * size * C].

    Raises:
      InputError: the patches do not cover the images.
    """
    batch_size, height, width, channels = images.shape
    if height % size or width % size:
        raise InputError(
            f"Images of {height}x{width} pixels cannot be cut into patches of {size}x{size}; wanted "
            f"sides that are multiples of {size}. Give another patch size or another data set."
        )
    x = images.reshape(batch_size, height // size, size, width // size, size, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch_size, -1, size * size * channels)


def make_vit(
    *,
    width: int,
    depth: int,
    heads: int,
    num_outputs: int,
    parametrization: str,
    residual_multiplier: float = 1.0,
) -> Model:
    """A ViT of `depth` blocks; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    return linen_model(ViT(width, depth, heads, num_outputs, rules, residual_multiplier=residual_multiplier))
