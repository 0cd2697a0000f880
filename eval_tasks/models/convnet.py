"""Convolutional networks in Haiku, plain and residual; muP and SP from one definition."""

import haiku as hk
import jax
import jax.numpy as jnp

from eval_tasks.models.haiku_layers import BatchNorm, Conv, Linear, haiku_model
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.mup import Role
from mulo.names import lookup

_SMALLEST_SIDE = 4  # pixels: a plain network does not halve such an image again
_MAX_STAGES = 3


class ConvNet(hk.Module):
    """3x3 convolutions with ReLU, the mean over the image, then a linear layer.

    Every convolution but the first halves the image, until a side has at most four pixels.

    Args:
      channels: outputs of each convolution.
      depth: number of convolutions.
      num_outputs: number of logits.
      parametrization: initial sizes and multipliers by role.
      name: first part of the parameters' names.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        num_outputs: int,
        parametrization: Parametrization,
        name: str = "convnet",
    ):
        super().__init__(name=name)
        self.channels, self.depth, self.num_outputs = channels, depth, num_outputs
        self.parametrization = parametrization

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits. images: [B, H, W, C], float32 -> [B, num_outputs]."""
        x = images
        for index in range(self.depth):
            role = Role.HIDDEN if index else Role.INPUT
            stride = 2 if index and min(x.shape[1:3]) > _SMALLEST_SIDE else 1
            name = f"conv_{index}"
            x = jax.nn.relu(Conv(self.channels, 3, role, self.parametrization, stride=stride, name=name)(x))
        x = jnp.mean(x, axis=(1, 2))
        return Linear(self.num_outputs, Role.OUTPUT, self.parametrization, name="linear")(x)


class ResNet(hk.Module):
    """Residual blocks of two 3x3 convolutions with batch norm (He et al. 2016, arXiv 1512.03385).

    As in their networks for CIFAR-10, the blocks are shared out over three stages, or as many as there are
    blocks; each stage after the first halves the image and doubles the channels. The shortcut is then a 1x1
    convolution.

    Args:
      channels: of the first stage.
      depth: number of blocks.
      num_outputs: number of logits.
      parametrization: initial sizes and multipliers by role.
      residual_multiplier: factor on what each block adds to its shortcut.
      name: first part of the parameters' names.
    """

    def __init__(
        self,
        channels: int,
        depth: int,
        num_outputs: int,
        parametrization: Parametrization,
        residual_multiplier: float = 1.0,
        name: str = "resnet",
    ):
        super().__init__(name=name)
        self.channels, self.depth, self.num_outputs = channels, depth, num_outputs
        self.parametrization = parametrization
        self.residual_multiplier = residual_multiplier

    def __call__(self, images: jax.Array, is_training: bool) -> jax.Array:
        """Logits. images: [B, H, W, C], float32 -> [B, num_outputs]."""
        x = self._conv(images, self.channels, "stem", is_training, role=Role.INPUT)
        x = jax.nn.relu(x)
        stages = [index * min(_MAX_STAGES, self.depth) // self.depth for index in range(self.depth)]
        for index, stage in enumerate(stages):
            x = self._block(x, index, stage, bool(index) and stage != stages[index - 1], is_training)
        x = jnp.mean(x, axis=(1, 2))
        return Linear(self.num_outputs, Role.OUTPUT, self.parametrization, name="linear")(x)

    @hk.transparent  # keeps the name of this method out of the parameters' names
    def _block(
        self, x: jax.Array, index: int, stage: int, begins_stage: bool, is_training: bool
    ) -> jax.Array:
        channels, stride = self.channels * 2**stage, 2 if begins_stage else 1
        branch = self._conv(x, channels, f"block_{index}_conv_0", is_training, stride=stride)
        branch = self._conv(jax.nn.relu(branch), channels, f"block_{index}_conv_1", is_training)
        if begins_stage:
            name = f"block_{index}_shortcut"
            x = self._conv(x, channels, name, is_training, kernel_size=1, stride=stride)
        return jax.nn.relu(x + branch * self.residual_multiplier)

    @hk.transparent
    def _conv(
        self,
        x: jax.Array,
        channels: int,
        name: str,
        is_training: bool,
        role: Role = Role.HIDDEN,
        kernel_size: int = 3,
        stride: int = 1,
    ) -> jax.Array:
        conv = Conv(
            channels, kernel_size, role, self.parametrization, stride=stride, with_bias=False, name=name
        )
        return BatchNorm(name=f"{name}_norm")(conv(x), is_training)


def make_convnet(*, width: int, depth: int, num_outputs: int, parametrization: str) -> Model:
    """`depth` convolutions of `width` channels; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    return haiku_model(lambda images, is_training: ConvNet(width, depth, num_outputs, rules)(images))  # noqa: ARG005


def make_resnet(
    *, width: int, depth: int, num_outputs: int, parametrization: str, residual_multiplier: float = 1.0
) -> Model:
    """`depth` residual blocks, the first of `width` channels; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")

    def forward(images: jax.Array, is_training: bool) -> jax.Array:
        return ResNet(width, depth, num_outputs, rules, residual_multiplier)(images, is_training)

    return haiku_model(forward)
