import jax
import numpy as np
import pytest

from eval_tasks.data import load_data
from eval_tasks.data.images import pool
from eval_tasks.data.source import draw_batch, make_source, whole_split
from mulo.errors import InputError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture
def cifar_folder(tmp_path, monkeypatch):
    """Two small files of 20 records each: record i has label i % 10 and planes R = i, G = 2 i, B = 3 i."""
    for number in (1, 2):
        index = np.arange(20, dtype=np.uint8)
        planes = [np.repeat((factor * index)[:, None], 1024, axis=1) for factor in (1, 2, 3)]
        records = np.concatenate([(index % 10)[:, None], *planes], axis=1)
        (tmp_path / f"data_batch_{number}.bin").write_bytes(records.astype(np.uint8).tobytes())
    monkeypatch.setenv("MULO_DATA_DIR", str(tmp_path))
    return tmp_path


def test_digits_are_split_and_complete(digits):
    assert digits.train.images.shape == (1438, 8, 8, 1)
    assert digits.validation.images.shape == (359, 8, 8, 1)
    assert digits.train.images.dtype == np.uint8
    assert digits.provenance()["num_train"] == 1438
    assert sorted(set(np.asarray(digits.train.labels).tolist())) == list(range(10))


@pytest.mark.usefixtures("cifar_folder")
def test_training_images_are_normalised_per_channel():
    batch = whole_split(load_data("cifar10"), "train")
    np.testing.assert_allclose(np.mean(batch.image, axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.std(batch.image, axis=(0, 1, 2)), 1, atol=1e-5)


def test_a_batch_is_a_pure_function_of_its_key(digits):
    draw = jax.jit(draw_batch, static_argnums=(1, 3))
    first, again = (draw(digits, "train", jax.random.key(3), 16) for _ in range(2))
    other = draw(digits, "train", jax.random.key(4), 16)
    assert first.image.shape == (16, 8, 8, 1)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.image, other.image)


def test_batches_draw_from_their_own_split_with_its_labels(digits):
    batch = draw_batch(digits, "validation", jax.random.key(0), 32)
    everything = whole_split(digits, "validation")
    everything, batch = jax.tree.map(np.asarray, (everything, batch))
    by_image = {x.tobytes(): int(y) for x, y in zip(everything.image, everything.label, strict=True)}
    for image, label in zip(batch.image, batch.label, strict=True):
        assert by_image[image.tobytes()] == int(label)


def test_a_channel_that_never_changes_is_finite():
    source = make_source(
        "x", np.full((10, 2, 2, 1), 7, np.uint8), np.zeros(10, int), num_classes=2, train_fraction=0.5
    )
    assert not np.any(whole_split(source, "train").image)


@pytest.mark.usefixtures("cifar_folder")
def test_cifar_records_become_images_with_their_labels(capsys):
    source = load_data("cifar10")
    assert "2 of the 5 training files" in capsys.readouterr().err
    images, labels = np.asarray(source.train.images), np.asarray(source.train.labels)
    assert images.shape == (36, 32, 32, 3)
    assert source.files == ("data_batch_1.bin", "data_batch_2.bin")
    np.testing.assert_array_equal(images[:, 0, 0, 0] % 10, labels)
    np.testing.assert_array_equal(images[:, 5, 9, 2], 3 * images[:, 5, 9, 0])


def test_cifar_is_found_in_its_own_folder_too(cifar_folder):
    inner = cifar_folder / "cifar-10-batches-bin"
    inner.mkdir()
    for file in cifar_folder.glob("*.bin"):
        file.rename(inner / file.name)
    assert load_data("cifar10", cifar_folder).digest


@pytest.mark.usefixtures("cifar_folder")
@pytest.mark.parametrize(("name", "size"), [("cifar10", 32), ("cifar10-16", 16), ("cifar10-8", 8)])
def test_pooled_sizes(name, size):
    source = load_data(name)
    assert source.image_shape == (size, size, 3)
    assert source.name == name


def test_pooling_averages_squares_and_rounds():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(pool(images, 2)[0, :, :, 0], [[3, 5], [11, 13]])  # 2.5, 4.5, 10.5, 12.5
    assert pool(np.full((1, 4, 4, 1), 255, np.uint8), 4).item() == 255


def test_a_digest_names_the_data(cifar_folder):
    before = load_data("cifar10").digest
    assert load_data("cifar10").digest == before
    (cifar_folder / "data_batch_2.bin").unlink()
    assert load_data("cifar10").digest != before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"data_batch_1.bin has 0 bytes, expected 30,730,000"),
        (bytes(3073 + 5), r"data_batch_1.bin has 3,078 bytes, expected 30,730,000"),
        (b"\x0a" + bytes(3072), r"data_batch_1.bin \(3,073 bytes\) holds a label of 10, expected 0 to 9"),
    ],
)
def test_a_damaged_cifar_file_is_named(cifar_folder, content, message):
    (cifar_folder / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_data("cifar10")
    assert URL in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (None, "data_batch_1.bin is needed, and MULO_DATA_DIR is not set"),
        ("missing", "the data folder .*missing is not there"),
        (".", "data_batch_1.bin is neither in"),
    ],
)
def test_missing_cifar_files_say_what_to_fetch(tmp_path, monkeypatch, folder, message):
    monkeypatch.delenv("MULO_DATA_DIR", raising=False)
    with pytest.raises(InputError, match=message) as raised:
        load_data("cifar10", None if folder is None else tmp_path / folder)
    assert URL in str(raised.value) and "30,730,000" in str(raised.value) and "\n" not in str(raised.value)


def test_digits_without_scikit_learn_say_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(InputError, match=r"pip install '\.\[digits\]'"):
        load_data("digits")


def test_an_unknown_data_set_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"No data set is called 'cifar100'. Did you mean 'cifar10'?"):
        load_data("cifar100")


def test_imagenet_batches(tmp_path):
    data = np.arange(20 * 3072).astype(np.uint8).reshape(20, 3072)
    np.savez(tmp_path / "train_data_batch_1.npz", data=data, labels=np.arange(1, 21) * 50)
    source = load_data("imagenet32", tmp_path)
    assert source.image_shape == (32, 32, 3) and source.num_classes == 1000
    everything = np.concatenate([source.train.images, source.validation.images]).reshape(20, -1, 3)
    labels = np.concatenate([source.train.labels, source.validation.labels])
    assert {int(label) for label in labels} == {50 * i - 1 for i in range(1, 21)}
    for image, label in zip(everything, labels, strict=True):
        np.testing.assert_array_equal(image.T.ravel(), data[(label + 1) // 50 - 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, "holds labels outside 1 to 1000"),
        ({"data": np.zeros((2, 3072), np.float32), "labels": [1, 1]}, "holds data float32"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [1]}, r"labels \(1,\)"),
        ({"labels": [1]}, "cannot be read"),
    ],
)
def test_a_damaged_imagenet_batch_is_named(tmp_path, arrays, message):
    np.savez(tmp_path / "train_data_batch_1.npz", **arrays)
    with pytest.raises(InputError, match=message):
        load_data("imagenet32", tmp_path)


def test_a_truncated_imagenet_batch_is_named(tmp_path):
    path = tmp_path / "train_data_batch_1.npz"
    np.savez(path, data=np.zeros((2, 3072), np.uint8), labels=[1, 2])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"train_data_batch_1.npz .* cannot be read"):
        load_data("imagenet32", tmp_path)
