"""From the configuration to what each slot runs: tasks, data and jitted functions."""

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax

from eval_tasks.data import load_data
from eval_tasks.data.source import Source, hold_out
from eval_tasks.names import parse_task_name
from eval_tasks.plugins import is_plugin_task
from eval_tasks.task import Task, make_task
from meta_train.config import MetaTrainConfig
from meta_train.estimators import ESTIMATORS
from meta_train.inner_loop import InnerLoop
from meta_train.slot import SlotProgram, advance, reset
from mulo.optimizers import make_optimizer
from mulo.optimizers.base import LearnedOptimizer

_PURPOSES = {"theta": 0, "reset": 1, "perturbation": 2, "unroll": 3, "validation": 4}


@functools.partial(jax.jit, static_argnums=(0, 1))
def addressed_key(seed: int, purpose: str, slot_index: int = 0, meta_step: int = 0) -> jax.Array:
    """The random key of one use; a function of what it is for, so that nothing else can change it."""
    key = jax.random.fold_in(jax.random.key(seed), _PURPOSES[purpose])
    return jax.random.fold_in(jax.random.fold_in(key, slot_index), meta_step)


def compiler_options() -> dict[str, str]:
    """Options of `jax.jit` for all that decides theta: its bits are not to depend on the number of threads.

    On CPUs XLA cuts large elementwise loops into a part for each thread, and compiles other vector code for
    the rest of each part: the last bits then differ between machines of two and of four cores, and
    between one process and workers of one thread. Without that pass they do not. Matrix products use all
    threads as before.
    """
    if jax.default_backend() != "cpu":
        return {}
    return {"xla_disable_hlo_passes": "cpu-parallel-task-assigner"}


def jit(function: Callable, **options: Any) -> Callable:
    """`jax.jit` with `compiler_options`; inside another program the function itself: JAX allows no other."""
    jitted = jax.jit(function, compiler_options=compiler_options(), **options)

    def call(*arguments: Any) -> Any:
        nested = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(arguments))
        return function(*arguments) if nested else jitted(*arguments)

    return call


class CompiledProgram(NamedTuple):
    """The functions of all slots of one task."""

    program: SlotProgram
    source: Any
    reset: Callable  # theta, key, first meta-step, num_steps -> slot_state; for shapes alone without the two
    advance: Callable  # theta, slot_state (donated), keys, source -> gradient, slot_state, statistics


def build_optimizer(config: MetaTrainConfig) -> LearnedOptimizer:
    """The learned optimizer that the configuration trains."""
    return make_optimizer(config.optimizer, config.optimizer_config)


def build_tasks(names: Iterable[str], parametrization: str) -> dict[str, Task]:
    """The tasks called `names`, by name. Reads the data sets, each once.

    Raises:
      InputError: a data set is not there or damaged.
    """
    sources: dict[str, Source] = {}
    tasks = {}
    for name in names:
        source = None
        if not is_plugin_task(name):
            data_set = parse_task_name(name).data_set
            source = sources[data_set] if data_set in sources else load_data(data_set)
            sources[data_set] = source
        tasks[name] = make_task(name, parametrization, source)
    return tasks


def judged_source(config: MetaTrainConfig, source: Any) -> tuple[Any, bool]:
    """Where a task's batches come from, and whether theta is judged by the loss on its validation split.

    If so, that split is a part of what is the training split elsewhere: a theta, and the choice of one,
    leaves the examples unseen that evaluations take validation losses on.
    """
    judge_held_out = config.meta_objective == "validation_loss"
    if judge_held_out and isinstance(source, Source):
        source = hold_out(source)
    return source, judge_held_out


def build_programs(config: MetaTrainConfig) -> dict[str, CompiledProgram]:
    """What the slots of each task run, by task name.

    Raises:
      InputError: a data set is not there or damaged, or a task of another package cannot be made.
    """
    programs = {}
    optimizer = build_optimizer(config)
    weights = dict(zip(config.tasks, config.relative_weights(), strict=True))
    for name, task in build_tasks(config.tasks, config.parametrization).items():
        source, judge_held_out = judged_source(config, task.source)
        program = SlotProgram(
            loop=InnerLoop(
                task=task,
                optimizer=optimizer,
                batch_size=config.batch_size,
                truncation_length=config.truncation_length,
                judge_held_out=judge_held_out,
                augmentation=config.augmentation,
            ),
            estimator=ESTIMATORS[config.estimator],
            num_pairs=config.pairs_per_slot,
            perturbation_std=config.perturbation_std,
            meta_objective=config.meta_objective,
            loss_bound=config.loss_bound * task.guessing_loss,
            loss_scale=config.loss_scale,
            trained_keys=config.trained_keys(),
            weight=weights[name],
        )
        programs[name] = _compile(program, source)
    return programs


def _compile(program: SlotProgram, source: Any) -> CompiledProgram:
    jitted_reset = jit(functools.partial(reset, program))
    return CompiledProgram(
        program=program,
        source=source,
        reset=lambda theta, key, meta_step=0, num_steps=1: jitted_reset(
            theta, key, source, meta_step, num_steps
        ),
        advance=jit(functools.partial(advance, program), donate_argnums=1),
    )


def slot_shapes(config: MetaTrainConfig, programs: dict[str, CompiledProgram]) -> dict[str, Any]:
    """What the state of each task's slots looks like: trees of `jax.ShapeDtypeStruct`. Computes nothing."""

    def reset(task: str) -> Any:
        theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
        return programs[task].reset(theta, addressed_key(config.seed, "reset"))

    return {task: jax.eval_shape(functools.partial(reset, task)) for task in config.tasks}
