"""The theta that a run begins with, where the configuration names one."""

import dataclasses

from meta_train.config import MetaTrainConfig
from meta_train.programs import build_optimizer
from meta_train.run_directory import RunDirectory
from mulo.checkpoint_file import Checkpoint, bind, save, theta_digest, to_body
from mulo.loading import load


def read_initial(config: MetaTrainConfig, directory: RunDirectory | None = None) -> Checkpoint | None:
    """What `initial_theta` names, as a checkpoint of the optimizer that is trained; `None` = nothing.

    Fields of that optimizer that do not decide the shapes of theta may be others than those of the file.

    Args:
      config: of the run.
      directory: of a run that has begun, which keeps a copy; the file may have changed since.

    Raises:
      CheckpointError: there is no such file, it is for another optimizer, or its arrays do not fit.
    """
    if not config.initial_theta:
        return None
    path = config.initial_theta if directory is None else directory.initial_path
    found = load(path, expect=config.optimizer)
    optimizer = build_optimizer(config)
    _, theta = bind(config.optimizer, optimizer.config(), to_body(found.theta), str(path))
    return dataclasses.replace(found, optimizer=optimizer, theta=theta)


def keep_initial(initial: Checkpoint | None, directory: RunDirectory) -> None:
    """Writes the copy that a run keeps of what it begins with, if it was given something.

    Raises:
      CheckpointError: it cannot be written.
    """
    if initial is not None:
        save(directory.initial_path, initial)


def initial_digest(initial: Checkpoint | None) -> str:
    """SHA-256 of the theta that a run was given to begin with, hexadecimal; "" = none was given.

    The configuration has its path alone, where another theta may be by now.
    """
    return "" if initial is None else theta_digest(initial.theta)
