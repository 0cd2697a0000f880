"""Trained optimizers in files: what is saved is loaded, and what does not fit is refused."""

import hashlib
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mulo
from mulo import _body, _catalog
from mulo.checkpoint_file import fit, theta_digest, to_body, write_file
from tests.mulo.hostile_files import make_file, refusal

OPTIMIZER = mulo.SmallFC(hidden_size=4)
THETA = OPTIMIZER.init_theta(jax.random.key(1))
HEADER = {
    "optimizer": {"name": "small_fc", "config": {"hidden_size": 4}},
    "parametrization": "mup",
    "provenance": {},
}


def make_checkpoint(**changes):
    fields = {"optimizer": OPTIMIZER, "theta": THETA, "parametrization": "mup", "provenance": {"seed": 3}}
    return mulo.Checkpoint(**{**fields, **changes})


def released(monkeypatch, tmp_path, *names):
    """Makes these the released optimizers."""
    package = tmp_path / "mulo"
    for name in names:
        (package / "released" / name).mkdir(parents=True)
        mulo.save(package / "released" / name / "theta.mulo", make_checkpoint(provenance={"name": name}))
    monkeypatch.setattr(_catalog, "__file__", str(package / "_catalog.py"))


def test_a_saved_optimizer_loads_as_it_was(tmp_path):
    path = tmp_path / "theta.mulo"
    assert mulo.save(path, make_checkpoint()) is None
    for place in (path, str(path), tmp_path, str(tmp_path) + "/"):
        loaded = mulo.load(place, expect="small_fc")
        assert loaded.optimizer == OPTIMIZER
        assert (loaded.parametrization, loaded.provenance) == ("mup", {"seed": 3})
        assert theta_digest(loaded.theta) == theta_digest(THETA)
        assert jax.tree.structure(loaded.theta) == jax.tree.structure(THETA)
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded.theta))
    assert [file.name for file in tmp_path.iterdir()] == ["theta.mulo"]


def test_a_checkpoint_is_not_callable_and_knows_two_parametrizations():
    assert not callable(make_checkpoint())
    with pytest.raises(mulo.InputError, match=r"No parametrization is called 'mu'. Did you mean 'mup'\?"):
        make_checkpoint(parametrization="mu")


def test_save_overwrites_only_when_told(tmp_path):
    path = tmp_path / "theta.mulo"
    mulo.save(path, make_checkpoint())
    with pytest.raises(mulo.InputError, match=r"theta\.mulo: exists already.*overwrite=True"):
        mulo.save(path, make_checkpoint(parametrization="sp"))
    assert mulo.load(path).parametrization == "mup"
    mulo.save(path, make_checkpoint(parametrization="sp"), overwrite=True)
    assert mulo.load(path).parametrization == "sp"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": mulo.SmallFC(hidden_size=5)}, r"leaf 'mlp/b0' has shape \(4,\); wanted \(5,\)"),
        ({"theta": {"mlp": THETA["mlp"]}}, "has no leaf 'decays/factored', which is expected"),
        ({"theta": {**THETA, "more": np.zeros(1, np.float32)}}, "has a leaf 'more' that is not expected"),
        ({"provenance": {"meta_loss": float("nan")}}, "header cannot be stored as JSON"),
        ({"provenance": {"when": {1: 0, 2: 0, 10: 0}}}, "keys of dictionaries must be strings"),
        ({"provenance": {"what": object()}}, "header cannot be stored as JSON"),
    ],
)
def test_save_refuses_what_load_would_refuse(tmp_path, changes, message):
    with pytest.raises(mulo.InputError, match=message):
        mulo.save(tmp_path / "theta.mulo", make_checkpoint(**changes))
    assert not list(tmp_path.iterdir())


def change_leaf(**leaves):
    return to_body({**THETA, "mlp": {**THETA["mlp"], **leaves}})


@pytest.mark.parametrize(
    ("header", "body", "message"),
    [
        ({"optimizer": None}, {}, "header field 'optimizer' is None; wanted a dict"),
        ({"optimizer": {"name": 3, "config": {}}}, {}, "wanted name and config"),
        ({"optimizer": {"name": "small_fc", "config": []}}, {}, "wanted name and config"),
        ({"optimizer": {"name": "lion", "config": {}}}, {}, "No learned optimizer is called 'lion'"),
        ({"optimizer": {"name": "x\n" * 999, "config": {}}}, {}, "cannot be built: No learned optimizer"),
        (
            {"optimizer": {"name": "small_fc", "config": {"depth": 3}}},
            {},
            "unexpected keyword argument 'depth'",
        ),
        (
            {"optimizer": {"name": "small_fc", "config": {"hidden_size": 10**9}}},
            {},
            "whole number from 1 to 4096",
        ),
        (
            {"optimizer": {"name": "small_fc", "config": {"hidden_size": [4]}}},
            {},
            "whole number from 1 to 4096",
        ),
        ({"optimizer": {"name": "small_fc", "config": {"step_mult": 10**400}}}, {}, "cannot be built: "),
        ({"parametrization": ["mup"]}, {}, "header field 'parametrization' is ['mup']; wanted a str"),
        ({"parametrization": "up"}, to_body(THETA), "No parametrization is called 'up'. Did you mean 'mup'?"),
        ({"provenance": None}, {}, "header field 'provenance' is None; wanted a dict"),
        ({}, {}, "has no leaf 'decays/factored', which is expected"),
        ({}, change_leaf(more=np.zeros(3)), "has a leaf 'mlp/more' that is not expected"),
        ({}, change_leaf(w0={}), "has no leaf 'mlp/w0', which is expected"),
        ({}, change_leaf(w1={"w1": np.zeros(1)}), "has no leaf 'mlp/w1', which is expected"),
        ({}, change_leaf(w1=np.zeros((9, 9), np.float32)), "leaf 'mlp/w1' has shape (9, 9); wanted (4, 4)"),
        ({}, change_leaf(w1=np.zeros((4, 4))), "leaf 'mlp/w1' has dtype float64; wanted float32"),
        ({}, change_leaf(b2=np.float32([0, np.nan])), "leaf 'mlp/b2' holds 1 entries that are not finite"),
        ({}, change_leaf(b2=np.float32([0, np.inf])), "leaf 'mlp/b2' holds 1 entries that are not finite"),
    ],
)
def test_load_refuses_a_whole_file_whose_content_is_wrong(tmp_path, header, body, message):
    path = tmp_path / "theta.mulo"
    path.write_bytes(make_file(b"".join(_body.pack_body(body)), {**HEADER, **header}))
    assert message in refusal(path, mulo.load)


def test_load_refuses_another_optimizer_and_another_kind(tmp_path):
    path = tmp_path / "theta.mulo"
    mulo.save(path, make_checkpoint())
    message = refusal(path, lambda path: mulo.load(path, expect="velo"))
    assert "is for optimizer 'small_fc'; wanted 'velo'" in message
    write_file(path, kind="run-state", header=HEADER, body=to_body(THETA))
    assert "is of kind 'run-state'; wanted 'theta'" in refusal(path, mulo.load)
    (tmp_path / "run").mkdir()
    assert "is a folder without theta.mulo" in refusal(tmp_path / "run", mulo.load)
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
    with pytest.raises(mulo.CheckpointError, match="wanted a checkpoint file of at most 67108864"):
        mulo.load(path)


def test_released_optimizers_load_by_name(tmp_path, monkeypatch):
    released(monkeypatch, tmp_path, "mulo-quick", "mulo-s")
    assert mulo.load("mulo-s").provenance == {"name": "mulo-s"}
    monkeypatch.chdir(tmp_path)
    mulo.save("mulo-s", make_checkpoint(provenance={"name": "mine"}))
    assert mulo.load("mulo-s").provenance == {"name": "mulo-s"}
    assert mulo.load("./mulo-s").provenance == {"name": "mine"}
    mulo.save("mine", make_checkpoint())
    assert mulo.load("mine").provenance == {"seed": 3}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "mulo-quik",
            r"^No released optimizer is called 'mulo-quik'\. Did you mean 'mulo-quick'\? "
            r"There are: mulo-quick, mulo-s\. Nor is there a file 'mulo-quik'\.$",
        ),
        ("adamw", r"called 'adamw'\. There are: mulo-quick, mulo-s\. Nor is there a file 'adamw'\.$"),
        ("a\nb" * 99, r"^No released optimizer is called 'a\\nb"),
        ("mulo-s.mulo", r"^mulo-s\.mulo: no such file\."),
        ("no/mulo-s", "^no/mulo-s: no such file\\."),
        ("", r"is a folder|no such file"),
    ],
)
def test_an_unknown_name_gets_the_nearest_and_all_names(tmp_path, monkeypatch, name, message):
    released(monkeypatch, tmp_path, "mulo-quick", "mulo-s")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(mulo.CheckpointError, match=message) as caught:
        mulo.load(name)
    assert str(caught.value).isprintable()


def test_the_catalog_finds_what_ships_with_the_checkout():
    for name, path in _catalog.released().items():
        assert (path.parent / "README.md").is_file(), f"{name} has no model card"
        mulo.load(name)


class Pair(NamedTuple):
    x: object
    y: object


def test_any_tree_goes_into_a_body_and_fits_back():
    theta = {"w": jnp.ones((2,)), "h": jnp.ones((3,), jnp.bfloat16)}
    tree = {
        "opt": optax.adamw(1e-3).init(theta),
        "pair": Pair([np.int32(1), np.zeros((0, 2))], (True, None, {})),
    }
    body = to_body(tree)
    assert body["pair"] == {"x": {"0": 1, "1": tree["pair"].x[1]}, "y": {"0": True}}
    fitted = fit(body, tree, "x")
    assert jax.tree.structure(fitted) == jax.tree.structure(tree)
    jax.tree.map(np.testing.assert_array_equal, fitted, tree)
    with pytest.raises(mulo.InputError, match="The tree is a single float"):
        to_body(1.0)
    with pytest.raises(mulo.CheckpointError, match=r"x: leaf 'pair/x/0' has dtype int64; wanted int32"):
        fit(to_body({**tree, "pair": Pair([np.int64(1), np.zeros((0, 2))], (True,))}), tree, "x")
    nan = {"w": np.float32([np.nan])}
    np.testing.assert_array_equal(fit(nan, nan, "x", finite=False)["w"], nan["w"])
    with pytest.raises(mulo.CheckpointError, match="not finite"):
        fit(nan, nan, "x")


def test_the_digest_depends_on_every_bit_and_on_nothing_else():
    x = np.float32([[1, 2], [3, 4]])
    digest = theta_digest({"a": {"w": x}, "b": np.float32(0)})
    assert digest == theta_digest({"b": jnp.float32(0), "a": {"w": jnp.asarray(x)}})
    assert digest == theta_digest({"a": {"w": np.asfortranarray(x)}, "b": np.zeros((), ">f4")})
    others = [
        {"a": {"w": x}, "b": np.float32(-0.0)},
        {"a": {"w": np.nextafter(x, 9, dtype=np.float32)}, "b": np.float32(0)},
        {"a": {"w": x.reshape(4)}, "b": np.float32(0)},
        {"a": {"w": x.view(np.int32)}, "b": np.float32(0)},
        {"a/w": x, "b": np.float32(0)},
        {"a": {"v": x}, "b": np.float32(0)},
        {"a": {"w": x}, "b": np.zeros(1, np.float32)},
        {"a": {"w": x}},
    ]
    assert len({digest, *map(theta_digest, others)}) == len(others) + 1
    spelled = b'[["a", "w"], [2, 2], "float32"]' + x.tobytes() + b'[["b"], [], "float32"]' + bytes(4)
    assert digest == hashlib.sha256(spelled).hexdigest()


def test_the_catalog_is_read_without_jax():
    code = "import sys, mulo._catalog as c; c.released(); sys.exit('jax' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
