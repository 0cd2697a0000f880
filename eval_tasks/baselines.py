"""The optimizers that learned ones are compared with: Adam, tuned and not. The table needs no JAX."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eval_tasks.task import Task
    from eval_tasks.training import InnerOptimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baseline:
    """Adam with decoupled weight decay at a constant learning rate."""

    parametrization: str  # "mup" or "sp"
    learning_rate: float | None  # `None`: tuned
    tuned_at: str  # "each width", "base width" (and used at all of them), or "" where not tuned
    weight_decay: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8


BASELINES: Mapping[str, Baseline] = {
    # What tuning at every width gets: an oracle, not a zero-shot optimizer.
    "adamw": Baseline(parametrization="sp", learning_rate=None, tuned_at="each width", weight_decay=1e-4),
    # What muP gets without a learned optimizer: tuned once, narrow.
    "muadamw": Baseline(parametrization="mup", learning_rate=None, tuned_at="base width", weight_decay=1e-4),
    # What most people do.
    "adam-1e-3": Baseline(parametrization="sp", learning_rate=1e-3, tuned_at="", weight_decay=0.0),
}


def make_adamw(baseline: Baseline, task: "Task") -> "InnerOptimizer":
    """AdamW whose setting is {"learning_rate", "weight_decay"}; under muP a learning rate for each leaf.

    A leaf's learning rate is the setting's times `task.mup.adam_lr_multipliers`; as it multiplies the
    whole step, it multiplies weight decay too. Weight decay 0 makes it Adam.
    """
    import optax

    from eval_tasks.training import InnerOptimizer
    from mulo.mup import scale_by_mup

    def transform(setting: Any) -> optax.GradientTransformation:
        adamw = optax.adamw(
            setting["learning_rate"],
            b1=baseline.b1,
            b2=baseline.b2,
            eps=baseline.eps,
            weight_decay=setting["weight_decay"],
        )
        return optax.chain(adamw, scale_by_mup(task.mup, "adam"))

    def init(setting: Any, params: Any, num_steps: int) -> Any:
        del num_steps
        return transform(setting).init(params)

    def update(setting: Any, state: Any, grads: Any, params: Any, loss: Any) -> tuple[Any, Any]:
        del loss
        return transform(setting).update(grads, state, params)

    return InnerOptimizer(init=init, update=update)
