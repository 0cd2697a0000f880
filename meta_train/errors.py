"""Errors of meta-training that are not mistakes in what was given; each message is one line."""


class StoppedError(RuntimeError):
    """A run cannot go on."""


class DivergedError(StoppedError):
    """Meta-gradients have not been finite for too long."""


class StorageError(StoppedError):
    """The run's directory cannot be written any more."""


class ExecutorError(StoppedError):
    """The workers cannot go on; what has been checkpointed is there."""


class InterruptedMetaStepError(RuntimeError):
    """The run was asked to stop, and the meta-step under way did not come to its end in time."""
