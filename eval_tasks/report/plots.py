"""The pictures of a report: loss against what is varied, speed-ups, scores of tasks, loss curves."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from eval_tasks.aggregates import Interval, smooth, task_interval
from eval_tasks.measures import Cell, Part
from eval_tasks.report.canvas import INK, Style, plain_axes, plain_log_axis, short
from eval_tasks.result_lines import Record
from eval_tasks.results import Point

Styles = Mapping[str, Style]
_LOG_FROM = 3.0  # ratio of the largest to the smallest value from which an axis is logarithmic


class Panel(NamedTuple):
    """One picture."""

    kind: str  # "loss", "speed-up", "scores" or "curves": panels of a kind go into one file
    title: str
    draw: Callable[[Any], None]  # onto axes
    in_front: bool = True  # shown at once, and in the files
    height: float = 3.0  # inches, at a width of 4.6


def make_panels(part: Part, styles: Styles) -> list[Panel]:
    """All pictures of one suite and size; a line of a single point is shown among the scores only."""
    scores = _score_panels(part, styles)
    panels = [*_speed_up_panels(part, styles), *scores]
    for (_, axis), points in part.lines.items():
        if axis != "task" and (len(points) > 1 or not scores):
            panels += _loss_panels(part, points, styles)
    for (_, axis), points in part.lines.items():
        for point in points:
            if any(run["losses"]["steps"] for cell in part.cells[point].values() for run in cell.records):
                in_front = axis == "task" or point == points[-1]
                draw = _bind(_draw_curves, part, point, styles)
                panels.append(Panel("curves", str(point), draw, in_front))
    return panels


def _task_text(point: Point, points: Sequence[Point]) -> str:
    """What a point is called beside others: its place, and the series too unless there is only one."""
    if point.axis == "task":
        return short(str(point))
    if len({(other.series, other.axis) for other in points}) == 1:
        return short(point.place)
    return f"{short(point.series_name)}\n{short(point.place)}"


def _loss_panels(part: Part, points: Sequence[Point], styles: Styles) -> list[Panel]:
    panels = []
    for field, words in (("final_loss", "training"), ("validation_loss", "validation")):
        if any(getattr(cell, field).mean is not None for p in points for cell in part.cells[p].values()):
            draw = _bind(_draw_loss, part, points, field, styles)
            panels.append(Panel("loss", f"{points[0].series_name}: {words} loss", draw))
    return panels


def _bind(draw: Callable[..., None], *arguments: Any) -> Callable[[Any], None]:
    return lambda axes: draw(axes, *arguments)


def _speed_up_panels(part: Part, styles: Styles) -> list[Panel]:
    groups: dict[str, Sequence[Point]] = {"all tasks": list(part.cells)}
    if len(part.lines) > 1:
        for (_, axis), points in part.lines.items():
            if len(points) > 1:
                name = "tasks" if axis == "task" else f"{points[0].series_name} by {axis}"
                groups[name.replace("num_steps", "steps")] = points
    panels = []
    for name, points in groups.items():
        bars = {label: _speed_up_of(part, label, points) for label in part.labels}
        bars = {label: bar for label, bar in bars.items() if bar is not None}
        if bars:
            title = f"Speed-up over {short(part.reference)}:\n{name}"
            height = 1.0 + 0.3 * len(bars)
            panels.append(Panel("speed-up", title, _bind(_draw_bars, bars, styles), height=height))
    return panels


def _speed_up_of(part: Part, label: str, points: Sequence[Point]) -> Interval | None:
    if len(points) == len(part.cells):
        return part.aggregates[label].speed_up
    samples = [part.cells[point][label].speed_ups for point in points if label in part.cells[point]]
    samples = [sample for sample in samples if sample]
    return task_interval(samples) if samples else None


def _draw_bars(axes: Any, bars: Mapping[str, Interval], styles: Styles) -> None:
    places = np.arange(len(bars))[::-1]
    right = max(bar.high or bar.value for bar in bars.values())
    for place, (label, bar) in zip(places, bars.items(), strict=True):
        axes.barh(place, bar.value, height=0.62, color=styles[label].colour, alpha=0.85)
        end = bar.value
        if bar.low is not None:
            axes.plot([bar.low, bar.high], [place, place], color=INK, linewidth=1.4, solid_capstyle="butt")
            axes.plot([bar.low, bar.high], [place, place], "|", color=INK, markersize=7)
            end = max(end, bar.high)
        text = axes.text(end + 0.02 * right, place, f"{bar.value:.2f}×", va="center", fontsize=8.5, zorder=4)
        text.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5})
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle="--", zorder=1)
    axes.set_yticks(places, [short(label) for label in bars])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max(1.05, right) * 1.16)
    axes.set_xlabel("steps of the reference over steps needed")
    plain_axes(axes)
    axes.grid(False, axis="y")


def _score_panels(part: Part, styles: Styles) -> list[Panel]:
    points = list(part.cells)
    if not any(cell.scores for point in points for cell in part.cells[point].values()):
        return []
    title = f"Score of each task\n(1: {short(part.reference)}, 0: guessing)"
    height = 1.1 + max(0.32, 0.07 * len(part.labels)) * len(points)
    return [Panel("scores", title, _bind(_draw_scores, part, points, styles), height=height)]


def _draw_scores(axes: Any, part: Part, points: Sequence[Point], styles: Styles) -> None:
    places = np.arange(len(points))[::-1]
    offsets = np.linspace(0.28, -0.28, len(part.labels)) if len(part.labels) > 1 else [0.0]
    for label, offset in zip(part.labels, offsets, strict=True):
        for place, point in zip(places, points, strict=True):
            scores = part.cells[point][label].scores if label in part.cells[point] else ()
            if scores:
                look = styles[label]
                axes.plot([min(scores), max(scores)], [place + offset] * 2, color=look.colour, linewidth=1.4)
                axes.plot(
                    np.mean(scores), place + offset, color=look.colour, marker=look.marker, markersize=4.5
                )
    axes.axvline(1.0, color=INK, linewidth=0.9, linestyle="--")
    axes.set_yticks(places, [_task_text(point, points) for point in points], fontsize=7.5)
    axes.set_xlabel("score")
    plain_axes(axes)


def _draw_loss(axes: Any, part: Part, points: Sequence[Point], field: str, styles: Styles) -> None:
    values = [point.value for point in points]
    places = values if _is_scale(values) else list(range(len(values)))
    shown: list[float] = []
    for label in part.labels:
        look = styles[label]
        cells = [part.cells[point].get(label) for point in points]
        means = [np.nan if cell is None else _or_nan(getattr(cell, field).mean) for cell in cells]
        axes.plot(
            places, means, color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=5,
            linewidth=2.8 if label in part.learned else 1.3, zorder=3,  # so that they stand out
        )  # fmt: skip
        for place, cell in zip(places, cells, strict=True):
            runs = [run[field] for run in cell.records if run[field] is not None] if cell else []
            axes.plot([place] * len(runs), runs, ".", color=look.colour, markersize=3, alpha=0.55, zorder=2)
            shown += runs
            if cell and cell.num_diverged:
                _mark_diverged(axes, place, label, part, look)
    if _is_scale(values):
        axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{v:,.12g}" if not isinstance(v, str) else short(v) for v in values])
    axes.minorticks_off()
    if len(values) > 6:
        axes.tick_params(axis="x", labelrotation=45)
    base = next(iter(part.cells[points[0]].values())).records[0]["base_value"]
    axis = points[0].axis.replace("num_steps", "steps").replace("_", " ")
    axes.set_xlabel(axis if base is None else f"{axis} (base: {base})")
    axes.set_ylabel(f"final loss ({_unit(part.cells[points[0]])})")
    _scale_losses(axes, shown)
    plain_axes(axes)


def _mark_diverged(axes: Any, place: float, label: str, part: Part, look: Style) -> None:
    # On the upper edge of the axes, whatever the scale; a little lower for each further optimizer.
    marked = [
        other
        for other in part.labels
        if any(row.get(other) and row[other].num_diverged for row in part.cells.values())
    ]
    height = 1.0 - 0.045 * marked.index(label)
    axes.plot(
        [place], [height], "x", color=look.colour, markersize=7, markeredgewidth=2,
        transform=axes.get_xaxis_transform(), clip_on=False, zorder=4,
    )  # fmt: skip


def _is_scale(values: Sequence[Any]) -> bool:
    return all(not isinstance(value, str) and value > 0 for value in values)


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _unit(row: Mapping[str, Cell]) -> str:
    return next(iter(row.values())).records[0]["unit"]


def _scale_losses(axes: Any, values: Sequence[float]) -> None:
    """A logarithmic axis where losses span much; one of exactly zero, in float32, is on its lower edge."""
    positive = [value for value in values if value > 0]
    if positive and min(values) >= 0 and max(values) / min(positive) > _LOG_FROM:
        axes.set_yscale("log", nonpositive="clip")
        if len(positive) < len(values):
            axes.set_ylim(bottom=min(positive) / 2)
        plain_log_axis(axes.yaxis, max(values) / min(positive))


def _draw_curves(axes: Any, part: Part, point: Point, styles: Styles) -> None:
    row = part.cells[point]
    starts, shown, ends = [], [], []
    for label, cell in row.items():
        curves = smooth_curves(cell.records)
        if curves is None:
            continue
        steps, values = curves
        look = styles[label]
        mean = values.mean(axis=0)
        lowest, highest = values.min(axis=0), values.max(axis=0)
        axes.plot(steps, mean, color=look.colour, linestyle=look.dashes, linewidth=1.6, zorder=3)
        axes.fill_between(steps, lowest, highest, color=look.colour, alpha=0.2, linewidth=0, zorder=2)
        finite = np.flatnonzero(np.isfinite(mean))
        if finite.size:
            starts.append(mean[0])
            shown += list(mean[finite])
            if finite[-1] + 1 < len(mean):
                ends.append((steps[finite[-1]], mean[finite[-1]], look.colour))
    top = _limit_curves(axes, starts, shown, row)
    for step, value, colour in ends:
        axes.plot(step, min(value, top), "x", color=colour, markersize=7, markeredgewidth=2, clip_on=False)
    axes.set_xlabel("inner step")
    axes.set_ylabel(f"training loss ({_unit(row)})")
    plain_axes(axes)


def smooth_curves(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps [N] and smoothed losses [seeds, N] of the runs that have the first one's steps."""
    curves = [record["losses"] for record in records if record["losses"]["steps"]]
    if not curves:
        return None
    steps = curves[0]["steps"]
    return np.asarray(steps), np.stack([smooth(c["values"]) for c in curves if c["steps"] == steps])


def _limit_curves(
    axes: Any, starts: Sequence[float], shown: Sequence[float], row: Mapping[str, Cell]
) -> float:
    """A run that explodes does not flatten the others: the axis ends a little above where they began."""
    guessing = next(iter(row.values())).records[0]["guessing_loss"]
    top = 1.15 * max([*starts, *([guessing] if guessing is not None else [])], default=math.inf)
    shown = [value for value in shown if value <= top]
    if not shown or not math.isfinite(top):
        return math.inf
    _scale_losses(axes, shown)
    is_log = axes.get_yscale() == "log"
    low = min(v for v in shown if v > 0) / 1.08 if is_log else min(shown) - 0.05 * (top - min(shown))
    if top > low:
        axes.set_ylim(low, top)
    return top
