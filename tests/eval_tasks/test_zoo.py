"""What every model promises, in SP and muP."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval_tasks.baselines import FAMILIES, make_baseline
from eval_tasks.models import MODELS
from eval_tasks.models.parametrization import PARAMETRIZATIONS
from eval_tasks.names import parse_task_name
from eval_tasks.task import make_task
from eval_tasks.training import make_program
from mulo.mup import STANDARD, Role
from tests.eval_tasks.test_task import CUT_STD
from tests.eval_tasks.zoo import MODEL_ROWS

EACH_ROW = pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: row.model)
EACH_PARAMETRIZATION = pytest.mark.parametrize("parametrization", ["sp", "mup"])
KEY = jax.random.key(0)


def name_of(path):
    return jax.tree_util.keystr(path, simple=True, separator="/")


def by_path(params):
    return {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def batch_of(task, batch_size, seed=1):
    return task.draw_batch(task.source, "train", jax.random.key(seed), batch_size)


def test_every_model_has_a_row():
    assert {row.model for row in MODEL_ROWS} == set(MODELS)


@EACH_ROW
def test_the_name_says_it_all(row):
    for parametrization in ("sp", "mup"):
        assert row.make(parametrization).name == row.task == str(parse_task_name(row.task))


@EACH_ROW
def test_roles_and_multipliers_of_every_leaf(row):
    task = row.make("mup", base_width=16)
    params = jax.eval_shape(task.init, KEY)
    leaves = {leaf.path: leaf for leaf in task.mup.leaves}
    assert leaves.keys() == by_path(params).keys() >= row.weights.keys()
    for path, leaf in leaves.items():
        assert (leaf.role, leaf.fan_in) == row.weights.get(path, (Role.VECTOR, 1)), path
        axes = tuple(range(len(leaf.shape) - 1)) if path in row.weights else ()
        assert (leaf.fan_in_axes, leaf.stacked_axes) == (axes, ()), path
        hidden = leaf.role == Role.HIDDEN
        assert leaf.update_multiplier == (1 / leaf.fan_in if hidden else 1.0), path
        assert leaf.adam_lr_multiplier == (2.0 if hidden else 1.0), path  # half the base width
    assert row.make("sp").mup is STANDARD


@pytest.mark.parametrize(
    ("model", "inside", "last"),
    [
        pytest.param(
            "resnet-w8-d4{}_digits", r".*_conv_.*", r".*_conv_1_norm/.*", marks=pytest.mark.slow, id="resnet"
        ),
        ("vit-w8-d4-h2{}_digits", r"block_.*", r"block_\d/(attention/out|linear_1)/.*"),
        ("transformer-w8-d4-h2{}_pydoc-8", r"block_.*", r"block_\d/(attention/out|linear_1)/.*"),
    ],
)
def test_residual_branches_scaled_with_depth(model, inside, last):
    """Each of four branches counts half with "sqrt", a quarter with "linear": as if its last layer did."""
    plain = make_task(model.format(""), "mup")
    # Output weights that are not zero.
    params = jax.tree.map(lambda p: p + 0.1 * jax.random.normal(KEY, p.shape), plain.init(KEY))
    batch = batch_of(plain, 4)
    before = plain.loss(params, KEY, batch)
    for residual, branch, rate in (("-rsqrt", 0.5, 0.5), ("-rlinear", 0.25, 1.0)):
        task = make_task(model.format(residual), "mup", plain.source)
        shrunk = jax.tree_util.tree_map_with_path(
            lambda path, p, branch=branch: p * branch if re.fullmatch(last, name_of(path)) else p, params
        )
        loss = task.loss(params, KEY, batch)
        assert loss == pytest.approx(float(plain.loss(shrunk, KEY, batch)), rel=1e-6)
        assert abs(loss - before) > 1e-4
        for leaf in task.mup.leaves:  # the root asks for a smaller learning rate too
            assert leaf.adam_lr_multiplier == (rate if re.fullmatch(inside, leaf.path) else 1.0), leaf.path


def test_mup_starts_as_sp_does_but_for_its_outputs():
    sp, mup = (PARAMETRIZATIONS[name].init_std for name in ("sp", "mup"))
    for role, wanted in (*((role, 1.0) for role in (Role.INPUT, Role.HIDDEN)), (Role.OUTPUT, 0.0)):
        assert (sp(role, 16), mup(role, 16)) == (0.25, 0.25 * wanted)


@EACH_ROW
def test_initial_parameters(row):
    for path, leaf in by_path(jax.tree.map(lambda *leaves: jnp.stack(leaves), *row.params())).items():
        role, fan_in = row.weights.get(path, (Role.VECTOR, 1))
        fan_in = row.init_fan_in.get(path, fan_in)
        assert leaf.dtype == jnp.float32
        if path.endswith("scale"):
            np.testing.assert_array_equal(leaf, 1.0)
        elif role == Role.VECTOR or fan_in is None:
            np.testing.assert_array_equal(leaf, 0.0)
        else:
            # The standard error of a standard deviation is below 1/sqrt(2 n) of it; five, for many leaves.
            tolerance = 5 / np.sqrt(2 * leaf.size)
            np.testing.assert_allclose(np.std(leaf) * np.sqrt(fan_in), CUT_STD, rtol=tolerance, err_msg=path)


@EACH_ROW
@EACH_PARAMETRIZATION
def test_promotes_no_types_and_ranks_and_keeps_its_state(row, parametrization):
    task = row.make(parametrization)  # under the strict flags of tests/conftest.py
    params, state = jax.eval_shape(task.init, KEY), jax.eval_shape(task.init_state)
    batch = jax.eval_shape(lambda: batch_of(task, 3))
    (loss, new_state), grads = jax.eval_shape(
        jax.value_and_grad(task.loss_and_state, has_aux=True), params, state, KEY, batch
    )
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert (new_state, grads) == (state, params)
    assert bool(state) == row.has_state
    scores = jax.eval_shape(task.evaluate, params, state, KEY, batch)
    assert all((score.shape, score.dtype) == ((), jnp.float32) for score in scores)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=pytest.mark.slow if row.model == "resnet" else ()) for row in MODEL_ROWS],
    ids=lambda row: row.model,
)
def test_training_begins_at_guessing_and_learns(row):
    task = row.make("mup")
    program = make_program(
        task, make_baseline(FAMILIES["adam"], task, 100), num_steps=100, batch_size=32, map_settings=False
    )
    setting = {"learning_rate": jnp.float32(0.03)}
    outcome, again = (program(task.source, setting, jax.random.split(KEY, 2)) for _ in range(2))
    assert program._cache_size() == 1
    jax.tree.map(np.testing.assert_array_equal, outcome, again)
    first, last = np.mean(outcome.losses[:, 0]), np.mean(outcome.losses[:, -5:])
    # The output is zero; of a squared error the batch still varies.
    np.testing.assert_allclose(first, task.guessing_loss, rtol=1e-5 if row.has_accuracy else 0.1)
    assert last < 0.95 * first  # loose: 100 steps at one rate for all models, the convolutions the slowest
    assert np.all(outcome.losses[0, 1:] != outcome.losses[1, 1:])  # two seeds
    accuracy = np.mean(outcome.validation_accuracy)
    assert np.isfinite(accuracy) == (task.accuracy is not None) == row.has_accuracy


@EACH_ROW
def test_sp_begins_near_guessing_and_a_step_downhill_helps(row):
    task = row.make("sp")
    params, batch = row.params()[0], batch_of(task, 64)

    @jax.jit
    def losses(params):
        loss, grads = jax.value_and_grad(task.loss)(params, KEY, batch)
        return loss, task.loss(jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), KEY, batch)

    before, after = losses(params)
    # SP's outputs are not zero but of order one: so near to guessing, and no nearer.
    np.testing.assert_allclose(before, task.guessing_loss, rtol=0.2)
    assert after < before - 0.005  # far above rounding; how much one step helps differs between models


@EACH_ROW
def test_mup_is_sp_with_smaller_outputs_and_attention(row):
    """With the same weights only 1/fan_in on the output and 1/d, not 1/sqrt(d), in attention differ."""
    mup, sp = row.make("mup"), row.make("sp")
    params, batch = row.params()[0], batch_of(sp, 3)
    head_dim = 8 / (parse_task_name(row.task).heads or 1)

    def shrink(path, leaf):
        return leaf / np.float32(np.sqrt(head_dim)) if "query" in jax.tree_util.keystr(path) else leaf

    got = jax.jit(mup.activations)(params, batch)
    wanted = jax.jit(sp.activations)(jax.tree_util.tree_map_with_path(shrink, params), batch)
    output, fan_in = row.output
    for layer in got:
        factor = np.sqrt(head_dim) if "query" in layer else 1 / fan_in if layer == output else 1.0
        np.testing.assert_allclose(got[layer], wanted[layer] * factor, atol=1e-5, err_msg=layer)
    assert np.std(wanted[output]) > 0.01


@EACH_ROW
def test_activations_have_the_same_names_at_all_widths_and_grow_with_it(row):
    shapes = []
    for width in (8, 16):
        task = row.make("mup", width)
        params = jax.eval_shape(task.init, KEY)
        shapes.append(jax.eval_shape(task.activations, params, jax.eval_shape(lambda t=task: batch_of(t, 3))))
    narrow, wide = shapes
    output, _ = row.output
    assert narrow.keys() == wide.keys()
    hidden = narrow.keys() - {output}
    assert len(hidden) == row.num_hidden_layers == len(narrow) - 1
    assert all(x.shape[0] == 3 and x.dtype == jnp.float32 for x in narrow.values())
    assert all(wide[layer].shape[-1] == 2 * narrow[layer].shape[-1] for layer in hidden)
    assert wide[output].shape == narrow[output].shape


def test_activations_are_taken_before_the_nonlinearity_and_after_the_multiplier():
    (row,) = [row for row in MODEL_ROWS if row.model == "mlp"]
    task = row.make("mup")
    params, batch = row.params()[0], batch_of(task, 3)
    layers = list(task.activations(params, batch).values())
    weights = [params[f"mlp/linear_{index}"]["w"] for index in range(3)]
    np.testing.assert_allclose(layers[1], jax.nn.relu(layers[0]) @ weights[1], atol=1e-5)
    np.testing.assert_allclose(layers[2], jax.nn.relu(layers[1]) @ weights[2] / 8, atol=1e-5)


@pytest.mark.parametrize("row", [row for row in MODEL_ROWS if row.has_state], ids=lambda row: row.model)
def test_validation_uses_the_running_averages(row):
    task = row.make("sp")
    params, batch = row.params()[0], batch_of(task, 64)
    step, evaluate = jax.jit(task.loss_and_state), jax.jit(task.evaluate)
    state = initial = task.init_state()
    for _ in range(100):
        loss, state = step(params, state, KEY, batch)
    # The averages have become the batch's own moments.
    assert evaluate(params, state, KEY, batch).loss == pytest.approx(float(loss), rel=1e-4)
    assert evaluate(params, initial, KEY, batch).loss != pytest.approx(float(loss), rel=1e-3)
    # The loss of an example does not depend on the rest of the batch, as it does in training.
    ones = [jax.tree.map(lambda x, i=i: x[i : i + 1], batch) for i in range(8)]
    few = jax.tree.map(lambda x: x[:8], batch)
    alone = np.mean([evaluate(params, state, KEY, one).loss for one in ones])
    assert evaluate(params, state, KEY, few).loss == pytest.approx(alone, rel=1e-5)
    assert task.loss(params, KEY, few) != pytest.approx(alone, rel=1e-3)


TEXT_ROWS = [row for row in MODEL_ROWS if "pydoc" in row.task]


@pytest.mark.parametrize("row", TEXT_ROWS, ids=lambda row: row.model)
def test_text_models_do_not_see_what_follows_and_tell_order(row):
    task = row.make("sp")
    params, batch = row.params()[0], batch_of(task, 1)
    if "positions" in params:
        params["positions"] = jax.random.normal(KEY, params["positions"].shape)
    logits = jax.jit(lambda tokens: task.activations(params, batch._replace(tokens=tokens))["head"])
    tokens = jnp.array([[1, 2, 3, 4, 5, 6, 7, 8]], jnp.int32)
    later, swapped = tokens.at[0, 5].set(99), tokens[:, jnp.array([1, 0, 2, 3, 4, 5, 6, 7])]
    np.testing.assert_allclose(logits(later)[:, :5], logits(tokens)[:, :5], atol=1e-6)
    assert np.max(np.abs(logits(later)[:, 5:] - logits(tokens)[:, 5:])) > 0.01
    assert np.max(np.abs(logits(swapped)[:, -1] - logits(tokens)[:, -1])) > 1e-4


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_the_number_of_heads_changes_neither_roles_nor_fan_in(heads):
    (row,) = [row for row in MODEL_ROWS if row.model == "transformer-learned"]
    task = row.make("mup")
    assert make_task(row.task.replace("-h4", f"-h{heads}"), "mup", task.source).mup == task.mup
