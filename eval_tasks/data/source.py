"""A data set on the device, and batches drawn from it inside jit."""

import dataclasses
import hashlib
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SplitName = Literal["train", "validation"]


class Batch(NamedTuple):
    """What a loss is computed on."""

    image: jax.Array  # [B, H, W, C], float32: mean 0 and standard deviation 1 over the training split
    label: jax.Array  # [B], int32


class Split(NamedTuple):
    """Part of a data set, on the device."""

    images: jax.Array  # [N, H, W, C], uint8
    labels: jax.Array  # [N], int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource:
    """A data set, split. A pytree: pass it to jitted functions as an argument.

    `mean` and `std` are those of each channel over the training split, in the units of `images`.
    """

    train: Split
    validation: Split
    name: str = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    mean: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    std: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    files: tuple[str, ...] = dataclasses.field(metadata={"static": True})  # names of the files read
    digest: str = dataclasses.field(metadata={"static": True})  # of the training images and labels

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)."""
        return self.train.images.shape[1:]

    def provenance(self) -> dict[str, Any]:
        """Which data this is, as JSON values."""
        return {
            "name": self.name,
            "files": list(self.files),
            "num_train": len(self.train.labels),
            "num_validation": len(self.validation.labels),
            "digest": self.digest,
        }


def make_source(
    name: str,
    images: np.ndarray,
    labels: np.ndarray,
    *,
    num_classes: int,
    train_fraction: float,
    files: tuple[str, ...] = (),
) -> DataSource:
    """Splits a data set by a fixed permutation and puts it on the device.

    Args:
      name: of the data set.
      images: [N, H, W, C], uint8.
      labels: [N], whole numbers from 0.
      num_classes: number of different labels.
      train_fraction: of N; the rest is for validation.
      files: names of the files that it was read from.
    """
    order = np.random.RandomState(0).permutation(len(images))  # RandomState: its stream is frozen
    num_train = round(train_fraction * len(images))
    train, validation = order[:num_train], order[num_train:]
    train_images = np.ascontiguousarray(images[train])
    train_labels = labels[train].astype(np.int32)
    mean, std = _channel_moments(train_images)
    digest = hashlib.sha256(train_images.tobytes() + train_labels.astype("<i4").tobytes()).hexdigest()[:16]
    return DataSource(
        train=Split(jnp.asarray(train_images), jnp.asarray(train_labels)),
        validation=Split(jnp.asarray(images[validation]), jnp.asarray(labels[validation].astype(np.int32))),
        name=name,
        num_classes=num_classes,
        mean=mean,
        std=std,
        files=files,
        digest=digest,
    )


def _channel_moments(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, exactly, from a histogram: no float copy of the set."""
    means, stds = [], []
    for channel in range(images.shape[-1]):
        counts = np.bincount(images[..., channel].ravel(), minlength=256)
        mean = float(counts @ np.arange(256) / counts.sum())
        variance = float(counts @ np.square(np.arange(256) - mean) / counts.sum())
        means.append(mean)
        stds.append(variance**0.5 or 1.0)  # a channel that never changes is only shifted
    return tuple(means), tuple(stds)


def draw_batch(source: DataSource, split: SplitName, key: jax.Array, batch_size: int) -> Batch:
    """A batch drawn with replacement, for use inside jit; a pure function of its arguments.

    Args:
      source: the data set.
      split: "train" or "validation".
      key: random key; the same key gives the same batch.
      batch_size: B.

    Returns:
      Batch of `batch_size` normalised images and their labels.
    """
    images, labels = getattr(source, split)
    index = jax.random.randint(key, (batch_size,), 0, len(labels))
    return Batch(image=normalise(source, images[index]), label=labels[index])


def hold_out(source: DataSource, fraction: float = 0.2) -> DataSource:
    """The training split alone, itself split: its last `fraction` becomes the validation split.

    For choosing something by a loss on images that are not trained on, and leaving the validation
    split unseen.
    """
    num_train = len(source.train.labels)
    kept = num_train - round(fraction * num_train)
    images, labels = source.train
    return dataclasses.replace(
        source,
        train=Split(images[:kept], labels[:kept]),
        validation=Split(images[kept:], labels[kept:]),
    )


def whole_split(source: DataSource, split: SplitName) -> Batch:
    """All of "train" or "validation" as one batch, in a fixed order."""
    images, labels = getattr(source, split)
    return Batch(image=normalise(source, images), label=labels)


def normalise(source: DataSource, images: jax.Array) -> jax.Array:
    """uint8 images [B, H, W, C] -> float32, mean 0 and standard deviation 1 in each channel."""
    mean = jnp.asarray(source.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(source.std, jnp.float32).reshape(1, 1, 1, -1)
    return (images.astype(jnp.float32) - mean) / std
