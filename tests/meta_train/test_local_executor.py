import dataclasses

import jax
import numpy as np
import pytest

from meta_train.executors.local import LocalExecutor
from meta_train.presets import PRESETS
from meta_train.programs import build_optimizer, build_programs
from mulo.checkpoint_file import theta_digest

pytestmark = pytest.mark.optimized

CONFIG = dataclasses.replace(
    PRESETS["quick"],
    tasks=("mlp-w2-d1_digits",),
    batch_size=4,
    hidden_size=2,
    truncation_length=2,
    min_horizon=40,
    max_horizon=40,
    num_pairs=2,
    pairs_per_slot=1,
)


def test_a_slot_is_decided_by_seed_slot_and_meta_step_whatever_others_there_are():
    programs = build_programs(CONFIG)
    theta = build_optimizer(CONFIG).init_theta(jax.random.key(0))

    def digests(**changes):
        """Of the gradient of each slot at two meta-steps."""
        executor = LocalExecutor(dataclasses.replace(CONFIG, **changes), programs)
        steps = [executor.advance(theta, meta_step) for meta_step in range(2)]
        return [[theta_digest(result.gradient) for result in results] for results in steps]

    two, three, other_seed = digests(), digests(num_pairs=3), digests(seed=1)
    assert two == [step[:2] for step in three]
    all_of_them = [digest for step in three + other_seed for digest in step]
    assert len(set(all_of_them)) == 10


def lose(state):
    """The same state with every parameter NaN."""
    params = jax.tree.map(lambda p: np.full_like(p, np.nan), state.unrolls.params)
    return state._replace(unrolls=state.unrolls._replace(params=params))


# What becomes of a slot is the same with every estimator; PES keeps a sum that must be left behind too.
@pytest.mark.parametrize(
    "estimator", ["pes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("nres", "analytic"))]
)
def test_a_slot_lost_to_nan_begins_a_new_run_and_the_others_go_on(estimator):
    config = dataclasses.replace(CONFIG, estimator=estimator)
    executor = LocalExecutor(config, build_programs(config))
    theta = build_optimizer(config).init_theta(jax.random.key(0))
    executor.advance(theta, 0)
    first, second = executor.snapshot()
    executor.restore([lose(first), second], 1)
    results = executor.advance(theta, 1)
    assert [float(result.statistics.clipped_fraction) for result in results] == [1.0, 0.0]
    assert [bool(state.lost) for state in executor.snapshot()] == [True, False]
    results = executor.advance(theta, 2)
    assert [float(result.statistics.clipped_fraction) for result in results] == [0.0, 0.0]
    first, second = executor.snapshot()
    assert (int(first.inner_step), int(first.first_step)) == (2, 2)
    assert int(second.inner_step) > 2 or int(second.first_step) > 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(first))


def test_a_reused_perturbation_is_that_of_the_run_that_began_last():
    executor = LocalExecutor(CONFIG, build_programs(CONFIG))
    theta = build_optimizer(CONFIG).init_theta(jax.random.key(0))
    executor.advance(theta, 0)
    lost = [lose(state) for state in executor.snapshot()]
    executor.restore(lost, 1)
    executor.advance(theta, 1)
    gradients = [executor.advance(theta, meta_step)[0].gradient for meta_step in (2, 3)]
    # One pair: each gradient is a multiple of the perturbation.
    first, second = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(g)]) for g in gradients)
    cosine = first @ second / np.linalg.norm(first) / np.linalg.norm(second)
    assert abs(cosine) == pytest.approx(1.0, abs=1e-5)
