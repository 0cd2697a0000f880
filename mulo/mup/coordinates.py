"""The coordinate check: how much training changes each layer's pre-activations, against width.

Tensor Programs V (Yang et al. 2022, arXiv 2203.03466), appendix D.1 and figure 5: under muP the change
after a few steps has the same size at every width; where a model was set up wrongly, it grows or vanishes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mulo._types import Params, PyTree
from mulo.errors import InputError
from mulo.mup.shapes import MuP


class WidthModel(NamedTuple):
    """A network of one width, as three functions and its muP."""

    init: Callable[[jax.Array], Params]  # key -> initial parameters
    loss: Callable[[Params, PyTree], jax.Array]  # params, batch -> scalar
    activations: Callable[[Params, PyTree], Mapping[str, jax.Array]]  # params, batch -> layer -> array
    mup: MuP


@dataclasses.dataclass(frozen=True)
class CoordinateCheck:
    """What `coordinate_check` found. W widths, S seeds, T steps, L layers."""

    widths: tuple[int, ...]
    layers: tuple[str, ...]
    changes: np.ndarray  # [W, S, T, L], float64: root mean square of h_t - h_0, t = 1 ... T
    losses: np.ndarray  # [W, S, T], float64: before each step
    slopes: np.ndarray  # [L], float64: of log change after the last step against log width
    verdicts: tuple[str, ...]  # [L]: "flat", "growing", "vanishing", "no change" or "not finite"
    tolerance: float  # a slope of at most this size is flat

    @property
    def passed(self) -> bool:
        """Whether every layer is flat."""
        return all(verdict == "flat" for verdict in self.verdicts)

    def table(self) -> str:
        """One line for each layer: the change after the last step at each width, slope, verdict."""
        means = _mean_changes(self.changes)
        rows = [("layer", *map(str, self.widths), "slope", "verdict")]
        for index, layer in enumerate(self.layers):
            numbers = (f"{change:.3g}" for change in means[:, index])
            rows.append((layer, *numbers, f"{self.slopes[index]:+.3f}", self.verdicts[index]))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = []
        for row in rows:
            numbers = [cell.rjust(n) for cell, n in zip(row[1:-1], widths[1:-1], strict=True)]
            lines.append("  ".join([row[0].ljust(widths[0]), *numbers, row[-1]]))
        return "\n".join(lines)


def coordinate_check(
    make: Callable[[int], WidthModel],
    optimizer: Callable[[MuP], optax.GradientTransformation],
    batch: PyTree,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    num_steps: int = 5,
    num_seeds: int = 3,
    key: jax.Array | None = None,
    draw_batch: Callable[[jax.Array], PyTree] | None = None,
    tolerance: float = 0.1,
) -> CoordinateCheck:
    """Trains a network at several widths for a few steps, and fits the change of each layer.

    The change is the root mean square, over the batch and the units, of h_t - h_0, with h the
    pre-activations that the model reports; the mean over seeds is fitted. Each width is compiled once, its
    seeds in one program.

    Two things make a slope vanish that is right in the limit. In narrow networks chance adds to the square
    of the change a part of order 1/width: give a batch with something to learn, not random labels, or larger
    widths. And optimizers divide by their epsilons where gradients, which fall as 1/width, are very small:
    scale the loss up.

    Args:
      make: width -> `WidthModel`. Layers have the same names at all widths.
      optimizer: mup -> optax transform; it is passed the loss as `value`. For example
        `lambda mup: mulo.optimizer("mulo-quick", mup=mup)`.
      batch: on which the activations are compared, and the networks trained if there is no `draw_batch`.
      widths: at least two.
      num_steps: updates to make.
      num_seeds: networks trained at each width.
      key: random key; `jax.random.key(0)` if not given.
      draw_batch: key -> batch for one update, where each is to have its own.
      tolerance: the largest slope, up or down, that is flat.

    Returns:
      The changes, slopes and verdicts. "no change": a layer did not change at all at some width.

    Raises:
      InputError: fewer than two widths, no step or seed, or layers that differ between the widths.

    >>> from mulo import mup
    >>> def make(width):
    ...     def init(key, width=width):
    ...         keys = jax.random.split(key)
    ...         return {"u": jax.random.normal(keys[0], (3, width)),
    ...                 "v": jax.random.normal(keys[1], (width, width)) / width**0.5}
    ...     layer = lambda params, x: x @ params["u"] @ params["v"]
    ...     shapes = [jax.eval_shape(lambda n=n: init(jax.random.key(0), n)) for n in (width, 8)]
    ...     return mup.WidthModel(
    ...         init, lambda params, x: layer(params, x).mean(), lambda params, x: {"v": layer(params, x)},
    ...         mup.infer(*shapes))
    >>> muadam = lambda mup_: optax.chain(
    ...     optax.scale_by_sign(), mup.scale_by_mup(mup_, "adam"), optax.scale(-0.1))
    >>> coordinate_check(make, muadam, jnp.ones((4, 3)), widths=(64, 128), num_steps=2).verdicts
    ('flat',)
    """
    widths = tuple(widths)
    _check_settings(widths, num_steps, num_seeds, tolerance)
    key = jax.random.key(0) if key is None else key
    keys = jax.vmap(jax.random.split)(jax.random.split(key, num_seeds))  # [S, 2]: to initialise, to draw
    batches = _draw_batches(draw_batch, keys[:, 1], num_steps)
    models = [make(width) for width in widths]
    layers = _layers(models, widths, batch)
    changes, losses = [], []
    for model in models:
        run = jax.jit(jax.vmap(_make_run(model, optimizer(model.mup), batch, num_steps)))
        change, loss = jax.device_get(run(keys[:, 0], batches))
        changes.append(np.stack([change[layer] for layer in layers], axis=-1).astype(np.float64))
        losses.append(loss.astype(np.float64))
    slopes, verdicts = _judge(widths, _mean_changes(np.stack(changes)), tolerance)
    return CoordinateCheck(
        widths=widths,
        layers=layers,
        changes=np.stack(changes),
        losses=np.stack(losses),
        slopes=slopes,
        verdicts=verdicts,
        tolerance=tolerance,
    )


def _check_settings(widths: tuple[int, ...], num_steps: int, num_seeds: int, tolerance: float) -> None:
    if len(set(widths)) < 2 or min(widths) < 1:
        raise InputError(f"widths are {widths}; wanted at least two different ones, as (64, 128, 256).")
    if num_steps < 1 or num_seeds < 1:
        raise InputError(f"num_steps is {num_steps} and num_seeds {num_seeds}; wanted at least 1 of each.")
    if not tolerance > 0:
        raise InputError(f"tolerance is {tolerance}; wanted a slope above 0, as 0.1.")


def _layers(models: list[WidthModel], widths: tuple[int, ...], batch: PyTree) -> tuple[str, ...]:
    """The names of the layers, in the order in which the model reports them."""
    names: list[tuple[str, ...]] = []
    for model in models:

        def report(key: jax.Array, model: WidthModel = model) -> None:
            names.append(tuple(model.activations(model.init(key), batch)))

        jax.eval_shape(report, jax.random.key(0))
    for width, theirs in zip(widths, names, strict=True):
        if set(theirs) != set(names[0]) or not theirs:
            raise InputError(
                f"The layers at width {width} are {', '.join(theirs) or 'none'}, at width {widths[0]} "
                f"{', '.join(names[0]) or 'none'}; wanted the same at all widths, at least one."
            )
    return names[0]


def _draw_batches(
    draw_batch: Callable[[jax.Array], PyTree] | None, keys: jax.Array, num_steps: int
) -> PyTree | None:
    """The batch of each step of each seed, leaves [S, T, ...]; `None` if all are the one batch.

    Not drawn inside the compiled runs, which would hold the data set that `draw_batch` draws from.
    """
    if draw_batch is None:
        return None
    return jax.vmap(jax.vmap(draw_batch))(jax.vmap(lambda key: jax.random.split(key, num_steps))(keys))


def _make_run(
    model: WidthModel, optimizer: optax.GradientTransformation, batch: PyTree, num_steps: int
) -> Callable[[jax.Array, PyTree | None], tuple[dict[str, jax.Array], jax.Array]]:
    """One run, as a function: key, batches [T, ...] or `None` -> (layer -> changes [T], losses [T])."""
    tx = optax.with_extra_args_support(optimizer)

    def run(key: jax.Array, batches: PyTree | None) -> tuple[dict[str, jax.Array], jax.Array]:
        # The barrier hides from XLA that an output weight is zero: jaxlib 0.10's products with a constant on
        # the CPU can give what was in memory before (seen with a convolutional network of 128 channels).
        params = jax.lax.optimization_barrier(model.init(key))
        before = model.activations(params, batch)

        def step(carry: Any, drawn: PyTree | None) -> tuple[Any, tuple[dict[str, jax.Array], jax.Array]]:
            params, state = carry
            drawn = batch if batches is None else drawn
            loss, grads = jax.value_and_grad(model.loss)(params, drawn)
            updates, state = tx.update(grads, state, params, value=loss)
            params = optax.apply_updates(params, updates)
            after = model.activations(params, batch)
            change = {layer: _root_mean_square(after[layer], before[layer]) for layer in before}
            return (params, state), (change, loss)

        _, (changes, losses) = jax.lax.scan(step, (params, tx.init(params)), batches, length=num_steps)
        return changes, losses

    return run


def _root_mean_square(after: jax.Array, before: jax.Array) -> jax.Array:
    difference = after.astype(jnp.float32) - before.astype(jnp.float32)
    return jnp.sqrt(jnp.mean(jnp.square(difference)))


def _mean_changes(changes: np.ndarray) -> np.ndarray:
    """Over the seeds, after the last step. changes: [W, S, T, L] -> [W, L]."""
    return changes[:, :, -1].mean(axis=1)


def _judge(
    widths: tuple[int, ...], changes: np.ndarray, tolerance: float
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Slopes [L] of the least-squares lines, and what they mean. changes: [W, L]."""
    slopes, verdicts = [], []
    for column in changes.T:
        slope = np.nan
        if not np.all(np.isfinite(column)):
            verdict = "not finite"
        elif not np.all(column > 0):
            verdict = "no change"
        else:
            slope = np.polynomial.polynomial.polyfit(np.log(widths), np.log(column), 1)[1]
            verdict = "flat" if abs(slope) <= tolerance else "growing" if slope > 0 else "vanishing"
        slopes.append(slope)
        verdicts.append(verdict)
    return np.array(slopes), tuple(verdicts)
