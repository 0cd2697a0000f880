"""Whether what a worker answers can be an answer to what it was asked."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from meta_train.executors.base import SlotResult
from meta_train.executors.messages import Answer, Request, SlotAnswer
from mulo.optimizers.base import PyTree, Theta


def problem_of(
    answer: Any, request: Request, theta: Theta, state_shape: Callable[[int], PyTree]
) -> str | None:
    """What is wrong with an answer, whatever its values are; `None` = nothing.

    Args:
      answer: as it came.
      request: what was asked.
      theta: gradients have its leaves, shapes and dtypes.
      state_shape: slot -> what its state looks like.
    """
    if not isinstance(answer, Answer):
        return f"it answered a {type(answer).__name__}"
    if answer.meta_step != request.meta_step:
        return f"it answered for meta-step {answer.meta_step}, asked for {request.meta_step}"
    asked = {order.slot_index: order for order in request.orders}
    if not isinstance(answer.slots, dict) or set(answer.slots) != set(asked):
        return f"it answered for other slots than {sorted(asked)}"
    for slot_index, slot in answer.slots.items():
        if not isinstance(slot, SlotAnswer):
            return f"slot {slot_index}: a {type(slot).__name__}"
        if (slot.state is None) == asked[slot_index].return_state:
            return f"slot {slot_index}: its state is {'missing' if slot.state is None else 'not asked for'}"
        if slot.state is not None and (problem := _problem_of_tree(slot.state, state_shape(slot_index))):
            return f"slot {slot_index}: its state {problem}"
        if request.theta is not None and (problem := _problem_of_result(slot.result, theta)):
            return f"slot {slot_index}: {problem}"
    return None


def _problem_of_result(result: Any, theta: Theta) -> str | None:
    if not isinstance(result, SlotResult):
        return f"its result is a {type(result).__name__}"
    if (problem := _problem_of_tree(result.gradient, theta)) is not None:
        return f"its gradient {problem}"
    if any(np.shape(value) != () for value in jax.tree.leaves(result.statistics)):
        return "its statistics are not scalars"
    return None


def _problem_of_tree(tree: Any, wanted: Any) -> str | None:
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        return "is another tree than expected"
    for leaf, like in zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True):
        if np.shape(leaf) != like.shape or np.asarray(leaf).dtype != like.dtype:
            got = f"{np.asarray(leaf).dtype}{list(np.shape(leaf))}"
            return f"has a leaf {got}; wanted {like.dtype}{list(like.shape)}"
    return None


def is_finite(result: SlotResult) -> bool:
    """Whether every number of the gradient is."""
    return all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.gradient))


def same_numbers(result: SlotResult, other: SlotResult) -> bool:
    """Whether two workers computed the same, NaN for NaN."""
    pairs = zip(
        jax.tree.leaves((result.gradient, result.statistics)),
        jax.tree.leaves((other.gradient, other.statistics)),
        strict=True,
    )
    return all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
