import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators import ANALYTIC, ES, ES_SINGLE, ESTIMATORS, NRES, PES, antithetic_gradient
from meta_train.objectives import loss_differences
from meta_train.perturbations import draw_perturbations, perturb
from meta_train.presets import PRESETS
from meta_train.schedules import first_steps
from meta_train.slot import SlotKeys, advance, reset
from tests.meta_train.quadratic import empty_source, load_trace, make_program

pytestmark = pytest.mark.optimized

LEAVES = ("log_lr", "one_minus_momentum")


def whole_windows(trace):
    """Windows of the trace in which no trajectory ends: there the reference has no quirk."""
    return [w for w in range(9) if not trace["trace/is_done"][w].any() and trace["trace/mask"][w].all()]


@pytest.mark.numeric
def test_gradient_and_perturbation_sum_match_the_reference():
    trace = load_trace()
    windows = whole_windows(trace)
    assert len(windows) >= 6
    for w in windows:
        perturbations = {leaf: jnp.asarray(trace[f"trace/vec_pos/{leaf}"][w]) for leaf in LEAVES}
        before = {leaf: jnp.asarray(trace[f"trace/accumulator_before/{leaf}"][w]) for leaf in LEAVES}
        losses = jnp.stack([trace[f"trace/{half}_loss"][w] for half in ("pos", "neg")], axis=1)
        gradient = antithetic_gradient(
            loss_differences(losses), PES.directions(before, perturbations), float(trace["trace/std"])
        )
        after = PES.next_sum(before, perturbations)
        for leaf in LEAVES:
            np.testing.assert_allclose(gradient[leaf], trace[f"trace/grad/{leaf}"][w], rtol=1e-5)
            np.testing.assert_allclose(after[leaf], trace[f"trace/accumulator_after/{leaf}"][w], rtol=1e-6)


def estimate_windows(estimator, num_slots=96, num_pairs=512):
    """Meta-gradient of each of three windows, from many independent slots. -> [num_slots, 3, 2]."""
    trace = load_trace()
    program = make_program(trace, float(trace["expect/std"]), num_pairs, estimator)
    theta = {leaf: jnp.asarray(trace[f"trace/theta/{leaf}"]) for leaf in LEAVES}
    source = empty_source()

    @jax.jit
    @jax.vmap
    def one_slot(key):
        state, gradients = reset(program, theta, key, source, 0, 20), []
        for window in range(3):
            drawn_at = window if estimator.redraw else 0
            keys = SlotKeys(jax.random.fold_in(key, drawn_at), jax.random.fold_in(key, 100 + window))
            gradient, state, _ = advance(program, theta, state, keys, source)
            gradients.append(jnp.stack([gradient[leaf] for leaf in LEAVES]))
        return jnp.stack(gradients)

    return np.asarray(one_slot(jax.random.split(jax.random.key(7), num_slots)), np.float64)


def z_scores(estimates, exact, exact_error):
    """Distance of the mean from the exact value, in standard errors."""
    error = np.hypot(estimates.std(axis=0, ddof=1) / np.sqrt(len(estimates)), exact_error)
    return (estimates.mean(axis=0) - exact) / error


def pes_z_scores(estimator):
    trace = load_trace()
    exact, error = (trace[f"expect/pathwise_smoothed_{name}"][:3] for name in ("grad", "stderr"))
    return z_scores(estimate_windows(estimator), exact, error)


@pytest.mark.numeric
def test_pes_agrees_with_the_gradient_of_the_smoothed_meta_loss():
    # Six components; two-sided false alarm 7e-6 each.
    assert np.abs(pes_z_scores(PES)).max() < 4.5


@pytest.mark.numeric
def test_without_the_perturbation_sum_the_check_above_fails():
    truncated = PES._replace(directions=lambda _, perturbations: perturbations)
    assert np.abs(pes_z_scores(truncated)[1:]).max() > 10


def make_window_losses():
    """theta [2] -> the mean loss of each of three windows, [3]; `stop` cuts the gradient before a window."""
    trace = load_trace()
    program = make_program(trace, float(trace["expect/std"]), 1, NRES)
    task, optimizer = program.loop.task, program.loop.optimizer
    theta = jnp.stack([jnp.asarray(trace[f"trace/theta/{leaf}"]) for leaf in LEAVES])
    length = program.loop.truncation_length

    def window_losses(theta, stop=False):
        theta, params, losses = dict(zip(LEAVES, theta, strict=True)), task.p0, []
        state = optimizer.init(theta, params, None, None)
        for step in range(3 * length):
            if stop and step % length == 0:
                params, state = jax.lax.stop_gradient((params, state))
            loss, grads = jax.value_and_grad(task.loss)(params, None, None)
            updates, state = optimizer.update(theta, state, grads, params, None, None)
            params, losses = params + updates, [*losses, loss]
        return jnp.stack(losses).reshape(3, -1).mean(axis=1)

    return window_losses, theta, program.perturbation_std


@functools.cache
def nres_exact(num_samples=200_000):
    """Gradient of each window's loss smoothed by one perturbation a run. -> mean, error, [3, 2]."""
    window_losses, theta, std = make_window_losses()
    noise = std * jax.random.normal(jax.random.key(3), (num_samples, 2))
    samples = np.asarray(jax.jit(jax.vmap(jax.jacobian(window_losses)))(theta[None] + noise), np.float64)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(num_samples)


@pytest.mark.numeric
@pytest.mark.parametrize("estimator", [NRES, ES_SINGLE], ids=["nres", "es_single"])
def test_one_perturbation_a_run_agrees_with_the_gradient_smoothed_by_one(estimator):
    assert np.abs(z_scores(estimate_windows(estimator), *nres_exact())).max() < 4.5


@pytest.mark.numeric
def test_truncated_es_is_unbiased_in_the_first_window_and_biased_later():
    z = np.abs(z_scores(estimate_windows(ES), *nres_exact()))
    assert z[0].max() < 4.5
    assert z[1:].max() > 10


@pytest.mark.numeric
def test_analytic_is_the_gradient_of_each_window_alone():
    window_losses, theta, _ = make_window_losses()
    estimates = estimate_windows(ANALYTIC, num_slots=2, num_pairs=3)
    alone = jax.jacobian(lambda theta: window_losses(theta, stop=True))(theta)
    np.testing.assert_allclose(estimates, np.broadcast_to(alone, estimates.shape), rtol=1e-4)
    # Its bias: in later windows it is not the gradient through the whole run.
    total = jax.jacobian(window_losses)(theta)
    np.testing.assert_allclose(alone[0], total[0], rtol=1e-5)
    assert np.all(np.abs(alone[1:] / total[1:] - 1.0).max(axis=1) > 0.2)


def test_only_es_single_moves_all_slots_in_step():
    for name, estimator in ESTIMATORS.items():
        config = dataclasses.replace(PRESETS["quick"], estimator=name)
        same = np.array_equal(first_steps(config, 0), first_steps(config, 1))
        assert same == estimator.lockstep == (name == "es_single")


def test_pairs_are_antithetic_and_have_the_right_size():
    theta = {"w": jnp.ones((200, 100)), "b": jnp.zeros(3)}
    perturbations = draw_perturbations(jax.random.key(0), theta, 4, 0.01)
    assert perturbations["w"].shape == (4, 200, 100)
    # 80 000 draws: the standard error of the std is 0.25 %.
    assert float(perturbations["w"].std()) == pytest.approx(0.01, rel=0.0125)
    assert not np.array_equal(perturbations["w"][0], perturbations["w"][1])
    thetas = perturb(theta, perturbations)
    np.testing.assert_allclose(thetas["w"].mean(axis=0), np.ones((4, 200, 100)), rtol=1e-6)
    np.testing.assert_allclose(thetas["w"][0] - 1.0, perturbations["w"], rtol=0, atol=1e-7)
