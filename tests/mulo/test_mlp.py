"""The three forms in which the per-parameter network is computed give the same numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mulo.optimizers import _features, _mlp
from mulo.optimizers._accumulators import Accumulators, init_accumulators
from mulo.optimizers._features import SMALL_FC_FEATURES, VELO_FEATURES, make_ingredients

pytestmark = pytest.mark.optimized

FEATURES = {"small_fc": SMALL_FC_FEATURES, "velo": VELO_FEATURES}
SHAPES = [(1,), (13,), (7, 5), (5, 7), (6, 6), (3, 11, 2), (3, 3, 4, 9), (9, 1)]
CASES = [*(("small_fc", shape) for shape in SHAPES), ("velo", (13,)), ("velo", (7, 5))]
MORE_CASES = [("small_fc", (6, 6)), ("small_fc", (3, 11, 2)), ("small_fc", (9, 1)), ("small_fc", (5, 7))]

EXP_MULT = 0.5  # large, so that the magnitude counts


def make_inputs(shape, features=SMALL_FC_FEATURES):
    keys = iter(jax.random.split(jax.random.key(0), 20))
    zeros = init_accumulators(jnp.zeros(shape))
    positive = [jax.tree.map(lambda x: jnp.abs(jax.random.normal(next(keys), x.shape)), x) for x in zeros[1:]]
    momenta = jax.tree.map(lambda x: jax.random.normal(next(keys), x.shape), zeros.momenta)
    accumulators = Accumulators(momenta, *positive)
    grad, param = (jax.random.normal(next(keys), shape) for _ in range(2))
    return make_ingredients(accumulators, grad, param, features=features)


def apply(monkeypatch, features, shape, max_unrolled, block_size):
    monkeypatch.setattr(_mlp, "MAX_UNROLLED", max_unrolled)
    monkeypatch.setattr(_mlp, "CPU_BLOCK_SIZE", block_size)
    monkeypatch.setattr(_features, "CPU_BLOCK_SIZE", block_size)
    monkeypatch.setattr(_mlp, "ACCELERATOR_BLOCK_SIZE", block_size)
    monkeypatch.setattr(_features, "ACCELERATOR_BLOCK_SIZE", block_size)
    time = jnp.linspace(-1.0, 1.0, 11) if features is SMALL_FC_FEATURES else None
    mlp = _mlp.init_mlp(jax.random.key(1), features.size + (0 if time is None else len(time)), 8)
    inputs = make_inputs(shape, features)
    return np.asarray(_mlp.apply_mlp(mlp, *inputs, time, features=features, exp_mult=EXP_MULT))


@pytest.mark.parametrize(
    ("name", "shape"),
    [pytest.param(*case, marks=pytest.mark.slow if case in MORE_CASES else ()) for case in CASES],
    ids=str,
)
def test_unit_by_unit_as_matrices_and_block_by_block(name, shape, monkeypatch):
    features = FEATURES[name]
    unrolled = apply(monkeypatch, features, shape, max_unrolled=8, block_size=10**6)
    matrices = apply(monkeypatch, features, shape, max_unrolled=7, block_size=10**6)
    assert unrolled.shape == shape and np.abs(unrolled).max() > 1e-3
    np.testing.assert_allclose(matrices, unrolled, rtol=1e-5, atol=1e-6)
    for block_size in (1, 12, 30) if features is SMALL_FC_FEATURES else (12,):
        blocks = apply(monkeypatch, features, shape, max_unrolled=7, block_size=block_size)
        np.testing.assert_allclose(blocks, matrices, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
def test_mean_squares_are_those_of_the_features(name, shape, monkeypatch):
    ingredients, _ = make_inputs(shape, FEATURES[name])
    arrays = _mlp.element_features(ingredients)
    assert len(arrays) == len(FEATURES[name].element_rows)
    expected = [np.mean(np.square(array, dtype=np.float64)) for array in arrays]
    for block_size in (1, 12, 10**6) if name == "small_fc" else (12,):
        monkeypatch.setattr(_features, "CPU_BLOCK_SIZE", block_size)
        monkeypatch.setattr(_features, "ACCELERATOR_BLOCK_SIZE", block_size)
        np.testing.assert_allclose(_features.mean_squares(ingredients), expected, rtol=1e-5)


@pytest.mark.parametrize("name", FEATURES)
def test_the_network_is_that_of_normalised_features_written_out(name, monkeypatch):
    shape, layout = (7, 5), FEATURES[name]
    ingredients, along_axes = make_inputs(shape, layout)
    features = np.zeros((layout.size, *shape))
    for rows, arrays in (
        (layout.element_rows, _mlp.element_features(ingredients)),
        (layout.row_rows, along_axes.row),
        (layout.col_rows, along_axes.col),
    ):
        for row, array in zip(rows, arrays, strict=True):
            features[row] = array
    features /= np.sqrt(1e-5 + np.square(features).mean(axis=(1, 2), keepdims=True))
    inputs = [*features]
    if layout is SMALL_FC_FEATURES:
        inputs += [np.full(shape, x) for x in np.linspace(-1.0, 1.0, 11)]
    mlp = _mlp.init_mlp(jax.random.key(1), len(inputs), 8)
    mlp = {name: np.asarray(x, np.float64) for name, x in mlp.items()}
    hidden = np.einsum("i...,ij->...j", inputs, mlp["w0"])
    hidden = np.maximum(np.maximum(hidden, 0) @ mlp["w1"], 0) @ mlp["w2"]
    ours = apply(monkeypatch, layout, shape, max_unrolled=8, block_size=10)
    expected = hidden[..., 0] * np.exp(EXP_MULT * hidden[..., 1])
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_reverse_mode_of_a_written_out_network_is_that_of_matrices_in_numbers_and_size(monkeypatch):
    mlp = _mlp.init_mlp(jax.random.key(1), 39, 8)
    inputs, time = make_inputs((7, 5)), jnp.linspace(-1.0, 1.0, 11)

    def gradient(max_unrolled):
        monkeypatch.setattr(_mlp, "MAX_UNROLLED", max_unrolled)

        def total(mlp):
            return jnp.sum(
                _mlp.apply_mlp(mlp, *inputs, time, features=SMALL_FC_FEATURES, exp_mult=EXP_MULT) ** 2
            )

        forward, both = (len(str(jax.make_jaxpr(f)(mlp))) for f in (total, jax.grad(total)))
        return jax.grad(total)(mlp), forward, both

    unrolled, forward_size, both_size = gradient(8)
    matrices, _, matrices_size = gradient(0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), unrolled, matrices)
    assert both_size < forward_size + matrices_size  # unit by unit it would be several times as much
