"""Errors of meta-training that are not mistakes in what was given; each message is one line."""


class StoppedError(RuntimeError):
    """A run cannot go on."""


class DivergedError(StoppedError):
    """Meta-gradients have not been finite for too long."""


class StorageError(StoppedError):
    """The run's directory cannot be written any more."""
