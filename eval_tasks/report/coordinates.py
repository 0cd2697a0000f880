"""The picture of a coordinate check: change of each layer against width, and the slopes."""

from pathlib import Path
from typing import Any

import numpy as np

from eval_tasks.report.canvas import save_figure
from mulo.errors import InputError
from mulo.extras import how_to_install
from mulo.mup import CoordinateCheck

_COLOURS = {"flat": "#009E73", "growing": "#D55E00", "vanishing": "#0072B2"}
_OTHER = "#999999"  # no change, or not finite


def draw_coordinate_check(check: CoordinateCheck, title: str, path: Path) -> None:
    """Writes the picture, of the kind that its ending says; a layer has the colour of its verdict.

    Raises:
      InputError: matplotlib is not installed, or the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"Plots need matplotlib: {how_to_install('report')}.") from error
    height = max(4.2, 0.26 * len(check.layers) + 1.4)
    figure = Figure(figsize=(11, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, x=0.01, ha="left")
    left, right = figure.subplots(1, 2)
    _draw_changes(left, check)
    _draw_slopes(right, check)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_axisbelow(True)
    save_figure(figure, path, dpi=130)


def _draw_changes(axes: Any, check: CoordinateCheck) -> None:
    changes = check.changes[:, :, -1].mean(axis=1)
    for layer, verdict in enumerate(check.verdicts):
        values = np.where(changes[:, layer] > 0, changes[:, layer], np.nan)
        colour = _COLOURS.get(verdict, _OTHER)
        axes.plot(check.widths, values, marker="o", markersize=4, color=colour, alpha=0.8)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(check.widths, [f"{width:,}" for width in check.widths])
    axes.minorticks_off()
    axes.set_xlabel("width")
    axes.set_ylabel(f"RMS change of a layer's output, {check.changes.shape[2]} steps")
    axes.grid(True, color="#dddddd", linewidth=0.6)


def _draw_slopes(axes: Any, check: CoordinateCheck) -> None:
    places = np.arange(len(check.layers))[::-1]
    colours = [_COLOURS.get(verdict, _OTHER) for verdict in check.verdicts]
    axes.axvspan(-check.tolerance, check.tolerance, color="#009E73", alpha=0.12)
    axes.barh(places, np.nan_to_num(check.slopes), color=colours, height=0.7)
    axes.axvline(0.0, color="#333333", linewidth=0.8)
    labels = zip(check.layers, check.verdicts, strict=True)
    axes.set_yticks(places, [f"{layer} ({verdict})" for layer, verdict in labels], fontsize=8)
    axes.set_xlabel(f"slope of log change on log width; flat: within ±{check.tolerance:g}")
    axes.set_xlim(*_limits(check))


def _limits(check: CoordinateCheck) -> tuple[float, float]:
    largest = max(2.5 * check.tolerance, 1.1 * np.max(np.abs(np.nan_to_num(check.slopes))))
    return -largest, largest
