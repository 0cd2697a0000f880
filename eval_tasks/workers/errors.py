"""What can go wrong with a cluster that was there. Imports nothing."""


class ClusterLostError(Exception):
    """The cluster does not answer any more."""
