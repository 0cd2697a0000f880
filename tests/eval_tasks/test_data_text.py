import doctest
import hashlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import eval_tasks.data
import eval_tasks.data.source
import eval_tasks.data.text
from eval_tasks.data import find_data_set, load_data
from eval_tasks.data.source import draw_batch, hold_out, whole_split
from eval_tasks.data.text import make_text_source
from mulo.errors import InputError

TEXT = bytes(np.random.RandomState(0).randint(0, 256, 1000, np.uint8))


@pytest.fixture
def source():
    return make_text_source("noise", TEXT, context_length=7)


@pytest.mark.parametrize("module", [eval_tasks.data, eval_tasks.data.source, eval_tasks.data.text])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted > 0 and results.failed == 0


def test_the_last_tenth_is_for_validation(source):
    assert bytes(np.asarray(source.train)) == TEXT[:900]
    assert bytes(np.asarray(source.validation)) == TEXT[900:]
    assert source.train.dtype == jnp.uint8
    assert source.digest == hashlib.sha256(TEXT).hexdigest()[:16]


@pytest.mark.parametrize(("split", "part"), [("train", TEXT[:900]), ("validation", TEXT[900:])])
def test_batches_are_stretches_of_their_split_and_the_next_bytes(source, split, part):
    batch = jax.jit(draw_batch, static_argnums=(1, 3))(source, split, jax.random.key(0), 64)
    assert batch.tokens.shape == batch.targets.shape == (64, 7)
    assert batch.tokens.dtype == batch.targets.dtype == jnp.int32
    for tokens, targets in zip(batch.tokens.tolist(), batch.targets.tolist(), strict=True):
        assert tokens[1:] == targets[:-1]
        assert bytes([*tokens, targets[-1]]) in part


def test_every_start_is_drawn_and_none_beyond_the_end():
    source = make_text_source("x", bytes(range(100)), context_length=8)
    batch = draw_batch(source, "validation", jax.random.key(0), 200)  # bytes 90 to 99
    assert set(batch.tokens[:, 0].tolist()) == {90, 91}
    assert batch.targets.max() == 99


def test_a_batch_is_a_pure_function_of_its_key(source):
    first, again, other = (draw_batch(source, "train", jax.random.key(n), 8).tokens for n in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_whole_split_is_walked_over_without_overlap(source):
    batch = whole_split(source, "validation")
    assert bytes(batch.tokens.ravel().tolist()) == TEXT[900:998]  # 14 stretches of 7; 2 bytes are left out
    assert bytes(batch.targets.ravel().tolist()) == TEXT[901:999]


@pytest.mark.parametrize("chunk_size", [None, 14, 100, 5, 1])
def test_the_validation_mean_weighs_every_example_alike(source, chunk_size):
    def function(batch):
        return {"a": jnp.mean(batch.tokens.astype(jnp.float32)), "b": batch.targets.mean(0)}

    mean = jax.jit(lambda source: source.validation_mean(function, chunk_size))(source)
    whole = whole_split(source, "validation")
    np.testing.assert_allclose(mean["a"], np.mean(whole.tokens), rtol=1e-6)
    np.testing.assert_allclose(mean["b"], np.mean(whole.targets, axis=0), rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 100, 359, 1000])
def test_the_validation_mean_of_images(chunk_size):
    digits = load_data("digits")
    mean = digits.validation_mean(lambda batch: jnp.mean(batch.image, axis=0), chunk_size)
    expected = np.mean(whole_split(digits, "validation").image, axis=0)
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_holding_out_leaves_the_validation_split_unseen(source):
    held = hold_out(source, 0.25)
    assert bytes(np.asarray(held.train)) == TEXT[:675]
    assert bytes(np.asarray(held.validation)) == TEXT[675:900]
    with pytest.raises(InputError, match="the smaller of its two splits 0; a context of 7 needs at least 8"):
        hold_out(source, 0.0)


def test_pydoc_is_the_same_at_every_reading_and_says_what_it_is():
    source = load_data("pydoc")
    assert source.provenance() == load_data("pydoc").provenance()
    assert source.provenance()["files"] == ["pydoc_data/topics.py"]
    assert source.context_length == 64
    assert b"lambda" in bytes(np.asarray(source.train))
    assert load_data("pydoc-128").context_length == 128
    assert load_data("pydoc-128").digest == source.digest


def test_a_python_without_its_reference_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(InputError, match=r"pydoc_data.topics, which this installation of Python lacks"):
        load_data("pydoc")


@pytest.mark.parametrize("name", ["my_book.txt", "my_book.txt-16", "tinyshakespeare", "tinyshakespeare-16"])
def test_files_in_the_data_folder(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MULO_DATA_DIR", str(tmp_path))
    file = "my_book.txt" if name.startswith("my_book") else "tinyshakespeare.txt"
    (tmp_path / file).write_bytes(TEXT)
    source = load_data(name)
    assert (source.name, source.files) == (name, (file,))
    assert source.context_length == (16 if name.endswith("-16") else 64)
    assert bytes(np.asarray(source.train)) == TEXT[:900]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT[:640], r"mine.txt has 640 bytes, .* splits 64; a context of 64 needs at least 65"),
        (b"", "mine.txt has 0 bytes"),
        (None, r"mine.txt is not in .*\. Set MULO_DATA_DIR"),
    ],
)
def test_a_text_that_cannot_be_used_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    with pytest.raises(InputError, match=message) as raised:
        load_data("mine.txt", tmp_path)
    assert "\n" not in str(raised.value)


def test_missing_shakespeare_says_what_to_fetch(tmp_path):
    with pytest.raises(InputError, match=r"1,115,394 bytes. Get https://raw.githubusercontent.com/karpathy"):
        load_data("tinyshakespeare", tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pydoc-64", "A context of 64 bytes is that of 'pydoc' itself; leave it out."),
        ("pydoc-0", "No data set is called 'pydoc-0'. Did you mean 'pydoc'?"),
        ("pydoc-08", "No data set is called 'pydoc-08'"),
        ("../mine.txt", "No data set is called '../mine.txt'"),
        ("mine.text", "No data set is called 'mine.text'"),
        ("digits-16", "Did you mean 'digits'?"),
    ],
)
def test_names_that_are_no_text(name, message):
    with pytest.raises(InputError) as raised:
        find_data_set(name)
    assert message in str(raised.value)
