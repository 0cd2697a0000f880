"""Files that a checkpoint reader must refuse, and what a refusal looks like."""

import json

import msgpack
import pytest

import mulo
from mulo import _envelope
from mulo.checkpoint_file import read_file


def make_file(raw_body, header=(), kind="theta"):
    """A file of this body with a valid checksum."""
    return _envelope._encode_head(kind, dict(header), [raw_body]) + raw_body


def make_raw_file(raw_header, body=b"\x80"):
    """A file of this header, whatever it is."""
    return _envelope.MAGIC + len(raw_header).to_bytes(4, "little") + raw_header + body


def change_header(data, **changes):
    """The file with other header fields and its old checksum."""
    num_bytes = int.from_bytes(data[8:12], "little")
    header = json.loads(data[12 : 12 + num_bytes]) | changes
    return make_raw_file(_envelope._encode_json(header), data[12 + num_bytes :])


def make_array(shape=(2,), dtype="float32", data=b"\0" * 8):
    return msgpack.ExtType(1, msgpack.packb((shape, dtype, data)))


def read_theta(path):
    return read_file(path, kind="theta", max_bytes=2**24)


def refusal(path, read=read_theta):
    """The message of the one error that a bad file may cause: one bounded line that names the file."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(mulo.CheckpointError) as caught:
        read(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500 + len(str(path))
    assert path.name in message
    assert before is None or path.read_bytes() == before
    return message
