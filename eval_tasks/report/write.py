"""A report's files: the page, the tables as CSV, the pictures as PNG and SVG."""

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval_tasks.measures import Part
from eval_tasks.report.canvas import Style, drawing, new_figure, short, style, write_files
from eval_tasks.report.page import make_page
from eval_tasks.report.plots import Panel, make_panels
from eval_tasks.report.tables import aggregates_csv, results_csv
from eval_tasks.results import Results
from mulo.errors import InputError
from mulo.printing import shown
from mulo.safe_files import write_atomically

_MAX_STEM = 80  # characters of a part's name in that of a file
_PER_ROW = {"loss": 2}  # training beside validation; of other kinds three


def write_report(results: Results, parts: Sequence[Part], out: Path) -> list[Path]:
    """Writes `report.html`, two CSV files and the pictures into a folder, and returns their paths.

    The same results always give the same files, byte for byte, with one version of matplotlib.

    Raises:
      InputError: the folder or a file cannot be written, or matplotlib is not installed.
    """
    styles = {label: style(index) for index, label in enumerate(results.labels)}
    panels = {part.title: make_panels(part, styles) for part in parts}
    texts = {
        "report.html": make_page(results, parts, panels, styles),
        "aggregates.csv": aggregates_csv(parts),
        "results.csv": results_csv(parts),
    }
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(out / name, [text.encode("utf-8", "backslashreplace")])
            written.append(out / name)
    except OSError as error:
        raise InputError(f"{shown(error.filename or out)} cannot be written: {error.strerror}.") from error
    for index, part in enumerate(parts):
        for kind in dict.fromkeys(panel.kind for panel in panels[part.title]):
            chosen = [panel for panel in panels[part.title] if panel.kind == kind and panel.in_front]
            stem = f"{_file_name(part, index, parts)}-{kind}"
            written += _write_panels(stem, chosen, part, styles, out)
    return written


def _file_name(part: Part, index: int, parts: Sequence[Part]) -> str:
    """Suite and size as a file name; numbered where that is not enough to tell the parts apart."""

    def plain(one: Part) -> str:
        name = re.sub(r"[^a-z0-9]+", "-", f"{one.suite}-{one.size}".lower()).strip("-")
        return name[:_MAX_STEM].strip("-")

    is_unique = sum(plain(one) == plain(part) for one in parts) == 1 and plain(part)
    return plain(part) if is_unique else f"{plain(part)}-{index + 1}".strip("-")


def _write_panels(
    stem: str, panels: Sequence[Panel], part: Part, styles: Mapping[str, Style], out: Path
) -> list[Path]:
    """All panels of a kind in one picture, with a legend below."""
    columns = min(_PER_ROW.get(panels[0].kind, 3), len(panels))
    rows = math.ceil(len(panels) / columns)
    height = max(panel.height for panel in panels)
    with drawing(stem):
        figure = new_figure(4.6 * columns, (height + 0.3) * rows + 0.5)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=False):
            panel.draw(axes)
            lines = (textwrap.fill(line, 48) for line in panel.title.splitlines())
            axes.set_title("\n".join(lines), loc="left")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        _add_legend(figure, part, styles, columns)
        return write_files(figure, out / stem)


def _add_legend(figure: object, part: Part, styles: Mapping[str, Style], columns: int) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for label in part.labels:
        look = styles[label]
        line = Line2D([], [], color=look.colour, marker=look.marker, linestyle=look.dashes, markersize=5)
        line.set_label(f"\u200a{short(label)}")  # matplotlib hides labels that begin with an underscore
        handles.append(line)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=2 * columns, frameon=False, handlelength=3.2
    )
