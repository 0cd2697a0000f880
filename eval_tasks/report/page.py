"""The report as one HTML page that fetches nothing: styles, script and pictures are inside it."""

import base64
import hashlib
import importlib.resources
from collections.abc import Mapping, Sequence

from eval_tasks.measures import Part
from eval_tasks.report.canvas import Style, drawing, inline_svg, new_figure
from eval_tasks.report.markup import Markup, element, escape, join
from eval_tasks.report.method import method_section
from eval_tasks.report.plots import Panel
from eval_tasks.report.tables import (
    Table,
    Value,
    aggregate_table,
    divergence_table,
    results_table,
    tuning_table,
    winner_table,
)
from eval_tasks.results import Results

_PANEL_WIDTH = 4.6  # inches; at 96 pixels an inch about what a phone has
_KINDS = {
    "speed-up": (
        "Speed-up",
        "In steps, not seconds. Bar: interquartile mean over tasks; line: 95 % interval.",
    ),
    "scores": ("Scores of the tasks", "Marker: mean over seeds; line: lowest to highest seed."),
    "loss": (
        "Loss against what is varied",
        "Line: mean over seeds; dots: each seed; x on the upper edge: at least one run diverged, so there is "
        "no mean.",
    ),
    "curves": (
        "Training curves",
        "Line: mean over seeds, smoothed; band: lowest to highest seed; x: a run is no longer finite there.",
    ),
}


def make_page(
    results: Results,
    parts: Sequence[Part],
    panels: Mapping[str, Sequence[Panel]],
    styles: Mapping[str, Style],
) -> str:
    """The page.

    Args:
      results: what was read.
      parts: what was measured.
      panels: the pictures of each part, by its title.
      styles: how each optimizer looks.
    """
    script = Markup(_asset("page.js"))
    notes = [*results.notes, *(note for part in parts for note in part.notes)]
    body = element(
        "main",
        element("h1", f"Evaluation of {len(results.labels)} optimizers"),
        _summary(results, parts),
        _navigation(parts),
        _notes(notes),
        *(_part_section(index, part, panels[part.title], styles) for index, part in enumerate(parts)),
        method_section(results, parts),
    )
    head = join([
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        element("meta", name="referrer", content="no-referrer"),
        element("title", "mulo-eval report"),
        element("style", Markup(_asset("page.css"))),
    ])  # fmt: skip
    document = element(
        "html", element("head", head), element("body", body, element("script", script)), lang="en"
    )
    return f"<!DOCTYPE html>\n{document}\n"


def _asset(name: str) -> str:
    return (importlib.resources.files("eval_tasks.report") / name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """Nothing may be fetched, and no script may run but the page's own."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'"
    )


def _summary(results: Results, parts: Sequence[Part]) -> Markup:
    num_runs = sum(len(cell) for row in results.cells.values() for cell in row.values())
    num_tasks = sum(len(part.cells) for part in parts)
    titles = ", ".join(part.title for part in parts)
    references = sorted({part.reference for part in parts if part.reference})
    measured = f" Measured against {' and '.join(references)}." if references else ""
    return element(
        "p", f"{num_runs:,} runs at {num_tasks} tasks; suites: {titles}.{measured} Labels are those of the "
        "results files."
    )  # fmt: skip


def _navigation(parts: Sequence[Part]) -> Markup:
    links = [element("a", part.title, href=f"#part-{index}") for index, part in enumerate(parts)]
    links.append(element("a", "how this was measured", href="#method"))
    return element("nav", element("ul", *(element("li", link) for link in links)), aria_label="Sections")


def _notes(notes: Sequence[str]) -> Markup:
    if not notes:
        return element(
            "p", "Nothing is missing: every optimizer has every seed at every task.", class_="about"
        )
    items = element("ul", *(element("li", note) for note in notes))
    return element("aside", element("h2", "Missing, left out or mixed"), items, class_="notes", id="notes")


def _part_section(index: int, part: Part, panels: Sequence[Panel], styles: Mapping[str, Style]) -> Markup:
    def figures(kind: str) -> Markup:
        return _figures(f"part-{index}", kind, panels)

    return element(
        "section",
        element("h2", part.title),
        _legend(part, styles),
        _table(part, aggregate_table(part)),
        figures("speed-up"),
        figures("scores"),
        figures("loss"),
        _table(part, winner_table(part), tall=True),
        _table(part, divergence_table(part)),
        figures("curves"),
        _table(part, tuning_table(part)),
        _table(part, results_table(part), tall=True),
        id=f"part-{index}",
    )


_MARKERS = {
    "o": '<circle cx="17" cy="7" r="4"/>',
    "s": '<rect x="13.5" y="3.5" width="7" height="7"/>',
    "D": '<path d="M17 2l5 5-5 5-5-5z"/>',
    "^": '<path d="M17 2.5l4.5 8.5h-9z"/>',
    "v": '<path d="M17 11.5L12.5 3h9z"/>',
    "P": '<path d="M15 2h4v3h3v4h-3v3h-4V9h-3V5h3z"/>',
    "*": '<path d="M17 1l1.6 4.3 4.6.2-3.6 2.8 1.2 4.4-3.8-2.5-3.8 2.5 1.2-4.4-3.6-2.8 4.6-.2z"/>',
}
_DASHES = {"-": None, "--": "5 3", ":": "2 2"}


def _legend(part: Part, styles: Mapping[str, Style]) -> Markup:
    items = []
    for label in part.labels:
        look = styles[label]
        line = element("path", d="M0 7H34", stroke=look.colour, stroke_width=2,
                       stroke_dasharray=_DASHES[look.dashes])  # fmt: skip
        sign = element("svg", line, element("g", Markup(_MARKERS[look.marker]), fill=look.colour),
                       viewBox="0 0 34 14", aria_hidden="true")  # fmt: skip
        role = " (reference)" if label == part.reference else ""
        items.append(element("li", sign, element("span", f"{label}{role}")))
    return element("ul", *items, class_="legend", aria_label="Optimizers")


def _figures(prefix: str, kind: str, panels: Sequence[Panel]) -> Markup:
    chosen = [panel for panel in panels if panel.kind == kind]
    if not chosen:
        return Markup()
    title, about = _KINDS[kind]
    drawn = [(panel, _figure(f"{prefix}-{kind}-{place}", panel)) for place, panel in enumerate(chosen)]
    front = [figure for panel, figure in drawn if panel.in_front]
    behind = [figure for panel, figure in drawn if not panel.in_front]
    parts = [
        element("h3", title),
        element("p", about, class_="about"),
        element("div", *front, class_=f"panels {kind}"),
    ]
    if behind:
        summary = element("summary", f"{len(behind)} more, of the smaller values")
        parts.append(element("details", summary, element("div", *behind, class_=f"panels {kind}")))
    return join(parts)


def _figure(name: str, panel: Panel) -> Markup:
    with drawing(name):
        figure = new_figure(_PANEL_WIDTH, panel.height)
        panel.draw(figure.subplots())
        svg = inline_svg(figure, name)
    labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{escape(panel.title)}" ', 1)
    return element("figure", element("h4", panel.title), Markup(labelled), id=name)


def _table(part: Part, table: Table, tall: bool = False) -> Markup:
    headings = [
        element("th", element("button", column, type="button"), scope="col",
                class_="text" if place in table.text_columns else None)
        for place, column in enumerate(table.columns)
    ]  # fmt: skip
    rows = [
        element("tr", *(_cell(value, place in table.text_columns) for place, value in enumerate(row)))
        for row in table.rows
    ]
    grid = element(
        "table", element("thead", element("tr", *headings)), element("tbody", *rows), class_=table.name
    )
    long = tall and len(rows) > 14
    box = element(
        "div",
        grid,
        class_="scroll tall" if long else "scroll",
        tabindex=0,
        role="region",
        aria_label=f"{part.title}: {table.title}",
    )
    return join([
        element("h3", table.title),
        element("p", table.about, class_="about"),
        box,
    ])  # fmt: skip


def _cell(value: Value, is_text: bool) -> Markup:
    classes = " ".join(name for name, given in (("text", is_text), ("best", value.is_best)) if given)
    sort = None if value.number is None else repr(float(value.number))
    return element("td", value.text, class_=classes or None, data_sort=sort)
