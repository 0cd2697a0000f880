"""The inputs of SmallFC's network against width: how far epsilons that are absolute numbers change them.

    python -m benchmarks.feature_scale

MLPs of several widths are trained under muP by a released optimizer, from the same seeds. At some steps the
features of each weight are taken twice from the same gradients and accumulators: as the optimizer takes
them, and as `SmallFC(scale_free=True)` would. What is written is the root mean square of each feature, before
it is normalised and as the network gets it: 1, unless the normaliser's epsilon counts.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import mulo
from benchmarks.measure import finish
from eval_tasks.data import load_data
from eval_tasks.names import TaskName
from eval_tasks.task import Task, make_task
from mulo.optimizers.small_fc import feature_scales

WIDTHS = (64, 128, 256, 512, 1024, 2048)
STEPS = (10, 50)
GROUPS: Mapping[str, Sequence[int]] = {
    "gradient": (0,),
    "parameter": (1,),
    "momenta": (2, 3, 4),
    "second moment": (5,),
    "momenta / root of second moment": (6, 7, 8),
    "1 / root of second moment": (9,),
    "gradient / factored root": (10, 11, 12),
    "momenta / factored root": (25, 26, 27),
    "rows and columns": (13, 14, 15, 16, 17, 18),
    "1 / root of rows and columns": (19, 20, 21, 22, 23, 24),
}
"""The 28 features of a parameter, by their rows of the first layer's weights."""


def make_run(task: Task, checkpoint: mulo.Checkpoint, batch_size: int) -> Callable[..., Any]:
    """Compiles source, key, step -> loss at that step of the run, {leaf: [scale_free, 2, 28]}."""
    optimizer, theta = checkpoint.optimizer, checkpoint.theta

    def advance(source: Any, key: jax.Array, index: jax.Array, carry: tuple[Any, Any]) -> tuple[Any, ...]:
        params, state = carry
        batch = task.draw_batch(source, "train", jax.random.fold_in(key, index), batch_size)
        loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
        updates, state = optimizer.update(theta, state, grads, params, loss, task.mup.rules(params))
        return (optax.apply_updates(params, updates), state), grads, loss

    def at_step(source: Any, key: jax.Array, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        params = task.init(key)
        carry = jax.lax.fori_loop(
            0,
            step,
            lambda index, carry: advance(source, key, index, carry)[0],
            (params, optimizer.init(theta, params, None, task.mup.rules(params))),
        )
        (_, state), grads, loss = advance(source, key, step, carry)
        params, rules = carry[0], task.mup.rules(carry[0])
        both = [
            _by_path(feature_scales(state, grads, params, scale_free=scale_free, mup=rules))
            for scale_free in (False, True)
        ]
        return loss, {path: jnp.concatenate([scales[path] for scales in both]) for path in both[0]}

    return jax.jit(at_step)


def _by_path(tree: Any) -> dict[str, jax.Array]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def measure(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One record for each width, step, leaf and setting of scale_free."""
    checkpoint, source = mulo.load(arguments.optimizer), load_data(arguments.data_set)
    records = []
    for width in arguments.widths:
        task = make_task(TaskName("mlp", width, arguments.depth, arguments.data_set), "mup", source)
        at_step = make_run(task, checkpoint, arguments.batch_size)
        for step in arguments.steps:
            keys = jax.random.split(jax.random.key(0), arguments.repeats)
            runs = [jax.device_get(at_step(source, key, jnp.int32(step))) for key in keys]
            loss = float(np.mean([loss for loss, _ in runs]))
            for path in runs[0][1]:
                # Geometric: before they are normalised the features span orders of magnitude.
                scales = np.exp(np.mean([np.log(scales[path] + 1e-30) for _, scales in runs], axis=0))
                for scale_free in (False, True):
                    before, after = scales[int(scale_free)]
                    records.append({
                        "width": width, "step": step, "leaf": path, "scale_free": scale_free, "loss": loss,
                        "least": float(after.min()), "before": _rounded(before), "after": _rounded(after),
                    })  # fmt: skip
            print(f"width {width}, step {step}: loss {loss:.4g}", flush=True)  # noqa: T201
    return records


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def draw(records: Sequence[Mapping[str, Any]], leaf: str, path: Path) -> None:
    """One leaf's features against width: a row for each step, as they are taken and scale-free."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    steps = sorted({record["step"] for record in records})
    figure = Figure(figsize=(14, 4.2 * len(steps) + 1), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(steps), 4, squeeze=False, sharex=True)
    for row, step in zip(panels, steps, strict=True):
        row[1].sharey(row[0])
        row[3].sharey(row[2])
        columns = [(scale_free, stage) for stage in ("before", "after") for scale_free in (False, True)]
        for axes, (scale_free, stage) in zip(row, columns, strict=True):
            some = [r for r in records if (r["step"], r["leaf"], r["scale_free"]) == (step, leaf, scale_free)]
            _draw_panel(axes, some, stage)
            words = "scale_free" if scale_free else "default"
            stages = {"before": "before the normaliser", "after": "as the network gets it"}
            axes.set_title(f"step {step}, {words}: {stages[stage]}", loc="left", fontsize=9)
        row[0].set_ylabel(f"RMS of each feature, {leaf}")
    for axes in panels[-1]:
        axes.set_xlabel("width")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Any, records: Sequence[Mapping[str, Any]], stage: str) -> None:
    from matplotlib import colormaps

    widths = [record["width"] for record in records]
    for index, (group, rows) in enumerate(GROUPS.items()):
        for place, row in enumerate(rows):
            axes.plot(
                widths,
                [record[stage][row] for record in records],
                color=colormaps["tab10"](index),
                linewidth=1,
                label=None if place else group,
            )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def main(argv: list[str] | None = None) -> None:
    """Measures, prints, draws and writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.feature_scale", description=__doc__)
    parser.add_argument("--optimizer", default="mulo-quick", help="SmallFC checkpoint that trains")
    parser.add_argument("--data-set", default="digits")
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=list(WIDTHS))
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS), help="where to look")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--num-seeds", type=int, default=3, dest="repeats", help="runs at each width")
    parser.add_argument("--leaf", default="mlp/linear_1/w", help="whose features are drawn")
    parser.add_argument("--plot", type=Path, default=Path("docs/feature-scale.png"))
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results/NAME-DATE.json")
    arguments = parser.parse_args(argv)
    records = measure(arguments)
    arguments.plot.parent.mkdir(parents=True, exist_ok=True)
    draw(records, arguments.leaf, arguments.plot)
    finish("feature_scale", arguments, records)


if __name__ == "__main__":
    main()
