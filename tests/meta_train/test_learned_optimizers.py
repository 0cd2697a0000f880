"""Every learned optimizer is meta-trained; those that plan ahead are told how long an inner run will be."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mulo
from meta_train import driver, initial_theta, slot
from meta_train.config import MetaTrainConfig
from meta_train.driver import RunOptions, resume, run
from meta_train.executors.local import LocalExecutor
from meta_train.executors.messages import History
from meta_train.initial_theta import keep_initial, read_initial
from meta_train.meta_optimizer import learning_rate_schedule
from meta_train.perturbations import draw_perturbations
from meta_train.presets import PRESETS
from meta_train.programs import build_optimizer, build_programs
from meta_train.run_directory import RunDirectory
from meta_train.schedules import first_steps, steps_left
from meta_train.slot import SlotKeys
from mulo.checkpoint_file import theta_digest
from mulo.errors import CheckpointError, InputError
from tests.meta_train.test_driver import StopAt

TASK = "mlp-w2-d1_digits"


def tiny(preset="quick", **fields):
    small = {"tasks": (TASK,), "validation_tasks": (), "batch_size": 4, "truncation_length": 2}
    small |= {"min_horizon": 2, "max_horizon": 8, "num_pairs": 2, "pairs_per_slot": 2, "hidden_size": 2}
    return PRESETS[preset].replace(**small | fields)


def weights(optimizer, seed=0):
    """A theta, drawn without compiling anything."""
    shapes, generator = jax.eval_shape(optimizer.init_theta, jax.random.key(0)), np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: generator.normal(0, 0.3, leaf.shape).astype(np.float32), shapes)


def trace(config):
    """Shapes of a truncation of the first task: nothing is compiled."""
    theta = jax.eval_shape(build_optimizer(config).init_theta, jax.random.key(0))
    compiled, key = build_programs(config)[config.tasks[0]], jax.random.key(0)
    state = jax.eval_shape(compiled.reset, theta, key)
    return theta, state, jax.eval_shape(compiled.advance, theta, state, SlotKeys(key, key), compiled.source)


@pytest.mark.parametrize("name", PRESETS)
def test_a_truncation_of_every_preset_can_be_traced(name):
    # On digits: the data of the papers are not there.
    config = PRESETS[name].replace(tasks=(TASK,), validation_tasks=(), batch_size=2, initial_theta="")
    theta, state, (gradient, after, _) = trace(config)
    assert gradient == theta and after == state


@pytest.mark.parametrize("name", ["velo", pytest.param("celo", marks=pytest.mark.slow), "celo2"])
def test_a_truncation_can_be_differentiated(name):
    config = tiny(optimizer=name, estimator="analytic")
    theta, state, (gradient, after, _) = trace(config)
    assert gradient == theta and after == state


def test_velo_is_told_the_length_of_its_run_and_the_loss_and_a_lost_slot_is_made_again_to_the_bit():
    config = tiny("velo-quick", lstm_hidden_size=4, num_banks=2, meta_steps=20, seed=1)
    programs = build_programs(config)
    thetas = [weights(build_optimizer(config), seed) for seed in range(5)]
    executor, digests = LocalExecutor(config, programs), []
    begun, left = first_steps(config, 0), steps_left(config, 0)
    assert 2 in begun[:5] and len(set(left[np.unique(begun[:5])])) > 1
    for meta_step, theta in enumerate(thetas):
        (result,) = executor.advance(theta, meta_step)
        (state,) = executor.snapshot()
        progress = state.unrolls.optimizer_state.progress
        assert np.all(progress.num_steps == left[begun[meta_step]])
        assert np.all(progress.losses.count == state.inner_step) and np.all(progress.losses.means[..., 0] > 0)
        digests.append(theta_digest(result.gradient))
    # Another process that has no state: from the beginning of the inner run, with the thetas since.
    other, first = LocalExecutor(config, programs), int(begun[4])
    other.restore([None], 4, History((first,), tuple(thetas[first:4])))
    assert theta_digest(other.advance(thetas[4], 4)[0].gradient) == digests[4]
    # A run that takes the place of one that is lost has the rest of it, no more.
    params = jax.tree.map(lambda p: np.full_like(p, np.nan), state.unrolls.params)
    lost = state._replace(unrolls=state.unrolls._replace(params=params), lost=np.bool_(True))
    other.restore([lost], 1)
    other.advance(thetas[1], 1)
    assert np.all(other.snapshot()[0].unrolls.optimizer_state.progress.num_steps == left[1])


def make_truncation(config):
    """A theta, and a truncation as a function of theta and of the place in the inner run."""
    compiled, theta = build_programs(config)[TASK], weights(build_optimizer(config))
    beginning = jax.device_get(compiled.reset(theta, jax.random.key(1), 0, 4))
    keys = SlotKeys(*jax.random.split(jax.random.key(5)))

    def truncation(theta, inner_step=0):
        state = beginning._replace(inner_step=np.int32(inner_step))
        return compiled.advance(theta, state, keys, compiled.source)

    return theta, truncation


def only_initial_hidden(tree):
    zeros = jax.tree.map(jnp.zeros_like, tree)
    return zeros | {"lstm": zeros["lstm"] | {"initial_hidden": tree["lstm"]["initial_hidden"]}}


def test_an_lstm_begins_with_the_state_that_the_theta_of_its_particle_has(monkeypatch):
    monkeypatch.setattr(
        slot, "draw_perturbations", lambda *args: only_initial_hidden(draw_perturbations(*args))
    )
    theta, truncation = make_truncation(tiny("velo-quick", lstm_hidden_size=4, num_banks=2, estimator="pes"))
    gradient, after, _ = truncation(theta)
    # Nothing else is perturbed: if both halves began alike, this would be zero.
    assert np.all(gradient["lstm"]["initial_hidden"] != 0)
    assert np.all(after.unrolls.optimizer_state.progress.num_steps == 4)
    later, _, _ = truncation(theta, inner_step=2)
    assert not np.any(later["lstm"]["initial_hidden"])


def test_the_analytic_gradient_goes_through_the_first_state_of_an_lstm():
    fields = {"hidden_size": None, "lstm_hidden_size": 4, "step_mult": 0.1, "loss_scale": "none"}
    fields |= {"truncation_length": 3, "min_horizon": 3, "estimator": "analytic"}
    config = tiny("velo-quick", optimizer="celo_adam", **fields)
    theta, truncation = make_truncation(config)
    gradient = truncation(theta)[0]["lstm"]["initial_hidden"]
    direction = np.sign(gradient)

    def meta_loss(size):
        hidden = theta["lstm"]["initial_hidden"] + size * direction
        moved = theta | {"lstm": theta["lstm"] | {"initial_hidden": hidden}}
        return float(truncation(moved)[2].meta_loss)

    slope = (meta_loss(0.2) - meta_loss(-0.2)) / 0.4
    # Losses of 2.6 in float32: their difference is known to about one percent.
    assert np.abs(gradient).sum() == pytest.approx(slope, rel=0.02) and slope > 0
    assert not np.any(truncation(theta, inner_step=3)[0]["lstm"]["initial_hidden"])


@pytest.mark.usefixtures("standard_promotion")
def test_the_second_phase_of_celo_trains_its_schedule_alone_and_goes_on_to_the_same_bits(
    tmp_path, monkeypatch
):
    first = mulo.Celo(hidden_size=2, lstm_hidden_size=4, learned_rate=False)
    theta = weights(first)
    checkpoint = mulo.Checkpoint(optimizer=first, theta=theta, parametrization="sp")
    mulo.save(tmp_path / "first.mulo", checkpoint)
    config = tiny(
        "celo-paper-2",
        lstm_hidden_size=4,
        meta_steps=4,
        learning_rate=0.1,
        weight_decay=1.0,
        initial_theta=str(tmp_path / "first.mulo"),
    )
    run(config, tmp_path / "whole")
    trained = mulo.load(tmp_path / "whole" / "theta.mulo")
    assert trained.optimizer == dataclasses.replace(first, learned_rate=True)
    for key in theta:
        assert (theta_digest(trained.theta[key]) == theta_digest(theta[key])) == (key == "mlp")
    monkeypatch.setattr(driver, "LocalExecutor", StopAt(1))
    run(config, tmp_path / "stopped", RunOptions(checkpoint_interval=1))
    monkeypatch.undo()
    (tmp_path / "first.mulo").unlink()  # a run keeps a copy
    assert trained.provenance["initial_theta_digest"] == theta_digest(theta)
    copy = tmp_path / "stopped" / "initial.mulo"
    kept = copy.read_bytes()
    mulo.save(copy, dataclasses.replace(checkpoint, theta=weights(first, seed=1)), overwrite=True)
    with pytest.raises(CheckpointError, match=r"that began with another theta than its initial\.mulo\.$"):
        resume(tmp_path / "stopped")
    copy.write_bytes(kept)
    assert resume(tmp_path / "stopped").signal_number is None
    assert theta_digest(mulo.load(tmp_path / "stopped").theta) == theta_digest(trained.theta)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (mulo.Celo2(), "is for optimizer 'celo2'; wanted 'celo'"),
        (mulo.Celo(hidden_size=3), r"leaf 'mlp/b0' has shape \(3,\); wanted \(2,\)"),
    ],
)
def test_a_theta_that_does_not_fit_begins_no_run(optimizer, message, tmp_path):
    path = tmp_path / "first.mulo"
    mulo.save(path, mulo.Checkpoint(optimizer=optimizer, theta=weights(optimizer), parametrization="sp"))
    with pytest.raises(CheckpointError, match=message):
        run(tiny("celo-paper-2", initial_theta=str(path)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_was_killed_while_it_was_made_is_none_or_has_the_theta_that_it_begins_with(
    tmp_path, monkeypatch
):
    optimizer = mulo.Celo(hidden_size=2, lstm_hidden_size=4)
    initial = mulo.Checkpoint(optimizer=optimizer, theta=weights(optimizer), parametrization="sp")
    config = tiny("celo-paper-2", lstm_hidden_size=4, initial_theta="elsewhere.mulo")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(initial_theta, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            RunDirectory.create(tmp_path / "before", config, lambda run: keep_initial(initial, run))
    with pytest.raises(InputError, match=r"is not a run"):
        RunDirectory.open(tmp_path / "before")
    with monkeypatch.context() as patch:
        patch.setattr(MetaTrainConfig, "to_json", killed)
        with pytest.raises(KeyboardInterrupt):
            RunDirectory.create(tmp_path / "after", config, lambda run: keep_initial(initial, run))
    assert theta_digest(read_initial(config, RunDirectory(tmp_path / "after")).theta) == theta_digest(
        initial.theta
    )


def test_a_constant_learning_rate():
    schedule = learning_rate_schedule(PRESETS["celo-paper-1"])
    assert [float(schedule(step)) for step in (0, 50_000, 99_999)] == pytest.approx([3e-4] * 3)
