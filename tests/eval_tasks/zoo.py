"""One row per model: a small task, and what muP must know of each of its weights, written by hand.

A new model becomes part of the tests of `test_zoo.py` by a row here.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from eval_tasks.data import load_data
from eval_tasks.names import parse_task_name
from eval_tasks.task import Task, make_task
from mulo.mup import Role

load = functools.cache(load_data)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelRow:
    """What a model is. A leaf that is not in `weights` is a vector: bias, gain, or token."""

    task: str  # at width 8
    weights: Mapping[str, tuple[Role, int]]  # path -> role and fan-in, at width 8
    # Of weights that start as if they had another fan-in; `None`: at zero.
    init_fan_in: Mapping[str, int | None] = dataclasses.field(default_factory=dict)
    num_hidden_layers: int = 0  # how many activations there are beside the output
    has_accuracy: bool = True
    has_state: bool = False

    @property
    def model(self) -> str:
        """The model's name."""
        return self.task.split("-w8")[0]

    @property
    def output(self) -> tuple[str, int]:
        """Name and fan-in of the output layer."""
        ((path, fan_in),) = [
            (path, fan_in) for path, (role, fan_in) in self.weights.items() if role == Role.OUTPUT
        ]
        return path.rpartition("/")[0], fan_in

    def make(self, parametrization: str, width: int = 8, base_width: int | None = None) -> Task:
        """The task at a width."""
        return _make(self.task.replace("-w8", f"-w{width}"), parametrization, base_width)

    @functools.cache  # noqa: B019 - rows live as long as the tests
    def params(self) -> Sequence[Any]:
        """Initial parameters in SP, under 20 keys; compiled once."""
        init = jax.jit(self.make("sp").init)
        return [init(key) for key in jax.random.split(jax.random.key(0), 20)]


@functools.cache
def _make(name: str, parametrization: str, base_width: int | None) -> Task:
    return make_task(name, parametrization, load(parse_task_name(name).data_set), base_width)


def block(index: int) -> dict[str, tuple[Role, int]]:
    """The weights of a transformer block of width 8: all of fan-in 8, but for the wide layer's."""
    attention = {f"block_{index}/attention/{name}/kernel": 8 for name in ("query", "key", "value", "out")}
    feed_forward = {f"block_{index}/linear_0/kernel": 8, f"block_{index}/linear_1/kernel": 32}
    return {path: (Role.HIDDEN, fan_in) for path, fan_in in (attention | feed_forward).items()}


TRANSFORMER = {
    "embedding/embedding": (Role.INPUT, 256),
    **block(0),
    "head/kernel": (Role.OUTPUT, 8),
}
LOOK_UP = {"embedding/embedding": 1}  # one of the 256 inputs is not zero
MODEL_ROWS = (
    ModelRow(
        task="mlp-w8-d2_digits",
        weights={
            "mlp/linear_0/w": (Role.INPUT, 64),
            "mlp/linear_1/w": (Role.HIDDEN, 8),
            "mlp/linear_2/w": (Role.OUTPUT, 8),
        },
        num_hidden_layers=2,
    ),
    ModelRow(
        task="autoencoder-w8-d1_digits",
        weights={
            "autoencoder/linear_0/w": (Role.INPUT, 64),
            "autoencoder/linear_1/w": (Role.HIDDEN, 8),
            "autoencoder/linear_2/w": (Role.HIDDEN, 2),
            "autoencoder/linear_3/w": (Role.OUTPUT, 8),
        },
        num_hidden_layers=3,
        has_accuracy=False,
    ),
    ModelRow(
        task="convnet-w8-d2_digits",
        weights={
            "convnet/conv_0/w": (Role.INPUT, 9),
            "convnet/conv_1/w": (Role.HIDDEN, 72),
            "convnet/linear/w": (Role.OUTPUT, 8),
        },
        num_hidden_layers=2,
    ),
    ModelRow(
        task="resnet-w8-d2_digits",
        weights={
            "resnet/stem/w": (Role.INPUT, 9),
            "resnet/block_0_conv_0/w": (Role.HIDDEN, 72),
            "resnet/block_0_conv_1/w": (Role.HIDDEN, 72),
            "resnet/block_1_conv_0/w": (Role.HIDDEN, 72),
            "resnet/block_1_conv_1/w": (Role.HIDDEN, 144),
            "resnet/block_1_shortcut/w": (Role.HIDDEN, 8),
            "resnet/linear/w": (Role.OUTPUT, 16),
        },
        num_hidden_layers=6,
        has_state=True,
    ),
    ModelRow(
        task="vit-w8-d1-h2_digits",
        weights={
            "embedding/kernel": (Role.INPUT, 4),
            "positions": (Role.INPUT, 17),
            **block(0),
            "head/kernel": (Role.OUTPUT, 8),
        },
        init_fan_in={"positions": None},
        num_hidden_layers=7,
    ),
    ModelRow(
        task="transformer-w8-d1-h2_pydoc-8",
        weights=TRANSFORMER,
        init_fan_in=LOOK_UP,
        num_hidden_layers=7,
    ),
    ModelRow(
        task="transformer-learned-w8-d1-h4_pydoc-8",
        weights={**TRANSFORMER, "positions": (Role.INPUT, 8)},
        init_fan_in={**LOOK_UP, "positions": None},
        num_hidden_layers=7,
    ),
    ModelRow(
        task="rnn-w8-d1_pydoc-8",
        weights={
            "embedding/embedding": (Role.INPUT, 256),
            "layer_0/input/kernel": (Role.HIDDEN, 8),
            "layer_0/recurrent_kernel": (Role.HIDDEN, 8),
            "head/kernel": (Role.OUTPUT, 8),
        },
        init_fan_in=LOOK_UP,
        num_hidden_layers=3,
    ),
)
