"""The table that a muP prints as."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mulo.mup.shapes import LeafRule, MuP

_WIDTH = 110
_HEADER = ("path", "shape", "infinite", "role", "init std", "forward", "update", "Adam", "SGD")


def summarize(mup: "MuP") -> str:
    """One line for each leaf, at most 110 columns wide; long paths lose their middle."""
    if not mup.leaves:
        return "Standard parametrization: every multiplier is 1."
    rows = [_HEADER, *(_row(leaf) for leaf in mup.leaves)]
    others = [max(len(row[column]) for row in rows) for column in range(1, len(_HEADER))]
    room = max(12, _WIDTH - sum(others) - 2 * len(others))
    widths = [min(room, max(len(row[0]) for row in rows)), *others]
    lines = []
    for row in rows:
        cells = (_shorten(row[0], widths[0]), *row[1:])
        texts = [cell.ljust(width) for cell, width in zip(cells[:4], widths[:4], strict=True)]
        numbers = [cell.rjust(width) for cell, width in zip(cells[4:], widths[4:], strict=True)]
        lines.append("  ".join([*texts, *numbers]).rstrip())
    return "\n".join([*lines, "", _FORMS[mup.form]])


_FORMS = {
    "mup": (
        "muP form: the forward pass of the model multiplies what a leaf gives by `forward`; `update` is for "
        "learned\noptimizers, `Adam` and `SGD` are relative to the base width."
    ),
    "standard": (
        "Standard form: the forward pass has no multipliers. The optimizer sees every leaf divided by "
        "`forward`, as in the\nmuP form, for which the columns are; start from mulo.mup.rescale_init."
    ),
}


def _row(leaf: "LeafRule") -> tuple[str, ...]:
    factors = (
        leaf.init_std,
        leaf.forward_multiplier,
        leaf.update_multiplier,
        leaf.adam_lr_multiplier,
        leaf.sgd_lr_multiplier,
    )
    shape = "x".join(map(str, leaf.shape)) or "()"
    infinite = ",".join(map(str, leaf.infinite)) or "-"
    return (leaf.path, shape, infinite, leaf.role.value, *(f"{factor:.3g}" for factor in factors))


def _shorten(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    kept = width - 1
    return text[: kept // 3] + "…" + text[len(text) - (kept - kept // 3) :]
