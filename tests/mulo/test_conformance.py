"""`python -m mulo.conformance` accepts the reference's traces and notices what differs from them."""

from pathlib import Path

import numpy as np
import pytest

from mulo import conformance
from mulo.conformance.comparing import compare, report
from tests.mulo.released_files import shared_trace_path

pytestmark = pytest.mark.optimized

GOLDEN = Path(__file__).parents[1] / "golden"
LEAVES = ["a_scalar", "b_vector", "c_matrix", "d_tall", "e_conv", "f_tensor3"]
QUANTITIES = ["params", "steps", "acc_last/mom", "acc_last/rms", "acc_last/fac_row", "acc_last/fac_col"]


VELO_LEAVES = ["a_scalar", "b_vector", "c_matrix", "d_tall", "e_conv", "f_tensor3", "g_square", "h_col"]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("velo_small", marks=pytest.mark.slow),  # the same code as the released size
        "velo_default",
        pytest.param("mu_velo_small", marks=pytest.mark.numeric),
        pytest.param("mu_velo_small_interp100_pscale", marks=pytest.mark.slow),
    ],
)
def test_velo_agrees_with_the_reference(name, capsys):
    assert conformance.main([str(GOLDEN / f"{name}.npz")]) == 0
    output = capsys.readouterr().out
    rows = {line.split()[0]: line for line in output.splitlines()}
    for quantity in (*QUANTITIES, "acc_last/fac_diag", "acc_step19/mom", "debug/features_norm"):
        assert {f"{quantity}/{leaf}" for leaf in VELO_LEAVES} <= rows.keys()
    for quantity in ("debug/loss_features", "debug/controls", "debug/lr_mult", "acc_last/lstm_cell"):
        assert quantity in rows
    assert "35 entries excluded" in rows["params/c_matrix"]  # a NaN at the last update
    assert "excluded" not in rows["params/f_tensor3"]  # infinities are clipped
    assert "TOO FAR" not in output


@pytest.mark.numeric
@pytest.mark.parametrize(
    ("name", "num_arrays"),
    [("celo_random", 62), ("celo_adam_random", 44), ("celo2_random", 14)],
)
def test_celo_agrees_with_the_reference(name, num_arrays, capsys):
    assert conformance.main([str(GOLDEN / f"{name}.npz")]) == 0
    assert f"{num_arrays} of {num_arrays} arrays within the limits" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_arrays"), [("celo_pretrained", 62), ("celo_adam_pretrained", 44)])
def test_celo_with_its_authors_weights_agrees_with_the_reference(name, num_arrays, capsys):
    assert conformance.main([str(shared_trace_path(f"{name}.npz"))]) == 0
    assert f"{num_arrays} of {num_arrays} arrays within the limits" in capsys.readouterr().out


def test_a_difference_in_celo_is_found(tmp_path, capsys):
    left_out = ("a_scalar", "c_matrix", "d_tall", "e_conv", "f_tensor3", "g_square", "h_col")  # quicker
    with np.load(GOLDEN / "celo_random.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files if not key.endswith(left_out)}
    arrays["theta/ff_mod_stack/~/w2"] *= np.float32(1.01)
    arrays["noisy/losses"][12] *= np.float32(1.01)
    np.savez(tmp_path / "trace.npz", **arrays)
    assert conformance.main([str(tmp_path / "trace.npz")]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines if "TOO FAR" in line}
    assert {"quad/params/W", "mlp/params/l0/w", "noisy/params/b_vector"} <= found
    assert {"noisy/loss_features", "noisy/lr_mult"} <= found
    assert not {"quad/lr_mult", "mlp/loss_features", "quad/last/rms/W"} & found


def test_a_difference_in_celo2_is_found(tmp_path, capsys):
    left_out = ("conv/w", "tall/w", "scale")  # quicker to replay
    with np.load(GOLDEN / "celo2_random.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files if not key.endswith(left_out)}
    arrays["theta/ff_mod_stack/~/w2"].flat[0] += 1e-3
    arrays["celo2/params/blk/b"].flat[0] += 1e-3  # which the network has no part in
    np.savez(tmp_path / "trace.npz", **arrays)
    assert conformance.main([str(tmp_path / "trace.npz")]) == 1
    lines = capsys.readouterr().out.splitlines()
    found = {line.split()[0] for line in lines if "TOO FAR" in line}
    assert {"celo2base/params/blk/w", "celo2base/params/vec", "celo2/params/blk/b"} <= found
    assert "celo2/params/conv/b" not in found


def test_weights_drawn_otherwise_than_recorded_are_refused(tmp_path, capsys):
    with np.load(GOLDEN / "velo_default.npz") as recorded:
        arrays = {key: recorded[key] for key in recorded.files}
    arrays["meta/theta_seed"] = arrays["meta/theta_seed"] + 1
    np.savez(tmp_path / "trace.npz", **arrays)
    assert conformance.main([str(tmp_path / "trace.npz")]) == 2
    assert "have not the digest" in capsys.readouterr().err


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["sp_small_fc_lopt_h4", "sp_small_fc_lopt_h32", "mup_small_fc_lopt_h32"])
def test_the_optimizer_agrees_with_the_reference(name, capsys):
    assert conformance.main([str(GOLDEN / f"{name}.npz")]) == 0
    output = capsys.readouterr().out
    rows = {line.split()[0]: line for line in output.splitlines()}
    for quantity in (*QUANTITIES, "acc_last/fac_diag", "debug/features_norm"):
        assert {f"{quantity}/{leaf}" for leaf in LEAVES} <= rows.keys()
    with np.load(GOLDEN / f"{name}.npz") as recorded:
        num_nonfinite = {leaf: int((~np.isfinite(recorded[f"params/{leaf}"])).sum()) for leaf in LEAVES}
    assert sum(num_nonfinite.values()) > 0
    for leaf, count in num_nonfinite.items():
        assert (f"{count} entries excluded" in rows[f"params/{leaf}"]) == (count > 0)
    assert "TOO FAR" not in output
    assert "OURS NOT FINITE" not in output


def small_trace(changed=None, by=0.0):
    """One leaf of a trace (quick to replay), with `by` root mean squares added to one entry of one array."""
    with np.load(GOLDEN / "sp_small_fc_lopt_h4.npz") as recorded:
        arrays = {
            key: recorded[key]
            for key in recorded.files
            if not any(key.endswith(f"/{leaf}") for leaf in recorded_leaves(recorded) if leaf != "b_vector")
            and not key.startswith("params_clip_grad/")
        }
    if changed:
        array = arrays[changed]
        array.flat[0] += by * np.sqrt(np.mean(np.square(array)))
    return arrays


def recorded_leaves(recorded):
    return [key.removeprefix("params0/") for key in recorded.files if key.startswith("params0/")]


@pytest.mark.parametrize(
    ("changed", "by", "too_far"),
    [
        (None, 0.0, set()),
        ("params/b_vector", 1e-3, {"params/b_vector"}),
        ("acc_last/rms/b_vector", 1e-3, {"acc_last/rms/b_vector"}),
        ("theta/nn/~/w2", 1e-3, {"steps/b_vector", "params/b_vector", "debug/features_norm/b_vector"}),
    ],
)
def test_a_difference_is_found_and_named(tmp_path, capsys, changed, by, too_far):
    np.savez(tmp_path / "trace.npz", **small_trace(changed, by))
    assert conformance.main([str(tmp_path / "trace.npz")]) == (1 if too_far else 0)
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if "TOO FAR" in line} == too_far
    assert {"params/b_vector", "steps/b_vector"} <= {line.split()[0] for line in lines}


def test_an_array_of_which_nothing_was_compared_fails():
    reference = np.full(3, np.nan, np.float32)
    excluded = compare("a", np.zeros(3), reference, 1.0)
    empty = compare("b", np.zeros((0, 3)), np.zeros((0, 3), np.float32), 1.0)
    partly = compare("c", np.zeros(3), np.where([True, False, True], 0, reference), 1.0)
    assert [result.within for result in (excluded, empty, partly)] == [False, True, True]
    lines = report([excluded, empty, partly]).splitlines()
    assert ["NOTHING COMPARED" in line for line in lines] == [False, True, False, False, False]
    assert lines[-1].startswith("2 of 3 arrays")


def test_a_file_that_is_no_trace_is_refused(tmp_path, capsys):
    garbage, cut = tmp_path / "garbage.npz", tmp_path / "cut.npz"
    garbage.write_bytes(b"garbage\n" * 9)
    cut.write_bytes((GOLDEN / "pes.npz").read_bytes()[:5000])
    for path, message in [
        (GOLDEN / "pes.npz", "pes.npz is not a trace of small_fc_lopt, VeLO, Celo, Celo-Adam, Celo2: "),
        (garbage, "garbage.npz is not a NumPy archive of plain arrays"),
        (cut, "cut.npz is not a NumPy archive of plain arrays"),
        (tmp_path, "is not a NumPy archive of plain arrays"),
        (tmp_path / "none.npz", "none.npz: no such file"),
    ]:
        assert conformance.main([str(path)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert message in output.err
        assert output.err.count("\n") == 1
