import subprocess
import sys

import pytest

from eval_tasks.cli import main
from eval_tasks.data import DATA_SETS, inventory, load_data
from eval_tasks.data.catalog import FILE_SETS
from eval_tasks.data.inventory import take_inventory
from tests.eval_tasks.test_data_files import write_imagenet, write_mnist


@pytest.fixture
def folder(tmp_path):
    write_mnist(tmp_path / "mnist", packed=True)
    write_imagenet(tmp_path / "Imagenet32_train_npz", 32)
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(2 * 3073))
    (tmp_path / "mine.txt").write_bytes(b"text")
    return tmp_path


def by_name(folder):
    return {entry.names[0]: entry for entry in take_inventory(folder)}


def test_every_data_set_is_listed_once(folder):
    names = [name for entry in take_inventory(folder) for name in entry.names]
    assert sorted(names) == sorted([*DATA_SETS, "mine.txt"])


def test_what_is_found_where_and_how_much(folder):
    entries = by_name(folder)
    found = {name for name, entry in entries.items() if entry.found}
    assert found == {"digits", "pydoc", "mnist", "imagenet32", "mine.txt"}
    assert entries["mnist"].content == "20 images"
    assert entries["mnist"].where == str(folder / "mnist")
    assert entries["imagenet32"].content == "2 of 10 files, 20 images"
    assert entries["imagenet32"].checksum == "no published checksum"
    assert entries["mine.txt"].content == "4 bytes of text"
    assert entries["mine.txt"].num_bytes == 4
    assert not entries["cifar10"].found  # its first file is needed
    assert entries["cifar10"].content == "1 of 5 files, 2 images"


def test_other_files_than_the_published_ones_are_named_and_read(folder):
    checksum = by_name(folder)["mnist"].checksum
    both = "train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz"
    assert checksum == f"{both} differ from the published files"


def test_reading_another_file_than_the_published_one_is_said(tmp_path, capsys):
    """Of every set whose published checksum is known, in one line on stderr; of others nothing."""
    write_mnist(tmp_path / "mnist", packed=True)
    write_imagenet(tmp_path / "Imagenet32_train_npz", 32)
    (tmp_path / "tinyshakespeare.txt").write_bytes(b"to be or not to be " * 50)
    (tmp_path / "mine.txt").write_bytes(b"to be or not to be " * 50)
    for name, notices in (("mnist", 1), ("tinyshakespeare", 1), ("mine.txt", 0), ("imagenet32", 0)):
        load_data(name, tmp_path)
        lines = [line for line in capsys.readouterr().err.splitlines() if "checksum" in line]
        assert len(lines) == notices, name
        assert all(line.startswith(f"{name}: {tmp_path}") and "used as found" in line for line in lines)


def test_a_published_file_is_known(folder, monkeypatch):
    text = "tinyshakespeare.txt"
    (folder / text).write_bytes(b"abc")
    assert by_name(folder)["tinyshakespeare"].checksum == f"{text} differs from the published file"
    sums = FILE_SETS["tinyshakespeare"].checksums
    # SHA-256 of "abc" from FIPS 180-2, appendix B.1.
    monkeypatch.setitem(sums, text, "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")
    assert by_name(folder)["tinyshakespeare"].checksum == "as published"


def test_damaged_files_are_listed_too(folder):
    for path in (folder / "mnist/train-images-idx3-ubyte.gz", folder / "Imagenet32_train_npz"):
        path = path if path.is_file() else path / "train_data_batch_1.npz"
        path.write_bytes(b"damaged")
    entries = by_name(folder)
    assert entries["mnist"].content == "not readable"
    assert entries["imagenet32"].content == "2 of 10 files, not readable"


def test_the_command_lists_both_kinds(folder, monkeypatch, capsys):
    monkeypatch.setenv("MULO_DATA_DIR", str(folder))
    assert main(["data"]) == 0
    found, missing = capsys.readouterr().out.split("Not found:")
    assert f"MULO_DATA_DIR: {folder}\n" in found
    assert "  mnist, mnist-14\n      20 images; 0.0 MB; train-images-idx3-ubyte.gz, " in found
    assert "  cifar10, cifar10-16, cifar10-8\n      incomplete: 1 of 5 files" in missing
    assert "https://github.com/zalandoresearch/fashion-mnist" in missing


def test_without_a_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("MULO_DATA_DIR", raising=False)
    assert main(["data"]) == 0
    assert "MULO_DATA_DIR: not set" in capsys.readouterr().out
    assert main(["data", "--data-dir", str(tmp_path / "none")]) == 0
    assert "none (there is no such folder)" in capsys.readouterr().out


def test_a_python_without_its_reference_is_listed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    monkeypatch.setattr(inventory.importlib.util, "find_spec", lambda _: None)
    entries = by_name(None)
    assert not entries["pydoc"].found
    assert not entries["digits"].found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("dat", "No command is called 'dat'. Did you mean 'data'?"),
        ("wide", "A suite is given as --suite wide, with --optimizer beside it."),
        ("broad", "No command is called 'broad'."),
        ("data --folder x", "No flag is called --folder. See mulo-eval data --help."),
    ],
)
def test_wrong_commands_are_one_line(words, message, capsys):
    assert main(words.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"mulo-eval: error: {message}")
    assert err.count("\n") == 1


def test_the_command_needs_no_jax(folder):
    script = (
        "import sys, eval_tasks.cli\n"
        f"assert eval_tasks.cli.main(['data', '--data-dir', {str(folder)!r}]) == 0\n"
        "assert 'jax' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
