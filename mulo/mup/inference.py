"""Finds the muP of a network from its shapes at two widths."""

import math
import warnings

from mulo._types import PyTree
from mulo.errors import InputError
from mulo.mup.evidence import EMBEDDING_OR_OUTPUT, Decision, decide, find_stacks
from mulo.mup.layouts import check_layout
from mulo.mup.networks import LAYOUTS, Shapes, read_network
from mulo.mup.outputs import ask_outputs
from mulo.mup.overrides import Leaf, Overrides
from mulo.mup.roles import Reading, Role
from mulo.mup.shapes import FORMS, LeafRule, MuP
from mulo.names import lookup


def infer(
    target: PyTree,
    base: PyTree,
    delta: PyTree | None = None,
    *,
    overrides: Overrides | None = None,
    other_depth: PyTree | None = None,
    layout: str = "in_out",
    form: str = "mup",
) -> MuP:
    """Finds the muP of a network from its parameters' shapes at two widths.

    A dimension that differs between the widths is infinite; the others are finite. Of a weight, the last
    axis is the fan-out and what is before it the fan-in; of attention kernels (features, heads, head_dim),
    the first is the fan-in. Where that leaves more than one multiplier for a leaf, this is an error, which
    says what the leaf may be; `mulo.mup.readings` says what is taken for granted, `mulo.mup.evidence` what
    leaves say of one another: biases, counterparts, what is stacked beside them. No name is looked at.
    No memory is needed: pass what `jax.eval_shape` returns. Print the result to see what was found.

    Shapes do not say what the forward pass does, so two things are the user's to check:

    - A leaf of role OUTPUT is one to whose result the model applies `mulo.mup.output_multiplier`. A narrow
      layer inside has the same shapes: where it has no such multiplier, give it `Role.HIDDEN`. What looks
      like one (low-rank pairs, bottlenecks, down-projections where only a part of the network grows, what
      is there in every block) is an error that asks; `mulo.mup.outputs` says how it is told.
    - A tied embedding is an INPUT, and the model multiplies the logits; it has no standard form. A network
      without a leaf of role OUTPUT gets a warning there.

    Args:
      target: parameters (arrays or `jax.ShapeDtypeStruct`) of the network to be trained.
      base: the same network at another width; multipliers of Adam and SGD are relative to this one.
      delta: the same network at a third width; needed only where `target` has the base width itself.
      overrides: by path, or pattern of paths as "*/out/kernel", a `mulo.mup.Role`, or a `mulo.mup.Leaf`
        where there is more to say; what it does not say is still inferred.
      other_depth: `base` with another number of layers in its stacks (`nn.scan`, vmapped layers). Axes
        that differ are stacks, neither fan-in nor fan-out, and no other axis is one.
      layout: "in_out" as above; "out_in" where all weights are stored (out, in, ...), as in Equinox.
      form: "mup" for a model written in muP, with its multipliers in the forward pass. "standard" for one
        whose forward pass has none: `mulo.optimizer` and `mulo.init` (others: `mulo.mup.in_mup_form`) then
        train it as if it had them; start it from `mulo.mup.rescale_init`. The factor of an output weight
        is 1/fan-in in both forms. For one that is 1 at base width, so that the base network trains
        as it would without muP, give it `Leaf(forward_multiplier=base_fan_in / fan_in)`.

    Returns:
      MuP, with one record for each leaf of `target`.

    Raises:
      InputError: the trees are no parameters (numbers, modules, functions or statistics among them), differ
        in structure or rank, or name two leaves alike; nothing differs in shape; biases contradict the
        layout; or a leaf is ambiguous.

    >>> import jax.numpy as jnp
    >>> shape = lambda width: {"w": jnp.zeros((3, width)), "v": jnp.zeros((width, width))}
    >>> [(leaf.path, leaf.role.value, leaf.update_multiplier) for leaf in infer(shape(8), shape(4)).leaves]
    [('v', 'hidden', 0.125), ('w', 'input', 1.0)]
    """
    lookup(LAYOUTS, layout, "layout of weights")
    lookup(FORMS, form, "form of muP")
    widths = {"target": target, "base": base} | ({} if delta is None else {"delta": delta})
    network = read_network(widths, other_depth, overrides, layout)
    if not any(leaf.infinite for leaf in network.leaves.values()):
        raise InputError(
            "No parameter differs in shape between the widths, so nothing is known to grow with width. Pass "
            "as `base` (or, to train at base width, as `delta`) the same network at another width."
        )
    network = find_stacks(network)
    check_layout(network)
    decisions = {path: decide(leaf, network) for path, leaf in network.leaves.items()}
    decisions = ask_outputs(network, decisions, layout)
    leaves = tuple(_choose(leaf, decisions[path], form) for path, leaf in network.leaves.items())
    if form == "standard" and not any(leaf.role is Role.OUTPUT for leaf in leaves):
        warnings.warn(_NO_OUTPUT, stacklevel=2)
    return MuP(leaves=leaves, form=form)


_NO_OUTPUT = (
    "No parameter of this network has the role OUTPUT. If its embedding gives the logits too (tied weights), "
    "form='standard' cannot express it: multiply the logits by mulo.mup.output_multiplier(width) in the "
    "model, and infer with form='mup'."
)


def _choose(leaf: Shapes, decision: Decision, form: str) -> LeafRule:
    """The record of one leaf; an error where the possible readings differ in what follows from them."""
    readings = decision.readings
    if leaf.said.role is not None:
        readings = [reading for reading in readings if reading.role is leaf.said.role] or readings
    records = [_record(leaf, reading, leaf.said) for reading in readings]
    effects = {
        (
            record.update_multiplier,
            record.adam_lr_multiplier,
            record.sgd_lr_multiplier,
            record.forward_multiplier if form == "standard" else None,
            record.fan_in_axes if decision.rule == EMBEDDING_OR_OUTPUT else None,
        )
        for record in records
    }
    if len(effects) != 1:
        raise InputError(_ambiguous(leaf, decision))
    return records[0]


def _record(leaf: Shapes, reading: Reading, said: Leaf) -> LeafRule:
    role = said.role or reading.role
    target, base = leaf.shapes[:2]
    weight = role not in (Role.VECTOR, Role.SCALAR)
    own_axes = tuple(axis for axis in range(len(target)) if axis not in reading.stacked)
    fan_out = reading.fan_out if weight else own_axes
    fan_in = reading.fan_in if weight else ()
    return LeafRule(
        path=leaf.path,
        shape=target,
        infinite=leaf.infinite,
        role=role,
        fan_in=math.prod(target[axis] for axis in fan_in),
        base_fan_in=math.prod(base[axis] for axis in fan_in),
        fan_out=math.prod(target[axis] for axis in fan_out),
        base_fan_out=math.prod(base[axis] for axis in fan_out),
        fan_in_axes=fan_in,
        stacked_axes=reading.stacked,
        own_forward_multiplier=said.forward_multiplier,
        lr_multiplier=1.0 if said.lr_multiplier is None else said.lr_multiplier,
    )


def _ambiguous(leaf: Shapes, decision: Decision) -> str:
    readings = decision.readings
    or_depth = (
        "; or, where it may be stacked layers, pass as `other_depth` the shapes of `base` with another "
        "number of layers"
        if any(reading.stacked != leaf.stacked for reading in readings)
        else ""
    )
    may_be = " or ".join(f"{_as_leaf_text(reading)}, {reading.words}" for reading in readings)
    return (
        f"The role of {leaf.path}, shape {leaf.shapes[0]}, cannot be told: its axes {leaf.infinite} grow "
        f"with width ({leaf.shapes[1]} at base width), and it may be {may_be or 'nothing that is known'}. "
        f"Say which with overrides={{{leaf.path!r}: mulo.mup.Leaf(...)}}{or_depth}."
    )


def _as_leaf_text(reading: Reading) -> str:
    stacked = f", stacked_axes={reading.stacked}" if reading.stacked else ""
    return f"Leaf(role=Role.{reading.role.name}, fan_in_axes={reading.fan_in}{stacked})"
