"""What all pictures share: matplotlib, imported late, without a screen; colours; files."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mulo.errors import InputError
from mulo.extras import how_to_install
from mulo.printing import one_line, shown
from mulo.safe_files import write_atomically

INK, RULE = "#1c2127", "#d5d9de"  # of text and of grids; in a page they follow its colours
MAX_LABEL = 32  # characters of a label in a picture


class Style(NamedTuple):
    """How one optimizer looks in every picture."""

    colour: str
    marker: str
    dashes: str


# Okabe and Ito's colours, told apart by colour-blind readers too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A")
_MARKERS = "osD^vP*"
_DASHES = ("-", "--", ":")


def style(index: int) -> Style:
    """The style of the optimizer with this place in the report; 21 of them differ."""
    turn = index // len(_COLOURS)
    place = index % len(_COLOURS)
    marker = _MARKERS[(place + turn) % len(_MARKERS)]
    return Style(_COLOURS[place], marker, _DASHES[turn % len(_DASHES)])


def short(label: str) -> str:
    """A label that fits a picture."""
    return label if len(label) <= MAX_LABEL else label[: MAX_LABEL - 1] + "…"


@contextlib.contextmanager
def drawing(name: str) -> Iterator[None]:
    """Settings within which figures are made and written.

    Args:
      name: of the figure; makes what its SVG calls its parts differ from those of other figures.

    Raises:
      InputError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise InputError(f"Plots need matplotlib: {how_to_install('report')}.") from error
    settings = {
        "text.parse_math": False,  # a label with two dollar signs is no formula
        "svg.fonttype": "none",  # text stays text
        "svg.hashsalt": name,
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlesize": 9.5,
        "xtick.color": INK,
        "ytick.color": INK,
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a label of another script
        yield


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", facecolor="white")


_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}


def write_files(figure: Any, stem: Path) -> list[Path]:
    """Writes a figure as PNG and as SVG, and returns their paths.

    Raises:
      InputError: a file cannot be written.
    """
    paths = [stem.with_name(f"{stem.name}.{ending}") for ending in ("png", "svg")]
    save_figure(figure, paths[0], dpi=150)
    save_figure(figure, paths[1], metadata=_NO_METADATA)
    return paths


def save_figure(figure: Any, path: Path, **options: Any) -> None:
    """Writes a figure in the format that the ending of its name says; follows no link that is in the way.

    Raises:
      InputError: the file cannot be written, or its ending is no format.
    """
    buffer = io.BytesIO()
    try:
        figure.savefig(buffer, format=path.suffix.removeprefix(".").lower(), **options)
        write_atomically(path, [buffer.getvalue()])
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{shown(path)} cannot be written: {reason}.") from error


def inline_svg(figure: Any, name: str) -> str:
    """A figure as an SVG element for a page: as wide as there is room, in the page's colours."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA, transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    # Identifiers are of the whole page: matplotlib calls the axes of every figure axes_1.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-").replace('xlink:href="#', f'href="#{name}-')
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    return svg.replace(INK, "var(--ink)").replace(RULE, "var(--rule)")


def plain_axes(axes: Any) -> None:
    """A light grid behind the data, and no frame above and to the right."""
    axes.grid(True, which="major", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plain_log_axis(axis: Any, ratio: float) -> None:
    """Ticks at round numbers, written out; more of them where little is shown.

    Args:
      axis: one that is logarithmic.
      ratio: of the largest to the smallest value on it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    steps = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if ratio < 15 else (1.0, 2.0, 5.0) if ratio < 1e4 else (1.0,)
    axis.set_major_locator(LogLocator(base=10, subs=steps))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
