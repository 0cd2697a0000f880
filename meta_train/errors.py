"""Errors of meta-training that are not mistakes in what was given."""


class DivergedError(RuntimeError):
    """Meta-gradients have not been finite for too long; the message is one line."""
