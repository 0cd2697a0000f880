"""What a checkpoint, a muP, a length, a rate and parameters must be to one another, for both forms."""

import functools
import math
import os
from typing import Any

import jax
import numpy as np

from mulo import _tree
from mulo._types import Params, PyTree
from mulo.checkpoint_file import Checkpoint, check_theta
from mulo.errors import InputError
from mulo.loading import load
from mulo.mup import STANDARD, MuP
from mulo.optimizers._schedule import missing_num_steps
from mulo.optimizers.base import LearnedOptimizer


def resolve(source: Checkpoint | str | os.PathLike) -> Checkpoint:
    """The checkpoint itself, or the one of that name or path.

    Raises:
      InputError: it is none of these, there is no such checkpoint, or its theta does not fit its optimizer.
    """
    if isinstance(source, Checkpoint):
        check_theta(source)
        return source
    if isinstance(source, str | os.PathLike):
        return load(source)
    raise InputError(
        f"The optimizer was given as {type(source).__name__}; wanted the name or path of a checkpoint, or a "
        "mulo.Checkpoint. The parameters come first in mulo.init, and in tx.init with mulo.optimizer."
    )


def choose_mup(checkpoint: Checkpoint, mup: MuP | None) -> MuP:
    """The muP to run with: `mup`, or `STANDARD` for a checkpoint meta-trained in standard parametrization.

    Raises:
      InputError: `mup` is no MuP, or is missing for a checkpoint that was meta-trained under muP.
    """
    if isinstance(mup, MuP):
        return mup
    if mup is not None:
        raise InputError(
            f"mup is of type {type(mup).__name__}; wanted what mulo.mup.infer returns, or mulo.mup.STANDARD."
        )
    if checkpoint.parametrization == "mup":
        raise InputError(
            "This learned optimizer was meta-trained under muP and needs mup, which says what grows with "
            "width. A model as it is, without multipliers: mup=mulo.mup.infer(params, "
            "params_at_another_width, form='standard'), and start from mulo.mup.rescale_init(params, mup). "
            "One written in muP: mup=mulo.mup.infer(params, params_at_another_width). (mulo.mup.STANDARD "
            "leaves muP out: steps are then far too large for all but tiny networks.)"
        )
    return STANDARD


def check_num_steps(learned: LearnedOptimizer, num_steps: int | None) -> None:
    """Refuses a length that is no length, or none where one is needed.

    Raises:
      InputError: as above.
    """
    if num_steps is None:
        if getattr(learned, "needs_num_steps", False):
            raise missing_num_steps(learned.name)
        return
    # optax.inject_hyperparams turns numbers into arrays, whose values cannot be looked at.
    if isinstance(num_steps, jax.Array):
        return
    if isinstance(num_steps, bool) or not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise InputError(f"num_steps is {num_steps!r}; wanted a whole number of updates, at least 1.")


def check_rate(value: Any, name: str) -> None:
    """Refuses a learning rate, or a weight decay, that is neither a number of at least 0 nor a schedule.

    Raises:
      InputError: as above.
    """
    if isinstance(value, MuP):
        raise InputError(f"{name} is a MuP; wanted a number. mup goes by its name: mup=mup.")
    if callable(value) or isinstance(value, jax.core.Tracer):
        return
    is_number = isinstance(value, int | float | np.number | np.ndarray | jax.Array) and not isinstance(
        value, bool
    )
    if not is_number or np.shape(value) != () or not math.isfinite(value) or value < 0:
        raise InputError(
            f"{name} is {value!r}; wanted a finite number of at least 0, or a schedule, a function of the "
            "number of updates made. Updates go downhill as they are, to be added to the parameters."
        )


def check_state(learned: LearnedOptimizer, inner: PyTree, params: Params, restore: str) -> None:
    """Refuses a state that is none of this optimizer, or came back from a file in other containers.

    Args:
      learned: the optimizer.
      inner: its state, as it was given.
      params: that are to be updated.
      restore: how a state that was saved becomes one again, for the error.

    Raises:
      InputError: the state's type, or the first place that differs, by path.
    """
    skeleton = _skeleton(learned)
    if type(inner) is not type(skeleton):
        raise InputError(
            f"The optimizer state is of type {type(inner).__name__}; {learned.name} has "
            f"{type(skeleton).__name__}. {restore}"
        )
    wanted = jax.tree.map(
        lambda x: params if isinstance(x, _Placeholder) else x,
        skeleton,
        is_leaf=lambda x: isinstance(x, _Placeholder),
    )
    difference = _first_difference(jax.tree.structure(inner), jax.tree.structure(wanted), ())
    # Leaves of other names are those of other parameters, of which the optimizer says which.
    if difference is not None and _leaf_names(inner) == _leaf_names(wanted):
        place, has, should = difference
        raise InputError(
            "The optimizer state was initialised for parameters in the structure of other containers, or "
            f"came back from a file in others: {'/'.join(place)} is {has}; wanted {should}. {restore}"
        )


@jax.tree_util.register_static
class _Placeholder:
    """Stands for all parameters; has no leaves."""


@functools.lru_cache(maxsize=32)
def _skeleton(learned: LearnedOptimizer) -> PyTree:
    """A state of the optimizer with a placeholder wherever a tree shaped like the parameters goes."""

    def init() -> PyTree:
        return learned.init(learned.init_theta(jax.random.key(0)), _Placeholder(), 1, None)

    return jax.tree.map(lambda _: 0, jax.eval_shape(init))


def _leaf_names(tree: PyTree) -> list[str]:
    return sorted(_tree.path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree))


def _first_difference(
    found: jax.tree_util.PyTreeDef, wanted: jax.tree_util.PyTreeDef, place: tuple[str, ...]
) -> tuple[tuple[str, ...], str, str] | None:
    """Path to the first node that is another one, what is there and what was wanted; `None` if none is.

    Nodes are alike if they are of one kind, with as many children, and the keys of dictionaries are the same.
    What a box says of its array, such as its sharding, may differ.
    """
    if found == wanted:
        return None
    mine, (kind, keys) = found.node_data() or (None, None), wanted.node_data() or (None, None)
    children, theirs = found.children(), wanted.children()
    if mine[0] is not kind or len(children) != len(theirs) or (kind is dict and mine[1] != keys):
        return place, _node_words(found), _node_words(wanted)
    names = keys if kind is dict else getattr(kind, "_fields", range(len(theirs)))
    pairs = zip(names, children, theirs, strict=True)
    differences = (_first_difference(a, b, (*place, str(name))) for name, a, b in pairs)
    return next((difference for difference in differences if difference is not None), None)


def _node_words(node: jax.tree_util.PyTreeDef) -> str:
    kind, keys = node.node_data() or (None, None)
    if kind is None:
        return "an array"
    if kind is dict:
        return f"a dict with the keys {keys[:5]}{' and more' if len(keys) > 5 else ''}"
    return f"a {kind.__name__} of {len(node.children())}"
