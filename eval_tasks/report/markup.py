"""HTML from values: all text is escaped unless it is `Markup` already."""

import html
from collections.abc import Iterable


class Markup(str):
    """HTML that is ready to be put into a page."""


def escape(value: object) -> Markup:
    """Text as HTML; `Markup` as it is.

    >>> escape("<b>"), escape(Markup("<b>"))
    ('&lt;b&gt;', '<b>')
    """
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def join(parts: Iterable[object]) -> Markup:
    """Several things one after the other."""
    return Markup("".join(escape(part) for part in parts))


_VOID = {"meta", "br", "hr"}


def element(tag: str, *children: object, **attributes: object) -> Markup:
    """An element; `class_` is written class, and `data_sort` data-sort; attributes that are `None` are not.

    >>> element("td", "a < b", class_="text")
    '<td class="text">a &lt; b</td>'
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    end = "" if tag in _VOID else f"{join(children)}</{tag}>"
    return Markup(f"<{tag}{written}>{end}")
