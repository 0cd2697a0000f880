"""Multilayer perceptrons in Haiku, as classifier and as autoencoder; muP and SP from one definition."""

from collections.abc import Sequence

import haiku as hk
import jax

from eval_tasks.models.haiku_layers import Linear, haiku_model
from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.mup import Role
from mulo.names import lookup


class MLP(hk.Module):
    """ReLU layers on the flattened image, then a linear one.

    Args:
      widths: units in each hidden layer, at least one.
      num_outputs: number of logits.
      parametrization: initial sizes and multipliers by role.
      input_multiplier: factor on the first layer's output, before its ReLU.
      output_multiplier: factor on the logits, on top of the parametrization's.
      linear_index: of a hidden layer that has no ReLU, if any: an autoencoder's code.
      name: first part of the parameters' names.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_outputs: int,
        parametrization: Parametrization,
        input_multiplier: float = 1.0,
        output_multiplier: float = 1.0,
        linear_index: int | None = None,
        name: str = "mlp",
    ):
        super().__init__(name=name)
        self.widths = tuple(widths)
        self.num_outputs = num_outputs
        self.parametrization = parametrization
        self.input_multiplier = input_multiplier
        self.output_multiplier = output_multiplier
        self.linear_index = linear_index

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits. images: [B, H, W, C], float32 -> [B, num_outputs]."""
        x = images.reshape(images.shape[0], -1)
        for index, width in enumerate(self.widths):
            role, multiplier = (Role.HIDDEN, 1.0) if index else (Role.INPUT, self.input_multiplier)
            x = Linear(width, role, self.parametrization, multiplier, name=f"linear_{index}")(x)
            x = x if index == self.linear_index else jax.nn.relu(x)
        last = f"linear_{len(self.widths)}"
        return Linear(self.num_outputs, Role.OUTPUT, self.parametrization, self.output_multiplier, name=last)(
            x
        )


def make_mlp(*, width: int, depth: int, num_outputs: int, parametrization: str) -> Model:
    """An MLP with `depth` hidden layers of `width` units; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    return haiku_model(lambda images, is_training: MLP([width] * depth, num_outputs, rules)(images))  # noqa: ARG005


def make_autoencoder(*, width: int, depth: int, num_outputs: int, parametrization: str) -> Model:
    """An MLP with a linear code of `width / 4` units between `depth` hidden layers on either side.

    The code grows with width: of a code of fixed size muP would make an output weight, which starts at
    zero, and no gradient would get past it. See `eval_tasks.models.make_model`.
    """
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    side = [width] * depth

    def forward(images: jax.Array, is_training: bool) -> jax.Array:
        del is_training
        widths = [*side, width // 4, *side]
        return MLP(widths, num_outputs, rules, linear_index=depth, name="autoencoder")(images)

    return haiku_model(forward)
