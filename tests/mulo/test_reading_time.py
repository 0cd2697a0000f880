"""No reader of unverified bytes takes more than time in proportion to their number."""

import json

import msgpack
import pytest

import mulo
from mulo.importers.files import read_arrays
from mulo.plain_json import parse_json
from tests.mulo.growth_of_time import check_linear
from tests.mulo.hostile_files import make_file, make_raw_file, read_theta

HEADERS = {
    "escaped quotes": lambda size: b'"\\' * (size // 2),
    "quotes that open": lambda size: b'{"a":' + b'"' * size,
    "one text without an end": lambda size: b'"' + b"\\" * size,
    "brackets in texts": lambda size: b'["[",' * (size // 5),
    "open and shut": lambda size: b"[]" * (size // 2),
    "one number": lambda size: b'{"a":0.' + b"1" * size + b"}",
    "one whole number": lambda size: b'{"a":' + b"1" * size + b"}",
    "many keys": lambda size: b"{" + b",".join(b'"%d":1' % one for one in range(size // 9)) + b"}",
    "blanks": lambda size: b" " * size,
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(name, tmp_path):
    def write(size):
        path = tmp_path / f"{size}.mulo"
        path.write_bytes(make_raw_file(HEADERS[name](size)))
        return path

    check_linear(write, read_theta, 30_000, mulo.CheckpointError)


def test_the_measure_finds_a_quadratic_reader():
    with pytest.raises(pytest.fail.Exception, match="bytes take"):
        check_linear(bytes, lambda text: [text[:one] for one in range(len(text))], 4_000, seconds=0.0005)


def _keys(size):
    return msgpack.packb({str(one): {} for one in range(size)})


BODIES = {
    "many keys": _keys,
    "long keys": lambda size: msgpack.packb({f"{one:01000}": {} for one in range(size // 10)}),
    "nested": lambda size: b"\x81\xa1a" * size,
    "declared only": lambda size: b"\xdf\xff\xff\xff\xff" + b"\xa1a\x80" * size,
    "one array": lambda size: msgpack.packb({
        "x": msgpack.ExtType(1, msgpack.packb(((size,), "uint8", b"\0" * size)))
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name, tmp_path):
    def write(size):
        path = tmp_path / f"{size}.mulo"
        path.write_bytes(make_file(BODIES[name](size)))
        return path

    check_linear(write, read_theta, 5_000, mulo.CheckpointError)


@pytest.mark.parametrize("name", BODIES)
def test_released_thetas(name):
    check_linear(BODIES[name], read_arrays, 5_000, mulo.CheckpointError)


def _safetensors(size):
    header = {str(one): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for one in range(size)}
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw


def test_safetensors():
    check_linear(_safetensors, read_arrays, 500, mulo.CheckpointError)


def test_depth_is_counted_without_reading_texts():
    assert parse_json(json.dumps({"a": '[[[{{"\\'}).encode(), max_depth=1) == {"a": '[[[{{"\\'}
    with pytest.raises(ValueError, match="nested deeper than 2"):
        parse_json(b'{"]]]": [[]]}', max_depth=2)
    with pytest.raises(ValueError, match="not JSON"):
        parse_json(b'{"a": "')
    with pytest.raises(ValueError, match="not JSON"):  # json.loads would guess it from the bytes
        parse_json(json.dumps({"a": 1}).encode("utf-16"))
