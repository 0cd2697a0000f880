"""Results of an evaluation as they are committed: small, one file for each optimizer.

    python -m benchmarks.keep_results results/a benchmarks/results/zero-shot/wide-cpu

Curves of tuning runs are left out, those of the others rounded to five digits: only steps and speed-ups
are read off them. All else stays as `mulo-eval` wrote it.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 2**20
"""Larger files are refused."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads a results file, or a folder with one, and writes a folder; 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="results file, or folder with results.jsonl")
    parser.add_argument("out", type=Path, help="folder; files of other optimizers that are there stay")
    arguments = parser.parse_args(argv)
    source = arguments.results
    source = source / "results.jsonl" if source.is_dir() else source
    files: dict[str, list[str]] = {}
    try:
        with source.open(encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                name = re.sub(r"[^\w.@=,-]", "-", record["optimizer"])
                files.setdefault(name, []).append(json.dumps(_kept(record)) + "\n")
    except OSError as error:
        parser.error(f"{source} cannot be read: {error.strerror}. Wanted results of mulo-eval.")
    texts = {name: "".join(kept) for name, kept in files.items()}
    for name, text in texts.items():
        if len(text) > MAX_BYTES:
            parser.error(f"{name} would have {len(text)} bytes; wanted at most {MAX_BYTES}.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (arguments.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return 0


def _kept(record: dict[str, Any]) -> dict[str, Any]:
    losses = record["losses"]
    if record["purpose"] == "tune":
        losses = {"steps": [], "values": []}
    rounded = [None if value is None else float(f"{value:.5g}") for value in losses["values"]]
    return {**record, "losses": {**losses, "values": rounded}}


if __name__ == "__main__":
    raise SystemExit(main())
