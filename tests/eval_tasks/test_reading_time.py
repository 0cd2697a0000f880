"""No reader of results, names or data takes more than time in proportion to what it reads."""

import gzip
import io
import random
import tracemalloc
import zipfile

import numpy as np
import pytest

from eval_tasks.data.catalog import FILE_SETS
from eval_tasks.data.cifar10 import read_batch as read_cifar
from eval_tasks.data.idx import count_images, read_idx
from eval_tasks.data.imagenet import count_images as count_npz
from eval_tasks.data.imagenet import read_batch as read_npz
from eval_tasks.data.text import read_text
from eval_tasks.names import parse_task_name
from eval_tasks.result_lines import parse_line
from mulo.errors import InputError
from tests.mulo.growth_of_time import check_linear
from tests.mulo.test_reading_time import HEADERS

NPZ = (FILE_SETS["imagenet32"], (3, 32, 32))


@pytest.mark.parametrize("name", HEADERS)
def test_lines_of_results(name):
    check_linear(HEADERS[name], parse_line, 20_000, InputError)


@pytest.mark.parametrize("text", ["-w-d-h-r", "-w", "-w1-d1", "a", "_", "-h-r_", "\n"])
def test_task_names(text):
    check_linear(lambda size: text * (size // len(text)), parse_task_name, 10_000, InputError)


def idx_bytes(content=bytes(16), shape=(1, 4, 4)):
    return b"\0\0\x08" + bytes([len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape) + content


def test_packed_zeros_are_not_unpacked_beyond_what_is_wanted(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(bytes(10**8)), 9))
    tracemalloc.start()
    with pytest.raises(InputError, match="empty, truncated or damaged"):
        read_idx(path, FILE_SETS["mnist"], 3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7


def npz_bytes(**members):
    """An npz file of raw members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def npy_bytes(array, shape=None):
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    return content if shape is None else content.replace(str(array.shape).encode(), shape.encode(), 1)


IMAGES, LABELS = np.zeros((2, 3072), np.uint8), np.array([1, 2])
GOOD_LABELS = npy_bytes(LABELS)
BAD_NPZ = {
    "a lying shape": npz_bytes(data=npy_bytes(IMAGES, "(99999999999999, 3072)"), labels=GOOD_LABELS),
    "labels beyond memory": npz_bytes(data=npy_bytes(IMAGES), labels=npy_bytes(LABELS, "(9999999999999,)")),
    "a negative shape": npz_bytes(data=npy_bytes(IMAGES, "(-1, 3072)"), labels=GOOD_LABELS),
    "a header of brackets": npz_bytes(data=b"\x93NUMPY\x01\0\xe8\x03" + b"[" * 1000, labels=GOOD_LABELS),
    "an unknown version": npz_bytes(data=b"\x93NUMPY\x09\0\xe8\x03" + b" " * 1000, labels=GOOD_LABELS),
    "no members": npz_bytes(),
    "objects": npz_bytes(data=npy_bytes(np.array([None])), labels=GOOD_LABELS),
    "empty": b"",
}


@pytest.mark.parametrize("name", BAD_NPZ)
def test_npz_files_that_lie(name, tmp_path):
    path = tmp_path / "train_data_batch_1.npz"
    path.write_bytes(BAD_NPZ[name])
    with pytest.raises(InputError):
        read_npz(path, *NPZ)
    count_npz(path)


def test_random_changes_to_data_files(tmp_path):
    generator = random.Random(0)
    mnist, cifar = FILE_SETS["mnist"], FILE_SETS["cifar10"]
    text = tmp_path / "a.txt"
    packed = gzip.compress(idx_bytes())
    whole = npz_bytes(data=npy_bytes(IMAGES), labels=npy_bytes(LABELS))
    readers = [
        (idx_bytes(), "train-images-idx3-ubyte", lambda p: (read_idx(p, mnist, 3), count_images(p))),
        (packed, "train-images-idx3-ubyte.gz", lambda p: (read_idx(p, mnist, 3), count_images(p))),
        (bytes(3073 * 2), "data_batch_1.bin", lambda p: read_cifar(p, cifar, (3, 32, 32))),
        (whole, "train_data_batch_1.npz", lambda p: (count_npz(p), read_npz(p, *NPZ))),
        (b"text " * 100, text.name, lambda p: read_text(p.name, p.parent, file=p.name, context_length=8)),
    ]
    for content, name, read in readers:
        for _ in range(40):
            changed = bytearray(content)
            for _ in range(generator.randint(1, 4)):
                changed[generator.randrange(len(changed))] = generator.randrange(256)
            path = tmp_path / name
            path.write_bytes(changed[: generator.choice([len(changed), generator.randrange(len(changed))])])
            try:
                read(path)
            except InputError as error:
                assert "\n" not in str(error)
