"""`mulo-eval import`: a released theta to a checkpoint file."""

import subprocess
import sys

import numpy as np
import pytest
from huggingface_hub import constants

import mulo
from eval_tasks.cli import main
from eval_tasks.contenders import make_contenders
from eval_tasks.sources import Learned, parse_source
from tests.mulo.released_files import file_bytes, put_into_cache
from tests.mulo.released_thetas import TREES


def run(capsys, *arguments):
    code = main(["import", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_file_is_imported_and_never_overwritten_unasked(tmp_path, capsys):
    source, out = tmp_path / "theta.state", tmp_path / "velo.mulo"
    source.write_bytes(file_bytes("velo"))
    code, text, err = run(capsys, source, "--as", "velo", "-o", out)
    assert (code, err, text.count("\n")) == (0, "", 1)
    assert f"{out}: velo(lstm_hidden_size=8, num_banks=3, hidden_size=4" in text
    checkpoint = mulo.load(out, expect="velo")
    step_size = TREES["velo"]()["rnn_params"]["step_size"]
    np.testing.assert_array_equal(checkpoint.theta["step_size"]["w"], step_size["w"])
    assert checkpoint.provenance["kind"] == "velo"

    before = out.read_bytes()
    code, text, err = run(capsys, source, "--as", "velo_s", "-o", out)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert "exists already. Choose another name, or pass --overwrite" in err
    assert out.read_bytes() == before
    code, _, _ = run(capsys, source, "--as", "velo_s", "-o", out, "--overwrite")
    assert (code, mulo.load(out).optimizer.interp_mult) == (0, 1.0)


def test_a_file_of_the_hub(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    put_into_cache(tmp_path, "owner/name", "model.safetensors", file_bytes("mulo"))
    name = "hf://owner/name/model.safetensors"
    code, _, err = run(capsys, name, "--as", "mulo", "-o", tmp_path / "a.mulo")
    assert (code, err) == (0, "")
    checkpoint = mulo.load(tmp_path / "a.mulo")
    assert (checkpoint.parametrization, checkpoint.provenance["imported_from"]) == ("mup", name)


def test_another_kind_is_one_line_and_no_file(tmp_path, capsys):
    source, out = tmp_path / "theta.state", tmp_path / "a.mulo"
    source.write_bytes(file_bytes("celo"))
    code, text, err = run(capsys, source, "--as", "velo", "-o", out)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert f"{source}: leaf 'rnn_params/linear/w' has shape (18, 8); wanted (30, 8)" in err
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--as", "velo"], "required: -o/--out"),
        (["a", "-o", "b"], "required: --as"),
        (["a", "--as", "vela", "-o", "b"], "Did you mean 'velo'?"),
        (["no-such-file", "--as", "velo", "-o", "b"], "no-such-file: no such file"),
        ([".", "--as", "velo", "-o", "b"], "is a folder; wanted a released theta."),
        (["hf://a", "--as", "velo", "-o", "b"], "wanted hf://owner/name/file"),
        (["setup.cfg", "--as", "velo", "-o", "setup.cfg"], "exists already"),
    ],
)
def test_wrong_flags_are_one_line(arguments, message, capsys):
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_wrong_flags_are_answered_without_jax():
    script = (
        "import sys, eval_tasks.cli\n"
        "assert eval_tasks.cli.main(['import', 'setup.cfg', '--as', 'vela', '-o', 'x']) == 2\n"
        "assert eval_tasks.cli.main(['import', 'hf://a', '--as', 'velo', '-o', 'x']) == 2\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_files_of_the_hub_are_contenders(tmp_path, monkeypatch):
    name = "hf://owner/name@v1.0/runs/theta.mulo"
    assert parse_source(name) == Learned(name)
    assert parse_source(f"{name}@cosine") == Learned(name, schedule="cosine")
    assert parse_source("hf://owner/name/theta.mulo@linear").path == "hf://owner/name/theta.mulo"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    put_into_cache(tmp_path, "btherien/mulo", "model.safetensors", file_bytes("mulo"))
    contenders = make_contenders(["hf://btherien/mulo/model.safetensors@cosine"])
    assert contenders[0].label == "mulo@cosine"
