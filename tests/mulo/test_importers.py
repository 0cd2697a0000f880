"""Released thetas of other implementations: array by array into ours, or refused with the leaf's name."""

import jax
import numpy as np
import pytest

import mulo
from mulo.importers import KINDS, from_reference
from mulo.importers.layouts import LAYOUTS
from mulo.optimizers.small_fc import effective_decays
from tests.mulo.released_thetas import GROUPS, TREES, flat


def reference(kind):
    return flat(TREES[kind]())


def test_every_kind_has_a_layout():
    assert set(KINDS) == set(LAYOUTS) == set(TREES)


@pytest.mark.parametrize("kind", TREES)
def test_all_weights_are_taken_but_the_dead_ones(kind):
    arrays = reference(kind)
    dead = {name for name in arrays if name.startswith("rnn_params/linear/")}
    if kind.startswith("celo"):
        dead |= {name for name in arrays if name.startswith("rnn_params/rnn_to_controls/")}
    _, theta = from_reference(kind, arrays)
    ours = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(theta)]))
    if kind == "mulo":  # its decays are not in the file
        ours = np.sort(np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(theta["mlp"])]))
    kept = dict.fromkeys(("ff_mod_stack/~/w2", "ff_mod_stack/~/b2"), 1 if kind == "celo2" else 2)
    used = [array[..., : kept.get(name)] for name, array in arrays.items() if name not in dead]
    np.testing.assert_array_equal(ours, np.sort(np.concatenate([np.ravel(array) for array in used])))
    assert all(leaf.dtype == np.float32 for leaf in jax.tree.leaves(theta))


@pytest.mark.parametrize(("kind", "part"), [("velo", "bank"), ("celo", "mlp"), ("celo2", "mlp")])
def test_first_layer_adds_up_the_groups_in_order(kind, part):
    arrays = reference(kind)
    _, theta = from_reference(kind, arrays)
    w0 = theta[part]["w0"]
    assert w0.shape[-2] == 30
    features = np.random.default_rng(1).standard_normal((5, 30)).astype(np.float32)
    groups = np.split(features, np.cumsum(GROUPS)[:-1], axis=1)
    expected = sum(x @ arrays[f"ff_mod_stack/~/w0__{i}"] for i, x in enumerate(groups))
    ours = features @ w0
    np.testing.assert_allclose(ours, np.reshape(expected, ours.shape), rtol=1e-4, atol=1e-5)


def test_velo_layout():
    arrays = reference("velo")
    config, theta = from_reference("velo", arrays)
    assert config == {"lstm_hidden_size": 8, "num_banks": 3, "hidden_size": 4}
    wanted = {
        "bank/w2": arrays["ff_mod_stack/~/w2"][..., :2],
        "bank/b1": arrays["ff_mod_stack/~/b1"],
        "mixing/maximum/w": arrays["rnn_params/linear_1/w"],
        "mixing/own/b": arrays["rnn_params/linear_2/b"],
        "lstm/w": arrays["rnn_params/rnn/linear/w"],
        "lstm/initial_hidden": arrays["lstm_init_state/hidden"][0],
        "lstm/initial_cell": arrays["lstm_init_state/cell"][0],
        "controls/w": arrays["rnn_params/rnn_to_controls/w"],
        "step_size/b": arrays["rnn_params/step_size/b"],
    }
    ours = flat(theta)
    for name, array in wanted.items():
        np.testing.assert_array_equal(ours[name], array)


def test_muvelo_is_configured_as_in_its_repository():
    config, _ = from_reference("muvelo", reference("muvelo"))
    assert (config["interp_mult"], config["param_scale"]) == (1.0, False)
    assert LAYOUTS["muvelo"].parametrization == "mup"


def test_mulo_weights_are_transposed_and_its_decays_are_those_of_the_release():
    arrays = reference("mulo")
    config, theta = from_reference("mulo", arrays)
    assert config == {"hidden_size": 4, "step_mult": 0.01}
    np.testing.assert_array_equal(theta["mlp"]["w0"], arrays["network.input.weight"].T)
    np.testing.assert_array_equal(theta["mlp"]["w2"], arrays["network.output.weight"].T)
    decays = effective_decays(theta["decays"])
    np.testing.assert_allclose(decays.momentum, [0.542, 0.958, 0.998], atol=1e-3)


@pytest.mark.parametrize("kind", TREES)
def test_every_leaf_is_checked(kind):
    arrays = reference(kind)
    for name in arrays:
        with pytest.raises(mulo.CheckpointError, match=f"has no leaf '{name}'"):
            from_reference(kind, {other: array for other, array in arrays.items() if other != name})
        for wrong, text in (
            (arrays[name][None], "has shape"),
            (arrays[name].astype(np.float64), "has dtype float64; wanted float32"),
            (np.full_like(arrays[name], np.nan), "that are not finite"),
        ):
            with pytest.raises(mulo.CheckpointError, match=f"leaf '{name}'.*{text}"):
                from_reference(kind, {**arrays, name: wrong})
    with pytest.raises(mulo.CheckpointError, match="has a leaf 'extra' that is not expected"):
        from_reference(kind, {**arrays, "extra": np.zeros(1, np.float32)})


def test_a_leaf_of_another_size_is_told_what_was_wanted():
    arrays = reference("velo")
    arrays["rnn_params/rnn/linear/b"] = np.zeros(31, np.float32)
    with pytest.raises(mulo.CheckpointError, match=r"has shape \(31,\); wanted \(32,\), which is \(4L,\)"):
        from_reference("velo", arrays)


def test_celo_is_not_taken_for_velo():
    with pytest.raises(mulo.CheckpointError, match=r"linear/w' has shape \(18, 8\); wanted \(30, 8\)"):
        from_reference("velo", reference("celo"))


def test_unknown_kind():
    with pytest.raises(mulo.InputError, match=r"No kind of released theta .* 'vela'\. Did you mean 'velo'\?"):
        from_reference("vela", {})
