"""Image sets in files of the published forms, small; and sets that stay on the host."""

import doctest
import gzip
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval_tasks.data.streaming
from eval_tasks.data import load_data
from eval_tasks.data.source import draw_batch, hold_out, whole_split
from eval_tasks.data.streaming import HostArray, stays_on_host
from mulo.errors import InputError

IMAGES = np.random.RandomState(0).randint(0, 256, (20, 28, 28), np.uint8)
LABELS = (np.arange(20) % 10).astype(np.uint8)


def idx(array, code=0x08):
    dims = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, code, array.ndim]) + dims + array.tobytes()


@pytest.fixture(params=["packed", "unpacked"])
def mnist(tmp_path, request):
    write_mnist(tmp_path / "mnist", packed=request.param == "packed")
    return tmp_path


def write_mnist(folder, images=None, labels=None, *, packed=False):
    folder.mkdir(parents=True)
    contents = {
        "train-images-idx3-ubyte": idx(IMAGES) if images is None else images,
        "train-labels-idx1-ubyte": idx(LABELS) if labels is None else labels,
    }
    for name, content in contents.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(content) if packed else content)


def write_imagenet(folder, size, num_files=2, *, save=np.savez):
    """Files of 10 images each. Label n of file f is 100 f + n, from 1."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.RandomState(1)
    for number in range(1, num_files + 1):
        data = random.randint(0, 256, (10, 3 * size * size), np.uint8)
        save(folder / f"train_data_batch_{number}.npz", data=data, labels=100 * number + np.arange(10))


def all_images(source):
    """Label -> image, of both splits."""
    images = np.concatenate([np.asarray(split.images) for split in (source.train, source.validation)])
    labels = np.concatenate([np.asarray(split.labels) for split in (source.train, source.validation)])
    return images, labels


def test_idx_files_become_images_with_their_labels(mnist):
    source = load_data("mnist", mnist)
    assert source.image_shape == (28, 28, 1)
    assert source.num_classes == 10
    images, labels = all_images(source)
    by_image = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    assert len(images) == 20
    for image, label in zip(images, labels, strict=True):
        assert by_image[image.tobytes()] == label


def test_packing_and_folder_change_nothing_but_the_names_of_the_files(tmp_path):
    write_mnist(tmp_path / "a/mnist", packed=True)
    write_mnist(tmp_path / "b/MNIST/raw")
    write_mnist(tmp_path / "b/fashion-mnist")
    packed, unpacked = load_data("mnist", tmp_path / "a"), load_data("mnist", tmp_path / "b")
    assert packed.digest == unpacked.digest == load_data("fashion-mnist", tmp_path / "b").digest
    assert packed.files == ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz")
    assert unpacked.files == ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")


def test_mnist_pooled(tmp_path):
    write_mnist(tmp_path / "mnist")
    pooled, full = load_data("mnist-14", tmp_path), load_data("mnist", tmp_path)
    squares = np.asarray(full.train.images, np.float64).reshape(18, 14, 2, 14, 2, 1).mean(axis=(2, 4))
    np.testing.assert_array_equal(pooled.train.images, np.floor(squares + 0.5))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (b"", "begins with the bytes none, expected 00 00 08 03; it is no idx file"),
        (b"\x89PNG" + idx(IMAGES), "begins with the bytes 89 50 4e 47"),
        (b"\0\0\x07\x03" + idx(IMAGES)[4:], "begins with the bytes 00 00 07 03"),
        (idx(IMAGES, code=0x0D), "holds float32 of 3 dimensions, expected uint8 of 3"),
        (idx(LABELS), "holds uint8 of 1 dimensions, expected uint8 of 3"),
        (idx(IMAGES)[:-1], r"has 15,695 bytes unpacked, expected 15,696 for shape \(20, 28, 28\)"),
        (idx(IMAGES)[:10], "has 10 bytes unpacked"),
        (idx(IMAGES) + b"x", "has 15,697 bytes unpacked"),
        (idx(IMAGES[:0]), "empty, truncated or damaged"),
        (idx(IMAGES[:, :27]), r"holds images of \(27, 28\) pixels, expected \(28, 28\)"),
        (idx(IMAGES[:19]), "holds 20 labels up to 9, expected 19"),
    ],
)
def test_wrong_idx_images_are_named(tmp_path, images, message):
    write_mnist(tmp_path / "mnist", images)
    with pytest.raises(InputError, match=message) as raised:
        load_data("mnist", tmp_path)
    assert "train-" in str(raised.value) and "ossci-datasets" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_label_above_9_is_named(tmp_path):
    write_mnist(tmp_path / "mnist", labels=idx(LABELS + 1))
    with pytest.raises(
        InputError, match="labels-idx1-ubyte holds 20 labels up to 10, expected 20 from 0 to 9"
    ):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-20], lambda c: b"PK" + c[2:], lambda c: c[:50] + b"!!" + c[52:]]
)
def test_a_broken_gzip_file_is_named(tmp_path, damage):
    write_mnist(tmp_path / "mnist", packed=True)
    path = tmp_path / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"images-idx3-ubyte.gz .* cannot be unpacked"):
        load_data("mnist", tmp_path)


def test_labels_that_are_not_there_are_asked_for(tmp_path):
    write_mnist(tmp_path / "mnist")
    (tmp_path / "mnist/train-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz is neither in .*MNIST/raw\. Get"):
        load_data("mnist", tmp_path)


def test_mnist_of_no_folder_of_its_own_is_not_taken(tmp_path):
    """Both sets have files of the same names: the folder tells which it is."""
    write_mnist(tmp_path / "fashion-mnist")
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte.gz is neither in"):
        load_data("mnist", tmp_path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_imagenet64_in_two_folders(tmp_path, save, capsys):
    write_imagenet(tmp_path / "Imagenet64_train_part1_npz", 64, save=save)
    part2 = tmp_path / "Imagenet64_train_part2_npz"
    part2.mkdir()
    (tmp_path / "Imagenet64_train_part1_npz/train_data_batch_2.npz").rename(part2 / "train_data_batch_2.npz")
    source = load_data("imagenet64", tmp_path)
    assert "2 of the 10 training files" in capsys.readouterr().err
    assert source.image_shape == (64, 64, 3)
    images, labels = all_images(source)
    with np.load(part2 / "train_data_batch_2.npz") as batch:
        for data, label in zip(batch["data"], batch["labels"], strict=True):
            (image,) = images[labels == label - 1]
            np.testing.assert_array_equal(image.transpose(2, 0, 1).ravel(), data)
    pooled = load_data("imagenet64-32", tmp_path)
    assert pooled.image_shape == (32, 32, 3)
    mean = np.asarray(source.train.images[3, 2:4, 6:8], np.float64).mean(axis=(0, 1))
    np.testing.assert_array_equal(pooled.train.images[3, 1, 3], np.floor(mean + 0.5))


def test_imagenet32_files_are_not_taken_for_imagenet64(tmp_path):
    write_imagenet(tmp_path / "Imagenet64_train_npz", 32)
    with pytest.raises(InputError, match=r"holds data uint8 \(10, 3072\) .* expected uint8 \(N, 12288\)"):
        load_data("imagenet64", tmp_path)


def test_a_changed_byte_in_an_npz_file_is_found(tmp_path):
    write_imagenet(tmp_path, 32, num_files=1)
    path = tmp_path / "train_data_batch_1.npz"
    with zipfile.ZipFile(path) as archive:
        position = archive.getinfo("data.npy").header_offset + 5000
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"train_data_batch_1.npz .* cannot be read"):
        load_data("imagenet32", tmp_path)


# What stays on the host.


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same set on the device and on the host."""
    folder = tmp_path_factory.mktemp("imagenet")
    write_imagenet(folder, 32)
    return [load_data("imagenet32-16", folder, placement=placement) for placement in ("device", "host")]


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_host_holds_the_same_set(both):
    device, host = both
    assert device.provenance() == host.provenance()
    assert (device.mean, device.std, device.image_shape) == (host.mean, host.std, host.image_shape)
    assert {leaf.dtype for leaf in jax.tree.leaves(host)} == {jnp.dtype("int32")}  # labels only


def test_the_same_key_draws_the_same_batch_under_jit_scan_and_vmap(both):
    @jax.jit
    def batches(source, keys):
        def run(key):
            def step(carry, index):
                return carry, draw_batch(source, "train", jax.random.fold_in(key, index), 4)

            return jax.lax.scan(step, 0, jnp.arange(3))[1]

        return jax.vmap(run)(keys)

    keys = jax.random.split(jax.random.key(0), 2)
    from_device, from_host = (batches(source, keys) for source in both)
    assert from_host.image.shape == (2, 3, 4, 16, 16, 3)
    assert_equal(from_device, from_host)
    assert_equal(*(draw_batch(source, "validation", keys[0], 4) for source in both))


def test_whole_split_validation_mean_and_hold_out_agree(both):
    def mean(source):
        return jax.jit(lambda s: s.validation_mean(lambda b: jnp.mean(b.image, axis=0), chunk_size=3))(source)

    held = [hold_out(source, 0.5) for source in both]
    for sources in (both, held):
        assert_equal(*(whole_split(source, "train") for source in sources))
        assert_equal(*(whole_split(source, "validation") for source in sources))
        assert_equal(*map(mean, sources))


def test_a_jitted_function_of_a_host_set_is_compiled_once(both):
    traces = []

    @jax.jit
    def draw(source, key):
        traces.append(source)
        return draw_batch(source, "train", key, 2)

    for seed in range(3):
        draw(both[1], jax.random.key(seed))
    assert len(traces) == 1


def test_a_large_index_does_not_stop_the_callback():
    """Callbacks that wait for large arguments have hung on a CPU (JAX issue 24255)."""
    values = np.arange(100, dtype=np.uint8)
    array = HostArray(values.__getitem__, np.arange(100), ())
    keys = jax.random.split(jax.random.key(0), 20)
    index = jax.vmap(lambda key: jax.random.randint(key, (100_000,), 0, 100))(keys)
    found = jax.jit(lambda array, index: jax.lax.map(lambda i: array[i], index))(array, index)
    np.testing.assert_array_equal(found, index)


def test_placement_by_size_and_by_name():
    assert not stays_on_host(1000, "auto")
    assert stays_on_host(10**15, "auto")
    assert stays_on_host(1000, "host")
    assert not stays_on_host(10**15, "device")


@pytest.mark.parametrize(
    ("name", "placement", "message"),
    [
        ("mnist", "hosts", "No placement is called 'hosts'. Did you mean 'host'?"),
        ("digits", "host", "The data set 'digits' is always on the device"),
        ("pydoc", "host", "The data set 'pydoc' is always on the device"),
    ],
)
def test_wrong_placements(name, placement, message):
    with pytest.raises(InputError) as raised:
        load_data(name, placement=placement)
    assert message in str(raised.value)


def test_examples():
    results = doctest.testmod(eval_tasks.data.streaming)
    assert results.attempted > 0 and results.failed == 0
