"""Files are written into the folder that was opened, and through no symbolic link."""

import errno
import os
import shutil

import pytest

from mulo.printing import printable
from mulo.safe_files import Folder, open_file, open_to_append, write_atomically


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "there").mkdir()
    with Folder(tmp_path / "there") as opened:
        yield opened


def test_what_is_written_goes_into_the_folder_that_was_opened(folder, tmp_path):
    write_atomically(folder / "a", [b"one", b"two"])
    assert (tmp_path / "there" / "a").read_bytes() == b"onetwo"
    (tmp_path / "there").rename(tmp_path / "moved")
    (tmp_path / "there").mkdir()
    write_atomically(folder / "a", [b"three"])
    with open_to_append(folder / "b") as file:
        file.write("four")
    assert sorted(path.name for path in (tmp_path / "moved").iterdir()) == ["a", "b"] == folder.names()
    assert list((tmp_path / "there").iterdir()) == []
    assert folder.path == tmp_path / "moved" and str(folder / "a") == str(tmp_path / "moved" / "a")
    folder.remove("a")
    folder.remove("a")
    assert folder.names() == ["b"] and not folder.is_removed()


def test_a_folder_that_was_removed_takes_nothing(folder, tmp_path):
    shutil.rmtree(tmp_path / "there")
    (tmp_path / "there").mkdir()
    assert folder.is_removed()
    with pytest.raises(FileNotFoundError):
        write_atomically(folder / "a", [b"one"])
    assert list((tmp_path / "there").iterdir()) == []


def test_nothing_is_written_through_a_symbolic_link(folder, tmp_path):
    victim, inside = tmp_path / "victim", tmp_path / "there"
    victim.write_text("mine")
    (inside / "link").symlink_to(victim)
    (inside / "dangling").symlink_to(tmp_path / "new")
    for name in ("link", "dangling"):
        for path in (folder / name, inside / name):
            with pytest.raises(OSError, match="it is a symbolic link, which is not written through"):
                open_to_append(path)
    write_atomically(folder / "link", [b"other"])
    assert victim.read_text() == "mine" and not (tmp_path / "new").exists()
    assert not (inside / "link").is_symlink()
    (tmp_path / "elsewhere").mkdir()
    (inside / "folder").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="it is a symbolic link"):
        Folder("folder", folder)
    with Folder(inside / "folder"):  # a path that a user gives may be one
        pass


def test_what_is_no_regular_file_is_refused_at_once(folder, tmp_path):
    os.mkfifo(tmp_path / "there" / "pipe")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
        with pytest.raises(OSError) as caught:
            open_file(folder / "pipe", flags)
        assert caught.value.errno in (errno.EINVAL, errno.ENXIO)  # ENXIO: nobody reads it


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ümläut", "plain ümläut"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("two\nlines\r", r"two\nlines\r"),
        ("\udcff\ud800", r"\udcff\ud800"),
        ("\u202egnirts", r"\u202egnirts"),
        ("\x9b31m", r"\x9b31m"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    shown.encode()
