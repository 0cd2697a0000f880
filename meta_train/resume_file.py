"""Everything that `--resume` needs, in one checkpoint file."""

import os
from typing import Any, NamedTuple

import jax
import numpy as np

from meta_train.config import MetaTrainConfig
from meta_train.executors.messages import History
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer
from meta_train.slot import SlotState
from meta_train.validation import Best, no_best
from mulo.checkpoint_file import fit, read_file, to_body, write_file
from mulo.errors import CheckpointError
from mulo.optimizers.base import PyTree, Theta

_KIND = "run-state"
_SLACK_BYTES = 2**21
"""Of the header, and of what stands in the file beside the numbers of arrays."""

_LEAF_SLACK_BYTES = 2**10
"""The same, for each array: its name, shape and dtype."""


class ResumeState(NamedTuple):
    """What the outer loop carries from one meta-step to the next."""

    theta: Theta
    meta_optimizer_state: PyTree
    slot_states: list[SlotState | None]  # one a slot, in slot order; `None` only with a history
    best: Best  # by validation
    history: History | None = None  # `None`: all slots are where theta is


class Identity(NamedTuple):
    """What a checkpoint is of: it is in the file, whatever the file is called, and wherever it lies."""

    config: MetaTrainConfig
    meta_step: int  # meta-steps that were made before it
    initial_digest: str = ""  # of the theta that the run was given to begin with; "" = none was given


def write_resume_file(path: str | os.PathLike[str], state: ResumeState, identity: Identity) -> None:
    """Writes the state after some meta-steps; whole or not at all."""
    header: dict[str, Any] = {
        "config_digest": identity.config.digest(),
        "initial_theta_digest": identity.initial_digest,
        "meta_step": identity.meta_step,
    }
    thetas: tuple[Theta, ...] = ()
    if state.history is not None:
        header["slot_meta_steps"] = list(state.history.meta_steps)
        header["slots_with_state"] = [slot_state is not None for slot_state in state.slot_states]
        thetas = state.history.thetas
    body = to_body(state._replace(history=None)) | ({"thetas": to_body(thetas)} if thetas else {})
    write_file(path, kind=_KIND, header=header, body=body)


def read_resume_file(
    path: str | os.PathLike[str], identity: Identity, programs: dict[str, CompiledProgram]
) -> ResumeState:
    """Reads what `write_resume_file` wrote.

    Raises:
      CheckpointError: the file is damaged, belongs to another configuration or meta-step, or its run began
        with another theta; or it does not say so.
    """
    config = identity.config

    def expected() -> ResumeState:
        theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
        return ResumeState(
            theta=theta,
            meta_optimizer_state=make_meta_optimizer(config).init(theta),
            slot_states=[
                programs[task].reset(theta, addressed_key(config.seed, "reset")) for task in config.slots()
            ],
            best=no_best(theta),
        )

    wanted = jax.eval_shape(expected)
    theta_bytes = _num_bytes(wanted.theta)
    header, body = _read(path, identity, _num_bytes(wanted) + config.meta_steps * theta_bytes + _SLACK_BYTES)
    if header.get("initial_theta_digest") != identity.initial_digest:
        raise CheckpointError(f"{path} is of a run that began with another theta than its initial.mulo.")
    meta_steps, with_state = _history_fields(path, header, identity)
    thetas = {}
    if meta_steps is not None:
        thetas = body.pop("thetas", thetas)
        pairs = zip(wanted.slot_states, with_state, strict=True)
        wanted = wanted._replace(slot_states=[state if there else None for state, there in pairs])
    # An inner run may have exploded: its parameters may be infinite, and are to be restored as they were.
    state = fit(body, wanted, str(path), finite=False)
    if meta_steps is None:
        return state
    num_thetas = len(thetas) if isinstance(thetas, dict) else 0
    if num_thetas != identity.meta_step - min(meta_steps):
        raise CheckpointError(f"{path}: the thetas that its slots have seen are missing.")
    thetas = fit(thetas, (wanted.theta,) * num_thetas, f"{path}: thetas")
    return state._replace(history=History(meta_steps, thetas))


def read_theta(path: str | os.PathLike[str], identity: Identity) -> Theta:
    """Reads theta alone from what `write_resume_file` wrote, whatever its run began with.

    Raises:
      CheckpointError: the file is damaged, or belongs to another configuration or meta-step.
    """
    # How large the slots are is not known without their data. Reading takes twice the bytes of the file.
    _, body = _read(path, identity, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2)
    expected = jax.eval_shape(build_optimizer(identity.config).init_theta, jax.random.key(0))
    return fit(body.get("theta"), expected, str(path))


def _read(
    path: str | os.PathLike[str], identity: Identity, max_bytes: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    header, body = read_file(path, kind=_KIND, max_bytes=max_bytes)
    if header.get("config_digest") != identity.config.digest():
        raise CheckpointError(f"{path} belongs to another configuration than the config.json of its run.")
    meta_step = header.get("meta_step")
    if type(meta_step) is not int:
        raise CheckpointError(f"{path} does not say after which meta-step it was written.")
    if meta_step != identity.meta_step:
        raise CheckpointError(
            f"{path} was written after meta-step {meta_step}, and its name says {identity.meta_step}; it was "
            "renamed or copied."
        )
    if not 0 <= meta_step <= identity.config.meta_steps:
        raise CheckpointError(
            f"{path} is of meta-step {meta_step}, and the run ends with {identity.config.meta_steps}."
        )
    return header, body


def _history_fields(
    path: str | os.PathLike[str], header: dict[str, Any], identity: Identity
) -> tuple[tuple[int, ...] | None, list[bool]]:
    """The age of each slot's state, and whether there is one; `None` = all are where theta is."""
    if "slot_meta_steps" not in header:
        return None, []
    fields = header["slot_meta_steps"], header.get("slots_with_state")
    num_slots = len(identity.config.slots())
    for values, kind in zip(fields, (int, bool), strict=True):
        if not isinstance(values, list) or [type(value) for value in values] != [kind] * num_slots:
            raise CheckpointError(f"{path}: its header does not say how old the state of each slot is.")
    if not all(0 <= value <= identity.meta_step for value in fields[0]):
        raise CheckpointError(f"{path}: its header has a slot that is beyond its meta-step.")
    return tuple(fields[0]), fields[1]


def _num_bytes(tree: PyTree) -> int:
    """At most so many bytes stand in a file for a tree."""
    leaves = jax.tree.leaves(tree)
    return sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize + _LEAF_SLACK_BYTES for leaf in leaves)
