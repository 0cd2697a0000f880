"""The picture of an evaluation: loss against width, and the loss curves of the widest networks."""

from pathlib import Path
from typing import Any

import numpy as np

from eval_tasks.aggregates import estimate
from eval_tasks.evaluation import Results
from eval_tasks.models import MODELS
from eval_tasks.objectives import OBJECTIVES
from eval_tasks.report.canvas import Style, style
from eval_tasks.suites import Series
from mulo.errors import InputError


def draw_figure(results: Results, series: Series, path: Path) -> None:
    """Writes the picture of one series as a PNG.

    Raises:
      InputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("Plots need matplotlib. Run: pip install 'mulo[report]'") from error
    figure = Figure(figsize=(11, 4.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for index, label in enumerate(results):
        look = style(index)
        _draw_values(left, results, series, label, look)
        _draw_curve(right, results, series, label, look)
    _label_axes(left, right, results, series)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(4, len(labels)), frameon=False)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from error


def _draw_values(axes: Any, results: Results, series: Series, label: str, look: Style) -> None:
    cells = [results[label][series.name, value] for value in series.values]
    estimates = [estimate([record["final_loss"] for record in cell.records]) for cell in cells]
    means = [np.nan if e.mean is None else e.mean for e in estimates]
    errors = [e.standard_error or 0.0 for e in estimates]
    axes.errorbar(
        series.values,
        means,
        errors,
        color=look.colour,
        marker=look.marker,
        linestyle=look.dashes,
        markersize=6,
        linewidth=1.8,
        capsize=3,
        label=label,
    )
    diverged = [value for value, e in zip(series.values, estimates, strict=True) if e.mean is None]
    if diverged:
        # On the upper edge of the axes, whatever the scale.
        axes.plot(
            diverged, [1.0] * len(diverged), "x", color=look.colour, markersize=9, markeredgewidth=2.5,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip


def _draw_curve(axes: Any, results: Results, series: Series, label: str, look: Style) -> None:
    records = results[label][series.name, series.values[-1]].records
    steps = np.asarray(records[0]["losses"]["steps"])
    values = np.asarray([r["losses"]["values"] for r in records], float)  # null -> nan
    smooth = np.stack([_running_mean(curve, _window(len(steps))) for curve in values])
    mean = smooth.mean(axis=0)
    axes.plot(steps, mean, color=look.colour, linestyle=look.dashes, linewidth=1.8)
    if len(records) > 1:
        error = smooth.std(axis=0, ddof=1) / np.sqrt(len(records))
        axes.fill_between(steps, mean - error, mean + error, color=look.colour, alpha=0.18, linewidth=0)


def _window(num_points: int) -> int:
    return max(1, num_points // 20)


def _running_mean(curve: np.ndarray, window: int) -> np.ndarray:
    """Mean of the last `window` points, of fewer at the beginning. [N] -> [N]."""
    return np.asarray([curve[max(0, end - window) : end].mean() for end in range(1, len(curve) + 1)])


def _label_axes(left: Any, right: Any, results: Results, series: Series) -> None:
    axis, task = series.axis.removeprefix("num_"), series.base
    left.set_xscale("log", base=2)
    left.set_xticks(series.values, [f"{value:,}" for value in series.values])
    left.minorticks_off()
    left.set_xlabel(f"{axis} (base: {series.base_value:,})")
    unit = OBJECTIVES[MODELS[task.model].objective].unit
    left.set_ylabel(f"final training loss ({unit})")
    left.set_title(f"{task.model.upper()}, {task.data_set}: {series.num_steps} steps at the base", loc="left")
    last = next(iter(results.values()))[series.name, series.values[-1]]
    points = len(last.records[0]["losses"]["steps"])
    right.set_title(f"Training at {axis} {series.values[-1]:,}", loc="left")
    right.set_xlabel("inner step")
    right.set_ylabel(f"training loss ({unit}), running mean of {_window(points)} points")
    for axes in (left, right):
        if _all_positive(axes):
            axes.set_yscale("log")
            _plain_ticks(axes)
        axes.grid(True, which="both", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    cells = [cell for row in results.values() for cell in row.values()]
    if any(record["diverged"] for cell in cells for record in cell.records):
        left.annotate("x: diverged", (1.0, 1.02), xycoords="axes fraction", ha="right", color="#555555")


def _all_positive(axes: Any) -> bool:
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axes.lines] or [np.ones(1)])
    return bool(np.all(values[np.isfinite(values)] > 0)) and bool(np.any(np.isfinite(values)))


def _plain_ticks(axes: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
