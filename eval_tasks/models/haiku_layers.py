"""Haiku's layers, started and scaled as the parametrization says, and Haiku networks as a `Model`."""

import math
from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from eval_tasks.models.parametrization import Model, Parametrization
from mulo.mup import Role


class Linear(hk.Linear):
    """`hk.Linear`, whose output is multiplied.

    Args:
      width: number of outputs.
      role: of its weight.
      parametrization: initial size and multiplier by role.
      multiplier: a further factor on the output.
      name: as Haiku's.
    """

    def __init__(
        self, width: int, role: Role, parametrization: Parametrization, multiplier: float = 1.0, *, name: str
    ):
        super().__init__(width, name=name)
        self.role, self.parametrization, self.multiplier = role, parametrization, multiplier

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [..., fan_in] -> [..., width]."""
        fan_in = x.shape[-1]
        self.w_init = _initializer(self.parametrization.init_std(self.role, fan_in))
        factor = self.parametrization.forward_multiplier(self.role, fan_in) * self.multiplier
        return super().__call__(x) * factor


class Conv(hk.Conv2D):
    """`hk.Conv2D` under the parametrization; its fan-in is the kernel's area times the channels.

    Args:
      channels: number of outputs.
      kernel_size: side of the kernel.
      role: of its weight.
      parametrization: initial size and multiplier by role.
      stride: of the kernel.
      with_bias: adds a bias to each channel.
      name: as Haiku's.
    """

    def __init__(
        self,
        channels: int,
        kernel_size: int,
        role: Role,
        parametrization: Parametrization,
        *,
        stride: int = 1,
        with_bias: bool = True,
        name: str,
    ):
        super().__init__(channels, kernel_size, stride=stride, with_bias=with_bias, name=name)
        self.role, self.parametrization = role, parametrization

    def __call__(self, x: jax.Array) -> jax.Array:
        """x: [B, H, W, C] -> [B, H / stride, W / stride, channels]."""
        fan_in = math.prod(self.kernel_shape) * x.shape[-1]
        self.w_init = _initializer(self.parametrization.init_std(self.role, fan_in))
        return super().__call__(x) * self.parametrization.forward_multiplier(self.role, fan_in)


class BatchNorm(hk.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015, arXiv 1502.03167).

    Not `hk.BatchNorm`, which keeps its gain as [1, 1, 1, C]: muP tells from a shape of one axis that it is
    a vector.

    Args:
      decay: of the running averages, in each step.
      eps: added to the variance.
      name: as Haiku's.
    """

    def __init__(self, decay: float = 0.9, eps: float = 1e-5, *, name: str):
        super().__init__(name=name)
        self.decay, self.eps = decay, eps

    def __call__(self, x: jax.Array, is_training: bool) -> jax.Array:
        """x: [..., C] -> [..., C]; in training by the batch's own moments, else by their running averages."""
        channels = x.shape[-1:]
        gain = hk.get_parameter("scale", channels, init=jnp.ones)
        offset = hk.get_parameter("offset", channels, init=jnp.zeros)
        mean = hk.get_state("mean", channels, init=jnp.zeros)
        variance = hk.get_state("variance", channels, init=jnp.ones)
        if is_training:
            axes = tuple(range(x.ndim - 1))
            batch_mean, batch_variance = jnp.mean(x, axes), jnp.var(x, axes)
            hk.set_state("mean", self._average(mean, batch_mean))
            hk.set_state("variance", self._average(variance, batch_variance))
            mean, variance = batch_mean, batch_variance
        factor = gain * jax.lax.rsqrt(variance + self.eps)
        gain, mean, offset = (a.reshape((1,) * (x.ndim - 1) + channels) for a in (factor, mean, offset))
        return (x - mean) * gain + offset

    def _average(self, average: jax.Array, now: jax.Array) -> jax.Array:
        return self.decay * average + (1 - self.decay) * jax.lax.stop_gradient(now)


def haiku_model(forward: Callable[[jax.Array, bool], jax.Array]) -> Model:
    """The model whose layers `forward`, inputs, is_training -> outputs, calls."""
    init, apply = hk.without_apply_rng(hk.transform_with_state(forward))

    def activations(params: Any, inputs: jax.Array) -> dict[str, jax.Array]:
        recorded = {}

        def record(call: Callable, args: Any, kwargs: Any, context: hk.MethodContext) -> Any:
            output = call(*args, **kwargs)
            if isinstance(context.module, Linear | Conv) and context.method_name == "__call__":
                # Called for the parent's method too, before ours: ours, with its factor, is the last word.
                recorded[context.module.module_name] = output
            return output

        with hk.intercept_methods(record):
            apply(params, {}, inputs, True)
        return recorded

    return Model(init=lambda key, inputs: init(key, inputs, True), apply=apply, activations=activations)


def _initializer(std: float) -> hk.initializers.Initializer:
    return hk.initializers.TruncatedNormal(std) if std else hk.initializers.Constant(0.0)
