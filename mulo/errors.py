"""The errors that a user can cause; command lines print them as one line and exit with 2."""


class InputError(ValueError):
    """Something given by the user is wrong; the message says what, where, got, wanted, and what to do."""


class CheckpointError(InputError):
    """A checkpoint file is missing, damaged, hostile, of another format version or for something else."""
