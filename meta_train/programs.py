"""From the configuration to what each slot runs: tasks, data and jitted functions."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from eval_tasks.data import load_data
from eval_tasks.data.source import DataSource
from eval_tasks.names import parse_task_name
from eval_tasks.task import make_task
from meta_train.config import MetaTrainConfig
from meta_train.estimators import ESTIMATORS
from meta_train.inner_loop import InnerLoop
from meta_train.slot import SlotProgram, advance, reset
from mulo.optimizers import make_optimizer
from mulo.optimizers.base import LearnedOptimizer

_PURPOSES = {"theta": 0, "reset": 1, "perturbation": 2, "unroll": 3}


def addressed_key(seed: int, purpose: str, slot_index: int = 0, meta_step: int = 0) -> jax.Array:
    """The random key of one use; a function of what it is for, so that nothing else can change it."""
    key = jax.random.fold_in(jax.random.key(seed), _PURPOSES[purpose])
    return jax.random.fold_in(jax.random.fold_in(key, slot_index), meta_step)


class CompiledProgram(NamedTuple):
    """The functions of all slots of one task."""

    program: SlotProgram
    source: DataSource
    reset: Callable  # theta, key -> slot_state
    advance: Callable  # theta, slot_state (donated), keys, source -> gradient, slot_state, statistics


def build_optimizer(config: MetaTrainConfig) -> LearnedOptimizer:
    """The learned optimizer that the configuration trains."""
    return make_optimizer(config.optimizer, config.optimizer_config)


def build_programs(config: MetaTrainConfig) -> dict[str, CompiledProgram]:
    """What the slots of each task run, by task name. Reads the data sets, each once.

    Raises:
      InputError: a data set is not there or damaged.
    """
    sources, programs = {}, {}
    optimizer = build_optimizer(config)
    for name in config.tasks:
        data_set = parse_task_name(name).data_set
        if data_set not in sources:
            sources[data_set] = load_data(data_set)
        source = sources[data_set]
        task = make_task(name, config.parametrization, source)
        program = SlotProgram(
            loop=InnerLoop(task, optimizer, config.batch_size, config.truncation_length),
            estimator=ESTIMATORS[config.estimator],
            num_pairs=config.pairs_per_slot,
            perturbation_std=config.perturbation_std,
            meta_objective=config.meta_objective,
            loss_bound=config.loss_bound * math.log(source.num_classes),
        )
        step = jax.jit(functools.partial(advance, program), donate_argnums=1)
        programs[name] = CompiledProgram(
            program=program,
            source=source,
            reset=jax.jit(functools.partial(reset, program)),
            advance=step,
        )
    return programs
