"""Meta-loss and validation score over a meta-training run, as a table and a picture.

    python -m benchmarks.meta_curve runs/a --name mulo-x

writes benchmarks/results/meta-training/mulo-x.csv and checkpoints/mulo-x/meta-loss.png.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.command_line import Parser
from eval_tasks.report.canvas import drawing, new_figure, plain_axes, style

ROOT = Path(__file__).parent.parent
COLUMNS = ("meta_step", "meta_loss", "validation_score", "inner_steps", "wall_seconds")
WINDOW = 20
"""Meta-steps that the drawn mean is taken over: single ones depend on where their inner runs stand."""


def main(argv: Sequence[str] | None = None) -> int:
    """Reads a run's metrics, writes both files; 0."""
    parser = Parser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--name", required=True, help="of the released optimizer")
    arguments = parser.parse_args(argv)
    try:
        with (arguments.run / "metrics.jsonl").open(encoding="utf-8") as lines:
            rows = [{name: line.get(name, "") for name in COLUMNS} for line in map(json.loads, lines)]
    except OSError as error:
        parser.error(f"{error.filename} cannot be read: {error.strerror}. Wanted a run directory.")
    table = ROOT / "benchmarks" / "results" / "meta-training" / f"{arguments.name}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    _draw(rows, ROOT / "checkpoints" / arguments.name / "meta-loss.png")
    return 0


def _draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    steps = [row["meta_step"] + 1 for row in rows]
    losses = [row["meta_loss"] for row in rows]
    starts = range(len(rows) - WINDOW + 1)
    validated = [
        (row["meta_step"] + 1, row["validation_score"]) for row in rows if row["validation_score"] != ""
    ]
    colour = style(0).colour
    with drawing("meta-loss"):
        figure = new_figure(7.0, 3.0)
        left, right = figure.subplots(1, 2)
        left.plot(steps, losses, linewidth=0.6, color=style(6).colour, alpha=0.5, label="each meta-step")
        means = [sum(losses[start : start + WINDOW]) / WINDOW for start in starts]
        left.plot(steps[WINDOW - 1 :], means, linewidth=1.4, color=colour, label=f"mean of the last {WINDOW}")
        left.set(xlabel="meta-step", ylabel="meta-loss")
        left.legend(frameon=False)
        right.plot(*zip(*validated, strict=True), marker="o", markersize=3, linewidth=1.2, color=colour)
        right.set(xlabel="meta-step", ylabel="validation score, lower is better")
        for axes in (left, right):
            plain_axes(axes)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110)


if __name__ == "__main__":
    raise SystemExit(main())
