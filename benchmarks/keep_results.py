"""Results of an evaluation as they are committed: small, one file for each optimizer.

    python -m benchmarks.keep_results results/a benchmarks/results/zero-shot/wide-cpu

Curves of tuning runs are left out, those of the others rounded to five digits: only steps and speed-ups
are read off them. All else stays as `mulo-eval` wrote it. A line that is not whole refuses the whole file.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import Parser
from eval_tasks.command_line import check_folder
from eval_tasks.result_lines import parse_line
from eval_tasks.results import FILE_NAME
from mulo.errors import InputError

MAX_BYTES = 2**20
"""Larger files are refused."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads a results file, or a folder with one, and writes a folder; 0."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="results file, or folder with results.jsonl")
    parser.add_argument("out", type=Path, help="folder; files of other optimizers that are there stay")
    arguments = parser.parse_args(argv)
    source = arguments.results
    source = source / FILE_NAME if source.is_dir() else source
    try:
        check_folder(arguments.out, "OUT,")
        texts = _read(source)
        arguments.out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _write(arguments.out / f"{name}.jsonl", text)
    except (InputError, OSError) as error:
        parser.error(str(error))
    return 0


def _read(source: Path) -> dict[str, str]:
    """The text of each optimizer's file.

    Raises:
      InputError: the file cannot be read, has a line that is no result, or is too large.
    """
    try:
        lines = source.read_bytes().splitlines()
    except OSError as error:
        raise InputError(
            f"{source} cannot be read: {error.strerror}. Wanted results of mulo-eval."
        ) from error
    files: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            name = re.sub(r"[^\w.@=,-]", "-", parse_line(line)["optimizer"])
        except InputError as error:
            raise InputError(
                f"{source}, line {number}: {error}. Is it a results file of mulo-eval?"
            ) from error
        files.setdefault(name, []).append(json.dumps(_kept(json.loads(line))) + "\n")
    texts = {name: "".join(kept) for name, kept in files.items()}
    if not texts:
        raise InputError(f"{source} is empty; wanted results of mulo-eval.")
    for name, text in texts.items():
        if len(text) > MAX_BYTES:
            raise InputError(f"{name} would have {len(text)} bytes; wanted at most {MAX_BYTES}.")
    return texts


def _write(path: Path, text: str) -> None:
    """All of it or nothing: what is there is committed."""
    beside = path.with_suffix(".new")
    try:
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    losses = record["losses"]
    if record["purpose"] == "tune":
        losses = {"steps": [], "values": []}
    rounded = [None if value is None else float(f"{value:.5g}") for value in losses["values"]]
    return {**record, "losses": {**losses, "values": rounded}}


if __name__ == "__main__":
    raise SystemExit(main())
