"""Everything that `--resume` needs, in one checkpoint file."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from meta_train.config import MetaTrainConfig
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.programs import CompiledProgram, addressed_key, build_optimizer
from meta_train.slot import SlotState
from meta_train.validation import Best, no_best
from mulo.checkpoint_file import fit, read_file, to_body, write_file
from mulo.errors import CheckpointError
from mulo.optimizers.base import PyTree, Theta

_KIND = "run-state"
_MAX_BYTES = 2**30


class ResumeState(NamedTuple):
    """What the outer loop carries from one meta-step to the next."""

    theta: Theta
    meta_optimizer_state: PyTree
    slot_states: list[SlotState]  # one a slot, in slot order
    best: Best  # by validation


def write_resume_file(path: Path, state: ResumeState, config: MetaTrainConfig) -> None:
    """Writes the state after some meta-steps; whole or not at all."""
    write_file(path, kind=_KIND, header={"config_digest": config.digest()}, body=to_body(state))


def read_resume_file(
    path: Path, config: MetaTrainConfig, programs: dict[str, CompiledProgram]
) -> ResumeState:
    """Reads what `write_resume_file` wrote.

    Raises:
      CheckpointError: the file is damaged, or belongs to another configuration.
    """
    body = _read_body(path, config)

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

    # An inner run may have exploded: its parameters may be infinite, and are to be restored as they were.
    return fit(body, jax.eval_shape(expected), str(path), finite=False)


def read_theta(path: Path, config: MetaTrainConfig) -> Theta:
    """Reads theta alone from what `write_resume_file` wrote.

    Raises:
      CheckpointError: the file is damaged, or belongs to another configuration.
    """
    body = _read_body(path, config)
    expected = jax.eval_shape(build_optimizer(config).init_theta, jax.random.key(0))
    return fit(body.get("theta"), expected, str(path))


def _read_body(path: Path, config: MetaTrainConfig) -> dict[str, Any]:
    header, body = read_file(path, kind=_KIND, max_bytes=_MAX_BYTES)
    if header.get("config_digest") != config.digest():
        raise CheckpointError(f"{path} belongs to another configuration than the config.json of its run.")
    return body
