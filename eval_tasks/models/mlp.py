"""The multilayer perceptron, in Haiku; muP and SP from one definition."""

from collections.abc import Sequence

import haiku as hk
import jax

from eval_tasks.models.parametrization import PARAMETRIZATIONS, Model, Parametrization
from mulo.mup import Role
from mulo.names import lookup


class MLP(hk.Module):
    """ReLU layers on the flattened image, then a linear one.

    Args:
      widths: units in each hidden layer, at least one.
      num_classes: number of logits.
      parametrization: initial sizes and multipliers by role.
      input_multiplier: factor on the first layer's output, before its ReLU.
      output_multiplier: factor on the logits, on top of the parametrization's.
      name: first part of the parameters' names.
    """

    def __init__(
        self,
        widths: Sequence[int],
        num_classes: int,
        parametrization: Parametrization,
        input_multiplier: float = 1.0,
        output_multiplier: float = 1.0,
        name: str = "mlp",
    ):
        super().__init__(name=name)
        self.widths = tuple(widths)
        self.num_classes = num_classes
        self.parametrization = parametrization
        self.input_multiplier = input_multiplier
        self.output_multiplier = output_multiplier

    def __call__(self, images: jax.Array) -> jax.Array:
        """Logits. images: [B, H, W, C], float32 -> [B, num_classes]."""
        x = images.reshape(images.shape[0], -1)
        for index, width in enumerate(self.widths):
            role = Role.HIDDEN if index else Role.INPUT
            x = self._linear(role, x, width, index) * (1.0 if index else self.input_multiplier)
            x = jax.nn.relu(x)
        return self._linear(Role.OUTPUT, x, self.num_classes, len(self.widths)) * self.output_multiplier

    @hk.transparent  # keeps the name of this method out of the parameters' names
    def _linear(self, role: Role, x: jax.Array, width: int, index: int) -> jax.Array:
        fan_in = x.shape[-1]
        std = self.parametrization.init_std(role, fan_in)
        w_init = hk.initializers.TruncatedNormal(std) if std else hk.initializers.Constant(0.0)
        layer = hk.Linear(width, w_init=w_init, name=f"linear_{index}")
        return layer(x) * self.parametrization.forward_multiplier(role, fan_in)


def make_mlp(*, width: int, depth: int, num_classes: int, parametrization: str) -> Model:
    """An MLP with `depth` hidden layers of `width` units; see `eval_tasks.models.make_model`."""
    rules = lookup(PARAMETRIZATIONS, parametrization, "parametrization")
    init, apply = hk.without_apply_rng(hk.transform(lambda x: MLP([width] * depth, num_classes, rules)(x)))
    return Model(init=init, apply=apply)
