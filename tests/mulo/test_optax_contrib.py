"""Optax's own tests of contributed optimizers, from the installed wheel, on our transform."""

import contextlib

import jax
import jax.numpy as jnp
import optax.contrib
import pytest
from optax.contrib import _common_test

import mulo
from tests.descriptors import SMALL_FC_H4

TARGETS = (
    _common_test._setup_parabola,
    _common_test._setup_rosenbrock,
    _common_test._setup_matrix_parabola,
    _common_test._setup_mixed_tensor_target,
)
ARGUMENTS = {
    "test_optimizers_accept_extra_args": [{"wrap": False}],
    "test_optimizers": [{"target": target, "dtype": "float32"} for target in TARGETS],
    "test_optimizers_can_be_wrapped_in_inject_hyperparams": [{}],
    "test_preserve_dtype": [{"dtype": "bfloat16"}, {"dtype": "float32"}],
    "test_gradient_accumulation": [{"dtype": "bfloat16"}, {"dtype": "float32"}],
    "test_state_shape_dtype_shard_stability": [
        {"dtype": dtype} for dtype in (jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64)
    ],
    "test_optimizers_accept_learning_rate_schedule_if_type_annotated_as_such": [{}],
}
CASES = [(test, arguments) for test, rows in ARGUMENTS.items() for arguments in rows]


def _case_id(value: object) -> str:
    if isinstance(value, dict):
        return "-".join(getattr(x, "__name__", str(x)).removeprefix("_setup_") for x in value.values())
    return str(value).removeprefix("test_")


def test_optax_has_no_tests_that_we_leave_out():
    theirs = {name.rstrip("0123456789") for name in dir(_common_test.ContribTest) if name.startswith("test")}
    assert theirs == ARGUMENTS.keys()
    assert len(CASES) == 15


@pytest.mark.parametrize(("test", "arguments"), CASES, ids=_case_id)
def test_optax_contrib(monkeypatch, test, arguments):
    monkeypatch.setattr(optax.contrib, "mulo", mulo.optimizer, raising=False)
    # absl's expanded methods keep the function that takes the parameters.
    function = getattr(_common_test.ContribTest, f"{test}0").__wrapped__
    # MultiSteps itself divides a float by an integer.
    lenient = test == "test_gradient_accumulation"
    with jax.numpy_dtype_promotion("standard") if lenient else contextlib.nullcontext():
        function(
            _common_test.ContribTest(f"{test}0"),
            opt_name="mulo",
            opt_kwargs={"source": SMALL_FC_H4.checkpoint(), "learning_rate": 1.0},
            wrapper_name=None,
            wrapper_kwargs=None,
            **arguments,
        )
