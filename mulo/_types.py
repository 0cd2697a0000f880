"""Names for what the signatures pass around; all of them are pytrees of arrays."""

from typing import Any

PyTree = Any
Theta = PyTree  # the weights of a learned optimizer
Params = PyTree  # the weights of the network that it trains
Updates = PyTree  # shaped like Params; *added* to them
