"""`--optimizer`: all of the text is made use of, or it is refused in one line."""

import random

import pytest

from eval_tasks.sources import External, Learned, parse_source
from mulo.errors import InputError
from tests.eval_tasks.corpus import BAD_OPTIMIZERS, GOOD_OPTIMIZERS, LONG_NAMES


def answer(source):
    """What it is, or the one line that refuses it."""
    try:
        return parse_source(source)
    except InputError as error:
        message = str(error)
        assert message.isprintable()
        assert len(message) < 500
        return message


@pytest.mark.parametrize("source", BAD_OPTIMIZERS, ids=range(len(BAD_OPTIMIZERS)))
def test_what_cannot_be_used_whole_is_refused(source):
    assert isinstance(answer(source), str)
    assert answer(source) != source


@pytest.mark.parametrize("source", GOOD_OPTIMIZERS)
def test_arguments(source):
    assert answer(source).arguments == GOOD_OPTIMIZERS[source]


@pytest.mark.parametrize("name", LONG_NAMES)
def test_names_that_no_file_can_have(name):
    assert answer(name) == Learned(name)
    assert answer(f"{name}@cosine") == Learned(name, schedule="cosine")


@pytest.mark.parametrize("source", ["adamw@cosine", "optax.lion(b1=0.9)@cosine", "my:make@linear"])
def test_what_has_no_variants_is_said(source):
    assert "only a learned optimizer has variants" in answer(source)


PIECES = (
    "optax.lion", "my:make", "adamw", "mulo-quick", "hf://o/n/f", "(", ")", "()", "b1=", "1", "0.5", ",", "@",
    "cosine", "learning_rate=0.5", "'", '"', "{", "}", "[", "]", ":", "=", "#", "\n", "\\", "\0",
    "\ud800", " ", "**", "*", "-", "lambda", "\x1b", "é", "if", "else", "a" * 300,
)  # fmt: skip


def test_random_texts_are_answered():
    generator = random.Random(0)
    for source in (*BAD_OPTIMIZERS, *GOOD_OPTIMIZERS) * 10:
        characters = list(source[:200])
        for _ in range(generator.randint(1, 4)):
            place = generator.randint(0, len(characters))
            characters[place : place + generator.randint(0, 2)] = generator.choice(PIECES)
        answer("".join(characters))
    for _ in range(2_000):
        found = answer("".join(generator.choices(PIECES, k=generator.randint(1, 8))))
        if isinstance(found, External):
            assert found.label == "optax.lion" or found.arguments or "(" not in found.label
