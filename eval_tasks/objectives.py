"""What a network is trained to do: what it is shown, its loss, and what a loss is worth."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Objective(NamedTuple):
    """A kind of task. `outputs` are the network's for a batch; losses are float32 [], means over it."""

    inputs: Callable[[Any], jax.Array]  # batch -> what the network is shown
    example: Callable[[Any], jax.ShapeDtypeStruct]  # source -> the inputs of a batch of one
    num_outputs: Callable[[Any], int]  # source -> number of logits, or of values
    loss: Callable[[jax.Array, Any], jax.Array]  # outputs, batch
    accuracy: Callable[[jax.Array, Any], jax.Array] | None  # outputs, batch -> fraction right
    guessing_loss: Callable[[Any], float]  # source -> loss of a network that has learned nothing
    unit: str  # of the loss


def _cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def _fraction_right(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))


def _squared_error(outputs: jax.Array, batch: Any) -> jax.Array:
    return jnp.mean(jnp.square(outputs - batch.image.reshape(outputs.shape)))


def _one_image(source: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *source.image_shape), jnp.float32)


OBJECTIVES: Mapping[str, Objective] = {
    # The class of an image: cross entropy in nats.
    "class": Objective(
        inputs=lambda batch: batch.image,
        example=_one_image,
        num_outputs=lambda source: source.num_classes,
        loss=lambda logits, batch: _cross_entropy(logits, batch.label),
        accuracy=lambda logits, batch: _fraction_right(logits, batch.label),
        guessing_loss=lambda source: math.log(source.num_classes),
        unit="nats",
    ),
    # The byte that follows, at each place of a text: cross entropy in nats a byte.
    "next_byte": Objective(
        inputs=lambda batch: batch.tokens,
        example=lambda source: jax.ShapeDtypeStruct((1, source.context_length), jnp.int32),
        num_outputs=lambda source: source.vocabulary_size,
        loss=lambda logits, batch: _cross_entropy(logits, batch.targets),
        accuracy=lambda logits, batch: _fraction_right(logits, batch.targets),
        guessing_loss=lambda source: math.log(source.vocabulary_size),
        unit="nats per byte",
    ),
    # The image itself: squared error of a pixel's channel. Images have variance 1 over the training split,
    # so that 1 is the loss of the network that always answers with the mean.
    "reconstruction": Objective(
        inputs=lambda batch: batch.image,
        example=_one_image,
        num_outputs=lambda source: math.prod(source.image_shape),
        loss=_squared_error,
        accuracy=None,
        guessing_loss=lambda source: 1.0,  # noqa: ARG005
        unit="share of the variance",
    ),
}
