"""Adam's best learning rate against width: it stays where it is under muP and moves in SP.

    python -m benchmarks.width_transfer --models mlp transformer

Every width is tuned on the same grid, factor 2, with the same seeds. The runs are kept in `--runs`, and the
same command goes on where it was stopped; what is written is the mean final loss at each point.
"""

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import finish
from eval_tasks.baselines import FAMILIES, Baseline
from eval_tasks.contenders import baseline_contender
from eval_tasks.evaluation import Evaluation
from eval_tasks.names import TaskName
from eval_tasks.runs import ResultStore
from eval_tasks.suites import Series, Suite

WIDTHS = (32, 64, 128, 256, 512)
RATES = tuple(2.0**power for power in range(-11, -2))
"""Learning rates at base width, from 4.9e-4 to 0.125."""

SWEEPS: Mapping[str, Mapping[str, Any]] = {
    "mlp": {"depth": 3, "data_set": "digits", "num_steps": 100, "batch_size": 128},
    "transformer": {"depth": 2, "data_set": "pydoc-32", "num_steps": 200, "batch_size": 8},
}


def make_suite(model: str, num_seeds: int) -> Suite:
    """The sweep of one model."""
    fields = dict(SWEEPS[model])
    base = TaskName(model, WIDTHS[0], fields.pop("depth"), fields.pop("data_set"))
    series = Series(base=base, axis="width", values=WIDTHS, **fields)
    return Suite(
        name=f"width-transfer-{model}", size="", series=(series,), num_seeds=1, num_tuning_seeds=num_seeds
    )


def sweep(suite: Suite, parametrization: str, runs: Path) -> list[dict[str, Any]]:
    """One record for each width: mean loss of the last tenth over seeds at each rate, and the best rate."""
    family = FAMILIES["adam"]._replace(parametrization=parametrization)
    contender = baseline_contender(f"adam-{parametrization}", Baseline(family=family, tuned_at="each value"))
    (series,) = suite.series
    records = []
    with ResultStore(runs / suite.name, notify=print) as store:
        evaluation = Evaluation(suite, store, progress=lambda *_: None)
        for width in series.values:
            losses = {
                rate: mean_or_infinity(of_seeds)
                for rate, of_seeds in evaluation.sweep(contender, series, width, RATES).items()
            }
            record = {
                "model": series.base.model,
                "parametrization": parametrization,
                "task": str(series.point(width).task),
                "width": width,
                "best_rate": min(losses, key=losses.get),
                "best_loss": min(losses.values()),
                # JSON has no infinity.
                "losses": {str(rate): loss if math.isfinite(loss) else None for rate, loss in losses.items()},
            }
            records.append(record)
            print({key: value for key, value in record.items() if key != "losses"}, flush=True)  # noqa: T201
    return records


def mean_or_infinity(losses: Sequence[float | None]) -> float:
    """Mean over seeds; infinite where one diverged."""
    return math.inf if None in losses else sum(losses) / len(losses)


def grid_steps_moved(records: Sequence[Mapping[str, Any]]) -> float:
    """How far the best rate of the widest network is from that of the narrowest, in factors of two."""
    narrowest, *_, widest = sorted(records, key=lambda record: record["width"])
    return math.log2(widest["best_rate"] / narrowest["best_rate"])


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Loss against learning rate, one line for each width; a panel for each model and parametrization."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    models = list(dict.fromkeys(record["model"] for record in records))
    figure = Figure(figsize=(11, 4.2 * len(models)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(models), 2, squeeze=False, sharex=True, sharey="row")
    for row, model in zip(panels, models, strict=True):
        for axes, parametrization in zip(row, ("mup", "sp"), strict=True):
            some = [r for r in records if (r["model"], r["parametrization"]) == (model, parametrization)]
            _draw_panel(axes, some)
            where = "muP" if parametrization == "mup" else "SP"
            moved = grid_steps_moved(some)
            axes.set_title(f"{model}, {where}: best rate moves {moved:+.0f} grid steps", loc="left")
        row[0].set_ylabel("final training loss (nats)")
    for axes in panels[-1]:
        axes.set_xlabel("Adam's learning rate at base width")
    figure.savefig(path, dpi=130)


def _draw_panel(axes: Any, records: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib import colormaps

    for index, record in enumerate(records):
        points = {float(rate): loss for rate, loss in record["losses"].items() if loss is not None}
        colour = colormaps["viridis"](index / max(1, len(records) - 1) * 0.9)
        axes.plot(points.keys(), points.values(), color=colour, label=f"width {record['width']}")
        axes.plot(record["best_rate"], record["best_loss"], "o", color=colour, markersize=7)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def main(argv: list[str] | None = None) -> None:
    """Runs what has not been run, prints, draws and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.width_transfer", description=__doc__)
    parser.add_argument("--models", nargs="+", choices=list(SWEEPS), default=list(SWEEPS))
    parser.add_argument("--num-seeds", type=int, default=3, dest="repeats", help="runs at each point")
    parser.add_argument("--runs", type=Path, default=Path("runs/width-transfer"), help="finished runs")
    parser.add_argument("--plot", type=Path, default=Path("docs/width-transfer.png"))
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/NAME-DATE.json")
    arguments = parser.parse_args(argv)
    records = []
    for model in arguments.models:
        suite = make_suite(model, arguments.repeats)
        for parametrization in ("mup", "sp"):
            records += sweep(suite, parametrization, arguments.runs)
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    draw(records, arguments.plot)
    finish("width_transfer", arguments, records)


if __name__ == "__main__":
    main()
