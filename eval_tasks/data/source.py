"""Data sets on the device and batches drawn from them inside jit: what all sources offer, and images."""

import abc
import dataclasses
import hashlib
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np

from eval_tasks.data.streaming import HostArray, Placement, stays_on_host
from mulo.errors import InputError

SplitName = Literal["train", "validation"]

_IMAGES_AT_A_TIME = 10_000


class Source(abc.ABC):
    """What every data set offers: batches as pure functions of their arguments, for use inside jit.

    A source is a pytree of its arrays: pass it to jitted functions as an argument. Its batches are named
    tuples of arrays whose first axis is the batch [B]: `Batch` of images, `TextBatch` of text.
    """

    name: str  # of the data set, as `eval_tasks.data.load_data` takes it
    digest: str  # of the data
    validation_chunk: int  # examples at a time that `validation_mean` looks at by default

    @abc.abstractmethod
    def provenance(self) -> dict[str, Any]:
        """Which data this is, as JSON values."""

    @abc.abstractmethod
    def num_examples(self, split: SplitName) -> int:
        """How many examples "train" or "validation" has."""

    @abc.abstractmethod
    def take(self, split: SplitName, index: jax.Array) -> Any:
        """The examples at `index`, integers [B] from 0 to below `num_examples(split)`, as a batch."""

    @abc.abstractmethod
    def draw(self, split: SplitName, key: jax.Array, batch_size: int) -> Any:
        """A batch of `batch_size` drawn with replacement; the same key gives the same batch."""

    @abc.abstractmethod
    def hold_out(self, fraction: float = 0.2) -> Self:
        """The training split alone, itself split: its last `fraction` becomes the validation split."""

    def validation_mean(self, function: Callable[[Any], Any], chunk_size: int | None = None) -> Any:
        """Mean of `function` over the whole validation split, a bounded number of examples at a time.

        For use inside jit, vmap and scan. The split is walked over in a fixed order: chunks of
        `chunk_size` examples in one loop, then one smaller chunk of the rest, so that `function` is
        compiled for at most two batch sizes.

        Args:
          function: batch -> pytree of float32 arrays of any shape, each the mean over the batch (a loss, or a
            stack of loss and accuracy).
          chunk_size: examples in a chunk; `None` for `validation_chunk`. It bounds the memory.

        Returns:
          The pytree of `function`: the mean over the examples, each with the same weight.

        >>> import jax.numpy as jnp
        >>> from eval_tasks.data import load_data
        >>> source = load_data("digits")
        >>> print(source.validation_mean(lambda batch: jnp.mean(batch.label == 3, dtype=jnp.float32)))
        0.09192201
        """
        size = self.validation_chunk if chunk_size is None else chunk_size
        num_chunks, num_rest = divmod(self.num_examples("validation"), size)

        def sums(start: jax.Array | int, length: int) -> Any:
            means = function(self.take("validation", start + jnp.arange(length)))
            return jax.tree.map(lambda mean: mean * length, means)

        totals = []
        if num_chunks:
            chunks = jax.lax.map(lambda start: sums(start, size), size * jnp.arange(num_chunks))
            totals.append(jax.tree.map(lambda chunk: jnp.sum(chunk, axis=0), chunks))
        if num_rest:
            totals.append(sums(num_chunks * size, num_rest))
        return jax.tree.map(lambda *parts: sum(parts) / self.num_examples("validation"), *totals)


class Batch(NamedTuple):
    """Images, and what is on them."""

    image: jax.Array  # [B, H, W, C], float32: mean 0 and standard deviation 1 over the training split
    label: jax.Array  # [B], int32


class Split(NamedTuple):
    """Part of a data set."""

    images: jax.Array | HostArray  # [N, H, W, C], uint8; on the device, or left on the host
    labels: jax.Array  # [N], int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSource(Source):
    """Images with labels, split. A pytree: pass it to jitted functions as an argument.

    `mean` and `std` are those of each channel over the training split, in the units of `images`.
    """

    train: Split
    validation: Split
    name: str = dataclasses.field(metadata={"static": True})
    num_classes: int = dataclasses.field(metadata={"static": True})
    mean: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    std: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    files: tuple[str, ...] = dataclasses.field(metadata={"static": True})  # names of the files read
    digest: str = dataclasses.field(metadata={"static": True})  # of the images and labels of both splits

    validation_chunk: ClassVar[int] = 1000

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

    def num_examples(self, split: SplitName) -> int:
        """Number of images."""
        return len(getattr(self, split).labels)

    def take(self, split: SplitName, index: jax.Array) -> Batch:
        """The images at `index`, normalised, and their labels."""
        images, labels = getattr(self, split)
        return Batch(image=normalise(self, images[index]), label=labels[index])

    def draw(self, split: SplitName, key: jax.Array, batch_size: int) -> Batch:
        """A batch of `batch_size` images drawn with replacement."""
        return self.take(split, jax.random.randint(key, (batch_size,), 0, self.num_examples(split)))

    def hold_out(self, fraction: float = 0.2) -> "DataSource":
        """The training images alone; their last `fraction` becomes the validation split."""
        num_train = self.num_examples("train")
        kept = num_train - round(fraction * num_train)
        images, labels = self.train
        return dataclasses.replace(
            self,
            train=Split(images[:kept], labels[:kept]),
            validation=Split(images[kept:], labels[kept:]),
        )


def make_source(
    name: str,
    images: Any,
    labels: np.ndarray,
    *,
    num_classes: int,
    train_fraction: float,
    files: tuple[str, ...] = (),
    placement: Placement = "device",
) -> DataSource:
    """Splits a data set by a fixed permutation and puts it on the device, or leaves it on the host.

    Args:
      name: of the data set.
      images: [N, H, W, C], uint8: an array, or what has a shape and gives images for an array of indices.
      labels: [N], whole numbers from 0.
      num_classes: number of different labels.
      train_fraction: of N; the rest is for validation.
      files: names of the files that it was read from.
      placement: see `eval_tasks.data.load_data`. Wherever the set is, its batches are the same.

    Raises:
      InputError: a split would be empty.
    """
    order = np.random.RandomState(0).permutation(len(images))  # RandomState: its stream is frozen
    num_train = round(train_fraction * len(images))
    if not 0 < num_train < len(images):
        raise InputError(f"{name!r} has {len(images)} images, too few for two splits; wanted at least 10.")
    train, validation = order[:num_train], order[num_train:]
    labels = labels.astype(np.int32)
    on_host = stays_on_host(math.prod(images.shape), placement)

    def part(rows: np.ndarray) -> HostArray | np.ndarray:
        return HostArray(images.__getitem__, rows, images.shape[1:]) if on_host else images[rows]

    def placed(split: HostArray | np.ndarray) -> HostArray | jax.Array:
        return split if on_host else jnp.asarray(split)

    train_images = part(train)
    validation_images = part(validation)
    mean, std, digest = _describe(train_images, labels[train])
    *_, digest_of_rest = _describe(validation_images, labels[validation])
    digest = hashlib.sha256(f"{digest} {digest_of_rest}".encode()).hexdigest()[:16]
    return DataSource(
        train=Split(placed(train_images), jnp.asarray(labels[train])),
        validation=Split(placed(validation_images), jnp.asarray(labels[validation])),
        name=name,
        num_classes=num_classes,
        mean=mean,
        std=std,
        files=files,
        digest=digest,
    )


def _describe(images: Any, labels: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and standard deviation of each channel, exactly, and the digest: one pass over the images.

    The moments come from a histogram, so that there is no float copy of the set.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    digest = hashlib.sha256()
    for start in range(0, len(images), _IMAGES_AT_A_TIME):
        block = np.ascontiguousarray(np.asarray(images[start : start + _IMAGES_AT_A_TIME]))
        digest.update(block)
        for channel, count in enumerate(counts):
            count += np.bincount(block[..., channel].ravel(), minlength=256)
    digest.update(labels.astype("<i4").tobytes())
    values = np.arange(256)
    means = [float(count @ values / count.sum()) for count in counts]
    variances = [
        float(count @ np.square(values - mean) / count.sum())
        for count, mean in zip(counts, means, strict=True)
    ]
    # A channel that never changes is only shifted.
    return tuple(means), tuple(variance**0.5 or 1.0 for variance in variances), digest.hexdigest()[:16]


def draw_batch(source: Source, split: SplitName, key: jax.Array, batch_size: int) -> Any:
    """A batch drawn with replacement, for use inside jit; a pure function of its arguments.

    Args:
      source: the data set.
      split: "train" or "validation".
      key: random key; the same key gives the same batch.
      batch_size: B.

    Returns:
      Batch of `batch_size` normalised images and their labels; of text, a `TextBatch`.
    """
    return source.draw(split, key, batch_size)


def hold_out(source: Source, fraction: float = 0.2) -> Any:
    """The training split alone, itself split: its last `fraction` becomes the validation split.

    For choosing something by a loss on examples that are not trained on, and leaving the validation
    split unseen.

    Raises:
      InputError: a text whose part is shorter than the context.
    """
    return source.hold_out(fraction)


def whole_split(source: Source, split: SplitName) -> Any:
    """All of "train" or "validation" as one batch, in a fixed order.

    Args:
      source: the data set.
      split: "train" or "validation".

    Returns:
      Batch of all examples; of text, a `TextBatch`.
    """
    return source.take(split, jnp.arange(source.num_examples(split)))


def normalise(source: DataSource, images: jax.Array) -> jax.Array:
    """uint8 images [B, H, W, C] -> float32, mean 0 and standard deviation 1 in each channel."""
    mean = jnp.asarray(source.mean, jnp.float32).reshape(1, 1, 1, -1)
    std = jnp.asarray(source.std, jnp.float32).reshape(1, 1, 1, -1)
    return (images.astype(jnp.float32) - mean) / std
