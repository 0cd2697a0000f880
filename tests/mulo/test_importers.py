"""Released thetas of other implementations: array by array into ours, or refused with the leaf's name."""

import hashlib
import json
import pickle
import shlex

import flax.serialization
import jax
import jax.numpy as jnp
import msgpack
import numpy as np
import pytest

import mulo
from mulo.importers import KINDS, from_reference, import_theta
from mulo.importers.files import read_arrays
from mulo.importers.layouts import LAYOUTS
from mulo.optimizers.small_fc import effective_decays
from tests import GOLDEN
from tests.mulo.hostile_files import refusal
from tests.mulo.released_files import file_bytes, shared_trace
from tests.mulo.released_thetas import GROUPS, TREES, flat, mulo_arrays, safetensors_bytes


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
    kept = dict.fromkeys(("ff_mod_stack/~/w2", "ff_mod_stack/~/b2"), 1 if kind.startswith("celo2") else 2)
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


def test_kinds_of_the_same_arrays_differ_in_what_the_files_do_not_say():
    celo2, theta = from_reference("celo2", reference("celo2"))
    base, theta_of_base = from_reference("celo2_base", reference("celo2_base"))
    jax.tree.map(np.testing.assert_array_equal, theta, theta_of_base)
    assert mulo.Celo2(**celo2) == mulo.Celo2(hidden_size=8, newton_schulz=True, adam_names="b")
    assert mulo.Celo2(**base) == mulo.Celo2(hidden_size=8, newton_schulz=False, adam_names="")
    ours, _ = from_reference("mulo_jax", reference("mulo_jax"))
    assert mulo.SmallFC(**ours) == mulo.SmallFC(hidden_size=4, step_mult=0.01)


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
            (arrays[name].astype(np.int32), "has dtype int32; wanted float32"),
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


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", TREES)
def test_a_file_becomes_a_checkpoint(kind, tmp_path):
    path = write(tmp_path / "theta.state", file_bytes(kind))
    checkpoint = import_theta(path, kind)
    config, theta = from_reference(kind, reference(kind))
    jax.tree.map(np.testing.assert_array_equal, checkpoint.theta, theta)
    assert checkpoint.optimizer.config() | config == checkpoint.optimizer.config()
    assert checkpoint.parametrization == ("mup" if kind.startswith("mu") else "sp")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert checkpoint.provenance == {"imported_from": "theta.state", "sha256": digest, "kind": kind}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tree: {"params": tree, "gen_id": "f" * 32, "step": 70_000},
        lambda tree: {"params": tree, "gen_id": "", "step": np.int64(-1)},
        lambda tree: {"params": tree, "gen_id": None, "step": 1.5},
        lambda tree: (tree, "", 0),
    ],
)
def test_theta_is_found_in_what_was_saved_with_it(wrap):
    arrays = read_arrays(flax.serialization.to_bytes(wrap(TREES["velo"]())))
    expected = reference("velo")
    assert arrays.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(arrays[name], array)


def test_slashes_in_keys_and_the_old_form_of_named_tuples():
    tree = TREES["velo"]()
    tree["rnn_params"]["rnn"] = {"linear": tree["rnn_params"].pop("rnn/linear")}
    tree["ff_mod_stack/~"] = tree.pop("ff_mod_stack")["~"]
    state = tree["lstm_init_state"]
    tree["lstm_init_state"] = {
        "name": "LSTMState",
        "fields": {"0": "hidden", "1": "cell"},
        "values": {"0": state.hidden, "1": state.cell},
    }
    arrays = read_arrays(flax.serialization.msgpack_serialize(tree))
    assert arrays.keys() == reference("velo").keys()
    np.testing.assert_array_equal(arrays["lstm_init_state/cell"], state.cell)


VELO_BYTES = file_bytes("velo")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (VELO_BYTES[:-1], "the theta ends in the middle"),
        (VELO_BYTES + b"\0", "1 bytes too many after the theta"),
        (pickle.dumps({"w": 1}), "which mulo never opens, since that can run code. Where you trust it"),
        (
            flax.serialization.msgpack_serialize({"params": np.zeros((2, 2)), "gen_id": "", "step": 0}),
            "has no leaf 'ff_mod_stack/~/w0__0'",
        ),
        (b"\x80\xc0", "1 bytes too many"),
        (b"\x80", "has no leaf 'ff_mod_stack/~/w0__0'"),
        (b"PK\x03\x04" + b"\0" * 50, "looks like a zip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"\x93abc", "is neither a msgpack file of Flax nor a safetensors file"),
        (msgpack.packb({"w": 1}), "leaf 'w' is 1; wanted an array"),
        (msgpack.packb({"w": msgpack.ExtType(1, b"\x93\x91")}), "the theta ends in the middle"),
        (msgpack.packb({"w": [1, 2]}), "0x92 where a dictionary or an array is wanted"),
        (msgpack.packb({"w": b"ab"}), "0xc4 where a dictionary or an array is wanted"),
        (msgpack.packb({"w": "x" * 2000}), "a name of 2000 bytes; at most 1024"),
        (msgpack.packb({"w": msgpack.ExtType(2, b"")}), "has extension type 2; wanted 1"),
        (b"\x82" + 2 * (msgpack.packb("a") + b"\x80"), "has the key 'a' twice"),
        (b"\x81\xa1a" * 20, "nested deeper than 16"),
        (b"\xdf\xff\xff\xff\xff", "declares 4294967295 entries"),
        (msgpack.packb({"w": {"__msgpack_chunked_array__": True}}), "in chunks"),
        (
            flax.serialization.msgpack_serialize({"a/b": np.zeros(1), "a": {"b": np.zeros(1)}}),
            "has two leaves called 'a/b'",
        ),
        ((2**31).to_bytes(8, "little") + b"{}", "declares a header of 2147483648 bytes"),
        (file_bytes("mulo")[:-1], "is a damaged safetensors file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(content, message, tmp_path):
    path = write(tmp_path / "theta.state", content)
    assert message in refusal(path, lambda path: import_theta(path, "velo"))


def test_no_byte_of_a_file_breaks_the_reader():
    whole = file_bytes("celo2")
    generator = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole)
        for place in generator.integers(0, len(whole), 3):
            changed[place] = generator.integers(256)
        try:
            arrays = read_arrays(bytes(changed))
        except mulo.CheckpointError as error:
            assert str(error).isprintable()
        else:
            assert all(isinstance(array, np.ndarray) for array in arrays.values())


@pytest.mark.parametrize("kind", ["celo", "velo"])
def test_files_are_as_large_as_the_released_ones(kind):
    # The sizes of theta.state in amoudgl/celo and amoudgl/velo-4000: names, dtypes and shapes are as here.
    sizes = {"celo": ({"size": 64}, 149_216), "velo": ({"size": 512, "banks": 256}, 9_282_507)}
    arguments, num_bytes = sizes[kind]
    assert len(flax.serialization.to_bytes(TREES[kind](**arguments))) == num_bytes


def test_the_torch_file_is_as_large_as_the_released_one():
    assert len(safetensors_bytes(mulo_arrays(hidden=32))) == 10_096  # model.safetensors in btherien/mulo


def assert_is_imported_whole_and_trains(trace, kind, lstm_size, tmp_path):
    arrays = {name.removeprefix("theta/"): x for name, x in trace.items() if name.startswith("theta/")}
    path = write(tmp_path / "theta.state", flax.serialization.msgpack_serialize(arrays))
    checkpoint = import_theta(path, kind)
    assert checkpoint.optimizer.lstm_hidden_size == lstm_size
    # All but the dead layer before the LSTM, the third output and, in Celo, the controls.
    num_dead = 19 * lstm_size + (5 + lstm_size + 1 if kind == "celo" else 0)
    assert sum(x.size for x in jax.tree.leaves(checkpoint.theta)) == int(trace["meta/theta_count"]) - num_dead
    mulo.save(tmp_path / "celo.mulo", checkpoint)

    assert_trains_like(trace, mulo.optimizer(tmp_path / "celo.mulo", num_steps=int(trace["meta/num_steps"])))


@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["celo", "celo_adam"])
def test_weights_of_a_recording_are_imported_and_train_as_recorded(kind, tmp_path):
    with np.load(GOLDEN / f"{kind}_random.npz") as trace:
        assert_is_imported_whole_and_trains(dict(trace), kind, 16, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["celo", "celo_adam"])
def test_the_released_weights(kind, tmp_path):
    assert_is_imported_whole_and_trains(shared_trace(f"{kind}_pretrained.npz"), kind, 64, tmp_path)


def assert_trains_like(trace, tx, num_steps=5):
    """The same parameters as in the trace after some steps on its quadratic problem."""
    params = {leaf: trace[f"quad/params0/{leaf}"] for leaf in ("W", "x")}
    # That optimizers run under the strict flags too is another test's matter.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(num_steps):
            grads = {leaf: trace[f"quad/grads/{leaf}"][t] for leaf in params}
            updates, state = update(grads, state, params, value=trace["quad/losses"][t])
            params = jax.tree.map(np.add, params, updates)
    for leaf, param in params.items():
        np.testing.assert_allclose(param, trace[f"quad/params/{leaf}"][num_steps - 1], rtol=1e-5)


WIDTHS = {"BF16": jnp.bfloat16, "F16": np.float16, "F64": np.float64}


@pytest.mark.parametrize("width", WIDTHS)
def test_floats_of_other_widths_are_converted(width, tmp_path):
    rounded = {name: array.astype(WIDTHS[width]) for name, array in mulo_arrays().items()}
    wanted = from_reference("mulo", {name: np.float32(array) for name, array in rounded.items()})[1]
    (tmp_path / "a.safetensors").write_bytes(safetensors_of(rounded, width))
    found = import_theta(tmp_path / "a.safetensors", "mulo").theta
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    tree = jax.tree.map(lambda array: np.asarray(array, WIDTHS[width]), TREES["small_fc"]())
    (tmp_path / "theta.state").write_bytes(flax.serialization.to_bytes(tree))
    assert import_theta(tmp_path / "theta.state", "small_fc").theta["mlp"]["w0"].dtype == np.float32


def safetensors_of(arrays, dtype):
    """A safetensors file of these arrays, said to be of `dtype`; the library writes no bfloat16 of NumPy."""
    header, data = {}, b""
    for name, array in arrays.items():
        raw = array.tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": offsets}
        data += raw
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + data


def test_a_dtype_that_is_no_float_is_named_and_not_called_damage(tmp_path):
    path = tmp_path / "a.safetensors"
    eighths = {"x": np.zeros(2, np.uint8)}
    path.write_bytes(safetensors_of(eighths, "F8_E4M3"))
    message = refusal(path, lambda path: import_theta(path, "mulo"))
    assert "leaf 'x' has dtype 'F8_E4M3'; wanted F32, or BF16, F16 or F64, which are converted" in message


def test_numbers_that_float32_cannot_hold_are_refused(tmp_path):
    arrays = {name: np.full(array.shape, 1e300) for name, array in mulo_arrays().items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors_of(arrays, "F64"))
    assert "not finite" in refusal(tmp_path / "a.safetensors", lambda path: import_theta(path, "mulo"))


@pytest.mark.parametrize(("name", "kind"), [("it's.safetensors", "mulo"), ("my theta", "small_fc")])
def test_a_file_that_could_be_imported_is_told_how(name, kind, tmp_path):
    path = tmp_path / name
    path.write_bytes(file_bytes(kind))
    message = refusal(path, mulo.load)
    words = shlex.split(message.partition("software trained: ")[2].partition(" (")[0])
    assert words[:5] == ["mulo-eval", "import", str(path), "--as", "KIND"]
    assert words[5:] == ["-o", f"{path.stem}-imported.mulo"]
