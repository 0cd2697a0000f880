"""Checkpoint files of any kind: whole or refused, and written so that the old one or the new one is there."""

import errno
import os
import pickle
import subprocess
import sys
import tracemalloc

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

import mulo
from mulo import _body, _envelope
from mulo.checkpoint_file import read_file, write_file
from mulo.safe_files import remove_leftovers
from tests.mulo.hostile_files import change_header, make_array, make_file, make_raw_file, read_theta, refusal

BODY = {"a": {"w": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.int32([1, 2])}


def write(path, body=BODY, **header):
    write_file(path, kind="theta", header=header, body=body)
    return path


def message_as_id(value):
    return value if isinstance(value, str) else ""


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_every_dtype_and_shape_comes_back_writable_and_flax_can_read_it(tmp_path):
    shapes = [(), (0,), (3,), (2, 0, 3), (1,) * 17]
    body = {
        name: {str(i): np.ones(shape, dtype) for i, shape in enumerate(shapes)}
        for name, dtype in _body.DTYPES.items()
    }
    body |= {"jax": {"x": jnp.arange(3)}, "big-endian": {"x": np.arange(3, dtype=">f4")}, "empty": {}}
    body |= {
        "transposed": {"x": np.arange(6).reshape(2, 3).T},
        "many": {str(i): np.zeros(300) for i in range(20)},
    }
    path = tmp_path / "all"
    write_file(path, kind="run-state", header={"step": 7, "tags": ["a"]}, body=body)
    header, read = read_file(path, kind="run-state", max_bytes=10**6)
    assert (header["step"], header["tags"], header["kind"]) == (7, ["a"], "run-state")
    by_flax = flax.serialization.msgpack_restore(path.read_bytes()[-header["body_bytes"] :])
    for other in (read, by_flax):
        assert other.keys() == body.keys()
        jax.tree.map(np.testing.assert_array_equal, other, body)
    for array in jax.tree.leaves(read):
        assert array.flags.writeable
        assert array.flags.aligned
    assert {name: read[name]["2"].dtype for name in _body.DTYPES} == _body.DTYPES


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "The body is a list; wanted a dictionary of arrays"),
        ({"a": {1: np.zeros(1)}}, "has the key 1; wanted printable text"),
        ({"a\n": np.zeros(1)}, r"has the key 'a\\n'; wanted printable text"),
        ({"a": {"b": None}}, "Leaf 'a/b' has dtype object; wanted one of float64, "),
        ({"a": "text"}, "Leaf 'a' has dtype <U4"),
        ({"a": np.zeros(2, "i4,f4")}, "Leaf 'a' has dtype "),
        ({"key": jax.random.key(0)}, r"Leaf 'key' is no plain array; .*jax\.random\.key_data"),
    ],
)
def test_a_body_that_could_not_be_read_is_not_written(tmp_path, body, message):
    with pytest.raises(mulo.InputError, match=message):
        write(tmp_path / "file", body)
    assert not names(tmp_path)


def test_limits_hold_for_writing_too(tmp_path):
    deep = np.zeros(1)
    for _ in range(_body.MAX_DEPTH + 1):
        deep = {"d": deep}
    for body, message in [
        (deep, "nested deeper than 16"),
        ({str(i): {} for i in range(_body.MAX_ENTRIES + 1)}, "has 100001 entries"),
        (
            {"x": np.lib.stride_tricks.as_strided(np.zeros(1), (2**29,), (0,))},
            "Leaf 'x' has 4294967296 bytes",
        ),
    ]:
        with pytest.raises(mulo.InputError, match=message):
            write(tmp_path / "file", body)
    with pytest.raises(mulo.InputError, match="The header field 'kind' belongs to the format"):
        write_file(tmp_path / "file", kind="theta", header={"kind": "x"}, body=BODY)
    with pytest.raises(mulo.InputError, match=r"would have .* bytes; at most 99 are allowed"):
        write_file(tmp_path / "file", kind="theta", header={}, body=BODY, max_bytes=99)
    write(tmp_path / "file", deep["d"])
    assert read_theta(tmp_path / "file")[1]["d"].keys() == {"d"}


def test_every_single_flipped_bit_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "file", tasks=["digits"])
    whole = path.read_bytes()
    for i in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[i // 8] ^= 1 << i % 8
        monkeypatch.setattr(_envelope, "read_bytes", lambda *_, data=bytes(changed): data)
        with pytest.raises(mulo.CheckpointError):
            read_theta(path)


def test_every_cut_and_an_addition_is_refused(tmp_path):
    path = write(tmp_path / "file", tasks=["digits"])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert "cut short" in refusal(path) or size == 0
    path.write_bytes(whole + b"\0")
    assert "cut short or added to" in refusal(path)
    path.write_bytes(whole)
    np.testing.assert_array_equal(read_theta(path)[1]["a"]["w"], BODY["a"]["w"])


OWN_FIELDS = b'{"body_bytes":1,"format":"mulo-checkpoint","kind":"theta","note":%s,"sha256":"0","version":1}'
WHOLE = make_file(msgpack.packb({"x": make_array()}), {"note": 1})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (pickle.dumps({"w": 1}), "looks like a pickle, which mulo never opens"),
        (b"PK\x03\x04" + b"\0" * 50, "looks like a zip or .npz archive"),
        (b"\x1f\x8b\x08" + b"\0" * 50, "looks like a gzip file"),
        ((99).to_bytes(8, "little") + b'{"w":{}}', "looks like a safetensors file"),
        (b"hello\nworld", "looks like text"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (flax.serialization.msgpack_serialize(BODY), "could be a msgpack file"),
        (
            change_header(WHOLE, version=2),
            "version 2, this mulo reads up to 1: it was written by a newer mulo. Upgrade",
        ),
        (change_header(WHOLE, version="1"), "version '1'; wanted a whole number"),
        (change_header(WHOLE, version=True), "version True; wanted a whole number"),
        (change_header(WHOLE, version=0), "version 0; wanted a whole number"),
        (change_header(WHOLE, format="x\n" * 5000), r"has the format 'x\nx\n"),
        (change_header(WHOLE, kind="run-state"), "is of kind 'run-state'; wanted 'theta'"),
        (change_header(WHOLE, kind=["theta"]), "is of kind ['theta']; wanted 'theta'"),
        (change_header(WHOLE, body_bytes=10**9), "its header says 1000000000"),
        (change_header(WHOLE, body_bytes=-1), "its header says -1"),
        (change_header(WHOLE, note=2), "is damaged: its SHA-256"),
        (change_header(WHOLE, sha256=None), "is damaged: its SHA-256"),
        (make_raw_file(b"[" * 10**5), "header is nested deeper than 16"),
        (make_raw_file(b'{"a":' * 10**5), "header is nested deeper than 16"),
        (make_raw_file(b"[]"), "header is a list; wanted a dictionary"),
        (make_raw_file(b'{"a": 1'), "header is not JSON"),
        (make_raw_file(b'{"a": ' + b"9" * 10**5 + b"}"), "header is not JSON"),
        (make_raw_file(b'"\xff"'), "header is not JSON"),
        (make_raw_file(b""), "header is not JSON"),
        (make_raw_file(OWN_FIELDS % b"NaN"), "NaN or an infinity in its header"),
        (make_raw_file(OWN_FIELDS % b"1e999"), "NaN or an infinity in its header"),
        (make_raw_file(OWN_FIELDS % b'1,"note":2'), "mulo would have written differently"),
        (make_raw_file(OWN_FIELDS % b" 1"), "mulo would have written differently"),
        (_envelope.MAGIC + b"\xff\xff\xff\xff" + b"\0" * 99, "declares a header of 4294967295 bytes"),
        (_envelope.MAGIC + b"\xff\xff\x00\x00" + b"\0" * 99, "ends inside its header; it was cut short"),
    ],
    ids=message_as_id,
)
def test_what_is_no_checkpoint_file_is_refused(tmp_path, data, message):
    path = tmp_path / "file"
    path.write_bytes(data)
    assert message in refusal(path)


def test_paths_that_cannot_be_read(tmp_path, monkeypatch):
    assert refusal(tmp_path / "file").endswith("file: no such file. Wanted a checkpoint file.")
    assert refusal(tmp_path).endswith("is a folder; wanted a checkpoint file.")
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")
    path = write(tmp_path / "file")
    assert "Not a directory" in refusal(path / "file")
    assert "embedded null byte" in refusal(tmp_path, lambda path: read_theta(f"{path}\0"))
    size = path.stat().st_size
    read_file(path, kind="theta", max_bytes=size)
    message = refusal(path, lambda path: read_file(path, kind="theta", max_bytes=size - 1))
    assert f"has {size} bytes; wanted a checkpoint file of at most {size - 1}" in message
    monkeypatch.chdir(tmp_path)  # long paths are cut
    with pytest.raises(mulo.CheckpointError, match=r"^'two\\nlines': no such file"):
        read_theta("two\nlines")

    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    assert "may not be read (permission denied)" in refusal(path)


def nested(depth):
    return b"\x81\xa1d" * depth + b"\x80"


HOSTILE_BODIES = [
    (nested(16), "nested deeper than 16"),
    (nested(500_000), "nested deeper than 16"),
    (b"\x81\xa1a" + b"\x91" * 500_000, "msgpack type 0x91 where a dictionary or an array is wanted"),
    (b"\xdf\xff\xff\xff\xff", "declares 4294967295 entries"),
    (b"\xdd\xff\xff\xff\xff", "msgpack type 0xdd where a dictionary is wanted"),
    (b"\x81\xdb\xff\xff\xff\xff", "a name of 4294967295 bytes"),
    (b"\x81\xa1a\xc9\xff\xff\xff\xff\x01", "ends in the middle of a value"),
    (b"\x81\xa1a\xc6\xff\xff\xff\xff", "msgpack type 0xc6 where a dictionary or an array is wanted"),
    (b"\x81\x01\x80", "msgpack type 0x01 where a string is wanted"),
    (b"\x81\xa1\xff\x80", "a name that is not UTF-8"),
    (b"\x82\xa1a\x80\xa1a\x80", "has the key 'a' twice"),
    (b"\x80\x80", "1 bytes too many after the body"),
    (b"", "ends in the middle of a value"),
    *(
        (msgpack.packb({"x": leaf}), message)
        for leaf, message in [
            (None, "msgpack type 0xc0"),
            (msgpack.Timestamp(1, 1), "extension type 255; wanted 1"),
            (msgpack.ExtType(99, b"abcd"), "extension type 99; wanted 1"),
            (msgpack.ExtType(1, b""), "ends in the middle of a value"),
            (msgpack.ExtType(1, b"\x92\x90\xa1a"), "has not the three fields of an array"),
            (make_array(shape=(-1,)), "msgpack type 0xff where a length is wanted"),
            (make_array(shape=(2.0,)), "msgpack type 0xcb where a length is wanted"),
            (make_array(shape="2"), "msgpack type 0xa1 where a shape is wanted"),
            (make_array(shape=(3,)), "has 8 bytes; wanted 12"),
            (make_array(shape=(2**40,)), "has 8 bytes; wanted 4398046511104"),
            (make_array(shape=(2**62, 0), data=b""), "which is too large"),
            (make_array(shape=(2**63, 2**63, 2**63)), "has 8 bytes; wanted 31385508676933403"),
            (make_array(shape=(1,) * 70), "has rank 70; at most 32 is allowed"),
            (make_array(dtype="i4,f4"), "has dtype 'i4,f4'; wanted one of float64"),
            (make_array(dtype="datetime64[s]"), "has dtype 'datetime64[s]'"),
            (make_array(dtype="object"), "has dtype 'object'"),
            (make_array(dtype="f\n" * 400), r"has dtype 'f\nf\n"),
            (make_array(dtype=4), "msgpack type 0x04 where a string is wanted"),
            (make_array(dtype="bool", data=b"\0\x02"), "holds bytes other than 0 and 1"),
            (make_array(data="text"), "where bytes is wanted"),
            (msgpack.ExtType(1, make_array().data + b"\0"), "1 bytes too many after leaf 'x'"),
        ]
    ),
]


@pytest.mark.parametrize(("body", "message"), HOSTILE_BODIES, ids=message_as_id)
def test_a_hostile_body_with_a_valid_checksum_is_refused(tmp_path, body, message):
    path = tmp_path / "file"
    path.write_bytes(make_file(body))
    assert message in refusal(path)


@pytest.mark.parametrize(
    "body",
    [
        b"\x81\xa1a" + b"\xdd\x00\x7f\xff\xff" + b"\x90" * 2**23,  # 8 MB of empty lists
        b"\xdf\x00\x01\x86\xa1" + b"\xa1a\x80" * 2**21,
        b"\xdf\x00\x00\x4e\x20" + b"".join(b"\xa5%05d\x80" % i for i in range(20_000)),
        msgpack.packb({"x": make_array((2**21,), "float32", bytes(2**23))}),
    ],
    ids=["lists", "too many maps", "20 000 maps", "an array"],
)
def test_reading_takes_little_more_memory_than_file_and_arrays(tmp_path, body):
    path = tmp_path / "file"
    path.write_bytes(make_file(body))
    tracemalloc.start()
    try:
        read_theta(path)
    except mulo.CheckpointError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    # An entry costs about 200 bytes, and there can be 100 000 of them in a file of any size.
    assert peak < 2.1 * len(body) + 5e6


def test_random_bodies_are_read_or_refused(monkeypatch):
    """2000 bodies with a valid checksum: random bytes, and a good body with some bytes replaced."""
    rng = np.random.default_rng(0)
    good = b"".join(_body.pack_body(BODY))
    num_read = 0
    for i in range(2000):
        if i % 2:
            body = bytearray(good)
            for position in rng.integers(len(body), size=rng.integers(1, 4)):
                body[position] = rng.integers(256)
        else:
            body = b"\x81\xa1a" * (i % 4 // 2) + rng.bytes(rng.integers(0, 60))
        data = make_file(bytes(body))
        monkeypatch.setattr(_envelope, "read_bytes", lambda *_, data=data: data)
        try:
            num_read += isinstance(read_theta("file")[1], dict)
        except mulo.CheckpointError as error:
            assert str(error).isprintable()
    assert 100 < num_read < 1000


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr
)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch, call, error):
    path = write(tmp_path / "file", number=1)

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(os, call, fail)
    wanted, message = (KeyboardInterrupt, "^$")
    if isinstance(error, OSError):
        wanted, message = (mulo.CheckpointError, "file: cannot be written: No space left on device")
    with pytest.raises(wanted, match=message):
        write(path, number=2)
    monkeypatch.undo()
    assert names(tmp_path) == ["file"]
    assert read_theta(path)[0]["number"] == 1


def test_places_that_cannot_be_written(tmp_path):
    for path, message in [
        (tmp_path / "no" / "file", "its folder does not exist. Make it first"),
        (tmp_path, "is a folder; wanted the name of a file"),
        (write(tmp_path / "old") / "file", "cannot be written: Not a directory"),
        (tmp_path / ("n" * 300), "cannot be written: File name too long"),
        (tmp_path / "nul\0", "cannot be written: 'embedded null byte'"),
    ]:
        with pytest.raises(mulo.CheckpointError, match=message):
            write(path)
    assert names(tmp_path) == ["old"]


KILLED_WRITERS = """
import os, random, signal, sys, time
import numpy as np
from mulo.checkpoint_file import read_file, write_file
from mulo.safe_files import remove_leftovers
path = sys.argv[1]
random.seed(0)
last = 0

def version():
    return os.stat(path).st_ino if os.path.exists(path) else None

for trial in range(12):
    before = version()
    child = os.fork()
    if child == 0:
        for number in range(last + 1, last + 1000):
            body = {"x": np.full(2**18, number, np.int32)}
            write_file(path, kind="run-state", header={"number": number}, body=body)
        os._exit(1)
    deadline = time.monotonic() + 60
    while version() == before and time.monotonic() < deadline:  # however busy the machine is
        time.sleep(0.001)
    time.sleep(random.uniform(0, 0.05))
    os.kill(child, signal.SIGKILL)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    if os.path.exists(path):
        header, body = read_file(path, kind="run-state", max_bytes=2**24)
        assert (body["x"] == header["number"]).all() and header["number"] >= last
        last = header["number"]
print(last)
"""


def test_a_killed_writer_leaves_a_file_that_reads(tmp_path):
    script = [sys.executable, "-W", "ignore", "-c", KILLED_WRITERS, str(tmp_path / "file")]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 12
    leftovers = sorted(set(names(tmp_path)) - {"file"})
    assert remove_leftovers(tmp_path) == len(leftovers)
    assert names(tmp_path) == ["file"]
