"""What the libraries put into trees beside arrays, known by its class; none of them is imported."""

from typing import Any

import jax

from mulo._types import PyTree

_AROUND_ARRAYS = (("flax", "Variable"), ("flax", "AxisMetadata"))
_NOT_TRAINED = ("BatchStat", "Cache", "Intermediate", "Perturbation", "RngState")  # of Flax NNX
_OUTPUTS_FIRST = ("Linear", "Conv", "ConvTranspose", "GRUCell", "LSTMCell")  # of Equinox


def is_of(node: Any, library: str, *names: str) -> bool:
    """Whether a node's class, or one that it is derived from, has one of these names in the library."""
    return any(
        kind.__name__ in names and kind.__module__.partition(".")[0] == library for kind in type(node).__mro__
    )


def is_around_array(node: Any) -> bool:
    """An NNX variable, or a Linen parameter with sharding metadata."""
    return any(is_of(node, *names) for names in _AROUND_ARRAYS)


def is_complex_pair(node: Any) -> bool:
    """What `optax.contrib.split_real_and_imaginary` makes of a complex array."""
    return is_of(node, "optax", "SplitRealAndImaginaryArrays")


def is_untrained_variable(node: Any) -> bool:
    """An NNX variable that is none of the parameters: statistics, caches, random keys."""
    return is_of(node, "flax", "Variable") and is_of(node, "flax", *_NOT_TRAINED)


def stores_outputs_first(node: Any) -> bool:
    """An Equinox layer with weights (out, in, ...)."""
    return is_of(node, "equinox", *_OUTPUTS_FIRST)


def is_embedding(node: Any) -> bool:
    """An Equinox embedding, of weight (tokens, features)."""
    return is_of(node, "equinox", "Embedding")


def how_to_pass(tree: PyTree) -> str:
    """What to do where a tree has leaves that are not trained; a sentence."""
    nodes: list[Any] = []
    jax.tree.leaves(tree, is_leaf=lambda node: nodes.append(node) or False)
    if any(is_of(node, "equinox", "Module") for node in nodes):
        return "Pass eqx.filter(model, eqx.is_inexact_array), as to optax."
    if any(is_of(node, "flax", "Variable") for node in nodes) or _is_nnx_module(tree):
        return "Pass nnx.state(model, nnx.Param)."
    if is_of(tree, "flax", "Module") or is_of(tree, "haiku", "Transformed", "TransformedWithState"):
        return "Pass the parameters that its `init` returns."
    return "Leave it out of the tree, or of the optimizer with optax.masked or optax.partition."


def _is_nnx_module(tree: PyTree) -> bool:
    return any(kind.__module__.startswith("flax.nnx") for kind in type(tree).__mro__)
