"""Errors of meta-training that are not mistakes in what was given. Their messages are one line."""


class DivergedError(RuntimeError):
    """Meta-gradients have not been finite for too long."""


class ExecutorError(RuntimeError):
    """The workers cannot go on; what has been checkpointed is there."""


class ExecutorStoppedError(RuntimeError):
    """The run was asked to stop, and the meta-step under way did not come to its end in time."""


class StorageError(RuntimeError):
    """The run directory cannot be written to any more; what has been checkpointed is there."""
