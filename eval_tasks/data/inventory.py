"""Which data sets are there: what `mulo-eval data` lists. Imports no JAX, and reads no more than it must."""

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from eval_tasks.data import DATA_SETS
from eval_tasks.data.catalog import FILE_SETS, FileSet, text_file
from eval_tasks.data.files import data_folder, is_published, present_files
from mulo.extras import how_to_install
from mulo.printing import printable, shown

_COUNTERS = {  # file set: module that counts the images of one file
    "cifar10": "eval_tasks.data.cifar10",
    "mnist": "eval_tasks.data.idx",
    "fashion-mnist": "eval_tasks.data.idx",
    "imagenet32": "eval_tasks.data.imagenet",
    "imagenet64": "eval_tasks.data.imagenet",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one data set."""

    names: tuple[str, ...]  # of the set, then of its smaller versions
    found: bool  # all that is needed is there
    where: str  # the folder or the package that it is in; "" where nothing is there
    num_bytes: int  # of the files on disk
    content: str  # "60,000 images", "2 of 5 files, 20,000 images"
    checksum: str  # in words; "" where nothing is there
    advice: str  # where to get what is missing


def take_inventory(data_dir: str | Path | None = None) -> list[Entry]:
    """Every data set that has a name, and every other text in the data folder.

    Args:
      data_dir: folder with the files; `None` for the environment variable MULO_DATA_DIR.
    """
    folder = data_folder(data_dir)
    entries = [_digits(), _pydoc()]
    entries += [_files_entry(name, files, folder) for name, files in FILE_SETS.items()]
    known = {file for files in FILE_SETS.values() for file in files.files}
    if folder is not None and os.path.isdir(folder):  # noqa: PTH112 (False for too long a name)
        others = sorted(path.name for path in folder.glob("*.txt") if path.name not in known)
        entries += [_files_entry(name, text_file(name), folder) for name in others]
    return entries


def _digits() -> Entry:
    found = importlib.util.find_spec("sklearn") is not None
    return Entry(
        names=("digits",),
        found=found,
        where="package scikit-learn" if found else "",
        num_bytes=0,
        content="1,797 images" if found else "",
        checksum="",
        advice=f"It is inside scikit-learn; {how_to_install('digits')}",
    )


def _pydoc() -> Entry:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        topics = {}
    num_bytes = sum(len(text.encode()) for text in topics.values())
    return Entry(
        names=("pydoc",),
        found=bool(topics),
        where="module pydoc_data.topics of Python" if topics else "",
        num_bytes=num_bytes,
        content=f"{num_bytes:,} bytes of text" if topics else "",
        checksum="differs between versions of Python" if topics else "",
        advice="It is in Python's standard library; install all of it.",
    )


def _files_entry(name: str, files: FileSet, folder: Path | None) -> Entry:
    paths = present_files(folder, files) if folder is not None else []
    present = {path.name.removesuffix(".gz") for path in paths}
    needed = files.files if files.all_needed else files.files[:1]
    return Entry(
        names=(name, *_smaller(name)),
        found=all(file.removesuffix(".gz") in present for file in needed),
        where=", ".join(dict.fromkeys(str(path.parent) for path in paths)),
        num_bytes=sum(path.stat().st_size for path in paths),
        content=_content(name, files, paths),
        checksum=_checksum(files, paths),
        advice=files.advice,
    )


def _smaller(name: str) -> Iterator[str]:
    for other, reader in DATA_SETS.items():
        if reader.options.get("file_set") == name != other:
            yield other


def _content(name: str, files: FileSet, paths: list[Path]) -> str:
    if not paths:
        return ""
    if name not in _COUNTERS:
        return f"{paths[0].stat().st_size:,} bytes of text"
    count = importlib.import_module(_COUNTERS[name]).count_images
    counts = [count(path) for path in (paths[:1] if files.all_needed else paths)]
    part = "" if len(paths) == len(files.files) else f"{len(paths)} of {len(files.files)} files, "
    return part + ("not readable" if None in counts else f"{sum(counts):,} images")


def _checksum(files: FileSet, paths: list[Path]) -> str:
    if not paths:
        return ""
    try:
        published = {path.name: is_published(path, files) for path in paths}
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    differing = [name for name, same in published.items() if same is False]
    if differing:
        verb = "differ from the published files" if len(differing) > 1 else "differs from the published file"
        return f"{', '.join(differing)} {verb}"
    return "as published" if all(published.values()) else "no published checksum"


def format_inventory(entries: list[Entry], folder: Path | None) -> str:
    """The list as text: what was found, then where the missing sets come from."""
    place = "not set; set it to the folder of your data files" if folder is None else shown(folder)
    if folder is not None and not os.path.isdir(folder):  # noqa: PTH112
        place += " (there is no such folder)"
    lines = [f"MULO_DATA_DIR: {place}", "", "Found:"]
    for entry in entries:
        if entry.found:
            size = f"{entry.num_bytes / 1e6:,.1f} MB" if entry.num_bytes else ""
            facts = [fact for fact in (entry.content, size, entry.checksum) if fact]
            lines += [f"  {', '.join(entry.names)}", f"      {'; '.join(facts)}", f"      in {entry.where}"]
    missing = [entry for entry in entries if not entry.found]
    if missing:
        lines += ["", "Not found:"]
    for entry in missing:
        lines.append(f"  {', '.join(entry.names)}")
        if entry.content:
            lines.append(f"      incomplete: {entry.content} in {entry.where}")
        lines.append(f"      {entry.advice}")
    lines += ["", "Any other text: NAME.txt in that folder. A text takes its context in bytes: pydoc-128."]
    return "\n".join(map(printable, lines))
