"""What a learned optimizer is: pure functions of theta, its weights.

To write a new one, imitate `small_fc.py`: a frozen dataclass whose fields are the configuration
(numbers, strings and truth values only, so that a checkpoint header can hold them), the methods below, a
row in `mulo.optimizers.OPTIMIZERS`, its fields in `mulo.optimizers.descriptions`, and a row in
`tests/descriptors.py`.

Theta is an argument of every method, never an attribute: meta-training maps over many thetas with
`jax.vmap`, scans over steps, and resumes exactly.
"""

from typing import Any, Protocol

import jax

from mulo._types import Params as Params
from mulo._types import PyTree as PyTree
from mulo._types import Theta as Theta
from mulo._types import Updates as Updates


class LearnedOptimizer(Protocol):
    """The contract. Instances are hashable, so that they can be static arguments of `jax.jit`."""

    @property
    def name(self) -> str:
        """Its key in `mulo.optimizers.OPTIMIZERS`."""
        ...

    def config(self) -> dict[str, Any]:
        """The fields that `mulo.optimizers.make_optimizer` needs to build it again."""
        ...

    def init_theta(self, key: jax.Array) -> Theta:
        """Initial weights, float32, from a random key."""
        ...

    def init(self, theta: Theta, params: Params, num_steps: int | None, mup: PyTree | None) -> PyTree:
        """State before the first step. Maps over the tree only: `params` may have no leaves at all.

        `mup` as for `update`: what is kept depends on which axes of a leaf are stacked, or fan-in.

        No array of it depends on both `theta` and `num_steps`.
        """
        ...

    def with_num_steps(self, state: PyTree, num_steps: Any) -> PyTree:
        """The state of a run that is to have another length, with all that follows from it; may be traced.

        The same bits where the length is what it was. Only optimizers that plan ahead have this method.
        """
        ...

    def update(
        self, theta: Theta, state: PyTree, grads: PyTree, params: Params, loss: Any, mup: PyTree | None
    ) -> tuple[Updates, PyTree]:
        """One step.

        Args:
          theta: weights of the optimizer.
          state: from `init` or the last `update`.
          grads: shaped like `params`.
          params: current parameters, before the step.
          loss: scalar, the loss that `grads` are of; optimizers that do not use it take `None`.
          mup: shaped like `params`: the `mulo.mup.LeafRule` of each leaf, as `MuP.rules` gives it; `None`
            without muP. A leaf's records are static: they say which tensors a leaf is made of, what their
            roles are, and the factor on their steps.

        Returns:
          Updates to be added to `params`, each in its parameter's dtype; the next state. A tensor whose
          gradient has no finite entry gets no step, and its statistics stay; the state's `num_nonfinite`
          counts entries that were not finite.
        """
        ...
