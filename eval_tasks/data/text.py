"""Text, byte by byte: Python's own reference, tiny Shakespeare, or any file."""

import dataclasses
import hashlib
import importlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eval_tasks.data.catalog import FILE_SETS, text_file
from eval_tasks.data.files import find_files, read_bytes, report_unpublished
from eval_tasks.data.source import Source, SplitName
from mulo.errors import InputError

_VALIDATION_FRACTION = 0.1
_LARGEST = 2**31 - 1  # bytes: positions are int32


class TextBatch(NamedTuple):
    """Stretches of text, and for each byte the one that follows."""

    tokens: jax.Array  # [B, T], int32: bytes, 0 to 255
    targets: jax.Array  # [B, T], int32: the next bytes


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """A text, split into a beginning and an end. A pytree: pass it to jitted functions as an argument.

    The examples of a split, as `take` and `validation_mean` count them, are its stretches of `context_length`
    bytes one after the other, without overlap; a rest that is shorter than the context is left out. `draw`
    begins at any byte.

    >>> source = make_text_source("greeting", b"hello world " * 20, context_length=4)
    >>> batch = source.take("train", jnp.array([1]))
    >>> bytes(batch.tokens[0].tolist()), bytes(batch.targets[0].tolist())
    (b'o wo', b' wor')
    """

    train: jax.Array  # [N], uint8
    validation: jax.Array  # [M], uint8: what follows
    name: str = dataclasses.field(metadata={"static": True})
    context_length: int = dataclasses.field(metadata={"static": True})  # T
    files: tuple[str, ...] = dataclasses.field(metadata={"static": True})  # names of the files read
    digest: str = dataclasses.field(metadata={"static": True})  # of the whole text

    vocabulary_size: ClassVar[int] = 256

    @property
    def validation_chunk(self) -> int:
        """Stretches at a time in `validation_mean`: about 16,000 bytes."""
        return max(1, 16_384 // self.context_length)

    def provenance(self) -> dict[str, Any]:
        """Which data this is, as JSON values."""
        return {
            "name": self.name,
            "files": list(self.files),
            "context_length": self.context_length,
            "num_train_bytes": len(self.train),
            "num_validation_bytes": len(self.validation),
            "digest": self.digest,
        }

    def num_examples(self, split: SplitName) -> int:
        """Number of whole stretches that do not overlap and have a next byte."""
        return (len(getattr(self, split)) - 1) // self.context_length

    def take(self, split: SplitName, index: jax.Array) -> TextBatch:
        """The stretches number `index`, integers [B]: stretch i begins at byte i * T."""
        return self._crop(split, index * self.context_length)

    def draw(self, split: SplitName, key: jax.Array, batch_size: int) -> TextBatch:
        """`batch_size` stretches, each beginning at any byte."""
        num_starts = len(getattr(self, split)) - self.context_length
        return self._crop(split, jax.random.randint(key, (batch_size,), 0, num_starts))

    def hold_out(self, fraction: float = 0.2) -> "TextSource":
        """The training text alone; its last `fraction` becomes the validation split.

        Raises:
          InputError: one of the two parts is shorter than the context.
        """
        kept = len(self.train) - round(fraction * len(self.train))
        _check_lengths(f"The training text of {self.name!r}", len(self.train), kept, self.context_length)
        return dataclasses.replace(self, train=self.train[:kept], validation=self.train[kept:])

    def _crop(self, split: SplitName, starts: jax.Array) -> TextBatch:
        positions = starts[:, jnp.newaxis] + jnp.arange(self.context_length + 1)[jnp.newaxis]
        window = getattr(self, split)[positions].astype(jnp.int32)
        return TextBatch(tokens=window[:, :-1], targets=window[:, 1:])


def make_text_source(
    name: str, text: bytes, *, context_length: int, files: tuple[str, ...] = (), where: str | None = None
) -> TextSource:
    """Splits a text, nine tenths and one tenth, and puts it on the device.

    Args:
      name: of the data set.
      text: its bytes, in any encoding.
      context_length: T, bytes that a model sees at a time.
      files: names of the files that it was read from.
      where: what an error calls the text; by default by the data set's name.

    Raises:
      InputError: a part is too short for the context, or the text has 2**31 bytes or more.
    """
    where = where or f"The text {name!r}"
    num_train = len(text) - round(_VALIDATION_FRACTION * len(text))
    _check_lengths(where, len(text), num_train, context_length)
    everything = np.frombuffer(text, np.uint8)
    return TextSource(
        train=jnp.asarray(everything[:num_train]),
        validation=jnp.asarray(everything[num_train:]),
        name=name,
        context_length=context_length,
        files=files,
        digest=hashlib.sha256(text).hexdigest()[:16],
    )


def _check_lengths(where: str, length: int, num_train: int, context_length: int) -> None:
    shorter = min(num_train, length - num_train)
    if shorter <= context_length:
        raise InputError(
            f"{where} has {length:,} bytes, and the smaller of its two splits {shorter:,}; a context of "
            f"{context_length} needs at least {context_length + 1}. Give a longer text or a shorter context, "
            "for example NAME-16."
        )
    if length > _LARGEST:
        raise InputError(f"{where} has {length:,} bytes; wanted at most {_LARGEST:,}. Cut it into parts.")


def read_pydoc(name: str, data_dir: str | Path | None, *, context_length: int) -> TextSource:
    """Reads the language reference inside Python's standard library, topics in the order of their names.

    The text differs between versions of Python; `digest` tells which it was. `data_dir` is not used.

    Raises:
      InputError: this Python comes without it.
    """
    del data_dir
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise InputError(
            "The data set 'pydoc' is Python's module pydoc_data.topics, which this installation of Python "
            "lacks. Install the full standard library, or use another data set."
        ) from error
    text = "".join(topics[topic] for topic in sorted(topics)).encode()
    return make_text_source(
        name, text, context_length=context_length, files=("pydoc_data/topics.py",), where="Python's reference"
    )


def read_text(name: str, data_dir: str | Path | None, *, file: str, context_length: int) -> TextSource:
    """Reads a text file.

    Args:
      name: of the data set, for the source.
      data_dir: see `eval_tasks.data.load_data`.
      file: name of the file in `data_dir`.
      context_length: T, bytes.

    Raises:
      InputError: the file is not there, cannot be read, or is too short for the context.
    """
    files = next((known for known in FILE_SETS.values() if known.files == (file,)), text_file(file))
    (path,) = find_files(data_dir, files)
    text = read_bytes(path, files)
    source = make_text_source(name, text, context_length=context_length, files=(file,), where=str(path))
    report_unpublished(name, [path], files)  # after all errors: an error is the only line
    return source
