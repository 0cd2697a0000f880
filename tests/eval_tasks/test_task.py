from pathlib import Path

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eval_tasks.data import load_data
from eval_tasks.data.source import draw_batch
from eval_tasks.models.mlp import MLP
from eval_tasks.models.parametrization import PARAMETRIZATIONS
from eval_tasks.task import make_task
from mulo.errors import InputError
from mulo.mup import STANDARD, Role, infer

GOLDEN = Path(__file__).parents[1] / "golden" / "mup_models.npz"
CUT_STD = 0.8796  # standard deviation of a normal cut at two


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


def golden_tree(arrays, prefix):
    """`prefix/mu_mlp/~/linear_0/w` -> our name, `mlp/linear_0` and `w`."""
    tree = {}
    for key in arrays.files:
        if key.startswith(prefix + "/"):
            *_, layer, leaf = key.split("/")
            tree.setdefault(f"mlp/{layer}", {})[leaf] = arrays[key]
    return tree


def golden_mlp(widths=(16, 24, 32)):
    def logits(images):
        return MLP(widths, 5, PARAMETRIZATIONS["mup"], input_multiplier=2.0, output_multiplier=3.0)(images)

    return hk.without_apply_rng(hk.transform(logits))


def test_forward_pass_and_gradient_match_the_reference():
    with np.load(GOLDEN) as arrays:
        params = golden_tree(arrays, "mumlp/params")
        image, label = arrays["mumlp/batch/image"], arrays["mumlp/batch/label"]
        wanted_loss, wanted_grads = arrays["mumlp/loss"], golden_tree(arrays, "mumlp/grads")
    model = golden_mlp()

    def loss_fn(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, image), label).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    np.testing.assert_allclose(loss, wanted_loss, rtol=1e-5)
    assert jax.tree.structure(grads) == jax.tree.structure(wanted_grads)
    for got, wanted in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted_grads), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.sqrt(np.mean(np.square(wanted))))


def test_update_multipliers_match_the_reference():
    with np.load(GOLDEN) as arrays:
        image, wanted = arrays["mumlp/batch/image"], golden_tree(arrays, "mumlp/mup_lrs")
    target, base = (
        jax.eval_shape(golden_mlp(widths).init, jax.random.key(0), image)
        for widths in ((16, 24, 32), (8, 12, 16))
    )
    multipliers = infer(target, base).update_multipliers(target)
    hidden = {layer for layer in wanted if wanted[layer]["w"] != 1}
    for layer, leaves in multipliers.items():
        # The reference was recorded with hidden_lr_mult = 0.5, a factor on hidden weights that is 1 here.
        np.testing.assert_allclose(
            leaves["w"] * (0.5 if layer in hidden else 1.0), wanted[layer]["w"], rtol=1e-6
        )
        assert leaves["b"] == wanted[layer]["b"] == 1


@pytest.mark.parametrize("parametrization", ["mup", "sp"])
@pytest.mark.parametrize("width", [64, 256])
def test_initial_parameters(digits, parametrization, width):
    task = make_task(f"mlp-w{width}-d2_digits", parametrization, digits)
    params = jax.jit(task.init)(jax.random.key(0))
    assert [params[f"mlp/linear_{i}"]["w"].shape for i in range(3)] == [
        (64, width),
        (width, width),
        (width, 10),
    ]
    for i, fan_in in enumerate((64, width, width)):
        weight = params[f"mlp/linear_{i}"]["w"]
        assert not np.any(params[f"mlp/linear_{i}"]["b"])
        if i == 2 and parametrization == "mup":
            assert not np.any(weight)
            continue
        # Standard error of a standard deviation is below 1/sqrt(2 n) of it; four of them.
        np.testing.assert_allclose(
            np.std(weight) * np.sqrt(fan_in), CUT_STD, rtol=4 / np.sqrt(2 * weight.size)
        )
        assert np.max(np.abs(weight)) <= 2 / np.sqrt(fan_in)


def test_mup_knows_roles_and_base_width(digits):
    mup = make_task("mlp-w64-d2_digits", "mup", digits, base_width=16).mup
    roles = {leaf.path: leaf.role for leaf in mup.leaves}
    assert [roles[f"mlp/linear_{i}/w"] for i in range(3)] == [Role.INPUT, Role.HIDDEN, Role.OUTPUT]
    assert roles["mlp/linear_1/b"] == Role.VECTOR
    adam = {leaf.path: leaf.adam_lr_multiplier for leaf in mup.leaves}
    assert adam["mlp/linear_1/w"] == 16 / 64
    assert adam["mlp/linear_0/w"] == adam["mlp/linear_2/w"] == 1


def test_mup_at_its_own_base_width_and_at_width_one(digits):
    for width in (64, 1):
        mup = make_task(f"mlp-w{width}-d2_digits", "mup", digits).mup
        (hidden,) = [leaf for leaf in mup.leaves if leaf.role == Role.HIDDEN]
        assert (hidden.update_multiplier, hidden.adam_lr_multiplier) == (1 / width, 1.0)


def test_sp_has_no_multipliers(digits):
    assert make_task("mlp-w8-d1_digits", "sp", digits).mup is STANDARD


def test_loss_starts_at_log_of_classes_and_logits_shrink_with_width_under_mup(digits):
    task = make_task("mlp-w8-d2_digits", "mup", digits)
    batch = draw_batch(digits, "train", jax.random.key(0), 32)
    loss = task.loss(jax.jit(task.init)(jax.random.key(0)), jax.random.key(0), batch)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)


def test_accuracy_counts_the_right_ones(digits):
    task = make_task("mlp-w8-d1_digits", "sp", digits)
    params = jax.tree.map(jnp.zeros_like, jax.jit(task.init)(jax.random.key(0)))
    params["mlp/linear_1"]["b"] = jnp.zeros(10).at[3].set(1.0)
    batch = draw_batch(digits, "train", jax.random.key(0), 200)
    np.testing.assert_allclose(
        task.accuracy(params, jax.random.key(0), batch), np.mean(batch.label == 3), rtol=1e-6
    )


def test_a_task_trains_inside_jit_scan_and_vmap_without_the_data_compiled_in(digits):
    task = make_task("mlp-w8-d1_digits", "sp", digits)

    def train(source, key):
        def step(params, key):
            batch = draw_batch(source, "train", key, 32)
            loss, grads = jax.value_and_grad(task.loss)(params, key, batch)
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), loss

        init_key, steps_key = jax.random.split(key)
        return jax.lax.scan(step, task.init(init_key), jax.random.split(steps_key, 40))[1]

    over_seeds = jax.jit(jax.vmap(train, in_axes=(None, 0)))
    keys = jax.random.split(jax.random.key(0), 2)
    losses = over_seeds(digits, keys)
    assert losses.shape == (2, 40)
    assert np.all(losses[:, -5:].mean(1) < 0.7 * losses[:, 0])
    consts = jax.make_jaxpr(train)(digits, keys[0]).consts
    assert sum(np.size(const) for const in consts) < 1438


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mlp-w8-d1_cifar10", "sp"), "was given the data set 'digits'; wanted 'cifar10'"),
        (("mlp-w8-d1_digits", "mop"), "No parametrization is called 'mop'. Did you mean"),
        (("mlp-w8_digits", "sp"), "is no task name"),
    ],
)
def test_wrong_arguments(digits, arguments, message):
    with pytest.raises(InputError, match=message):
        make_task(*arguments, source=digits)


def test_a_wrong_base_width(digits):
    with pytest.raises(InputError, match="The width of a task is 0"):
        make_task("mlp-w8-d1_digits", "mup", digits, base_width=0)
