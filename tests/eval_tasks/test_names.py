import subprocess
import sys

import pytest

from eval_tasks.names import TaskName, parse_task_name
from mulo.errors import InputError


@pytest.mark.parametrize(
    "name",
    [
        "mlp-w128-d3_cifar10-16",
        "mlp-w1-d1_digits",
        "mlp-w32-d2_cifar10",
        "vit-w64-d4-h4_cifar10-16",
        "transformer-w128-d2-h8_pydoc",
        "transformer-learned-w8-d1-h1_my_book.txt-32",
        "rnn-w5-d1_tinyshakespeare",
        "resnet-w8-d4-rsqrt_digits",
        "transformer-w16-d2-h2-rlinear_pydoc",
    ],
)
def test_parsing_and_printing_are_inverse(name):
    assert str(parse_task_name(name)) == name


def test_the_number_of_heads_may_be_left_out_and_is_said():
    assert str(parse_task_name("vit-w64-d4_digits")) == "vit-w64-d4-h4_digits"


def test_parts():
    assert parse_task_name("mlp-w128-d3_cifar10-16") == TaskName("mlp", 128, 3, "cifar10-16")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp-w-8-d2_digits", "The width in task name 'mlp-w-8-d2_digits' is '-8'"),
        ("mlp-w0-d2_digits", "The width .* is '0'; wanted a whole number from 1"),
        ("mlp-w08-d2_digits", "The width .* is '08'"),
        ("mlp-w1.5-d2_digits", "The width .* is '1.5'"),
        ("mlp-w-d2_digits", "The width .* is ''"),
        ("mlp-w٣-d2_digits", "The width"),
        ("mlp-w8-d-1_digits", "The depth .* is '-1'"),
        ("mlp-w9999999-d2_digits", "The width of a task is 9999999; wanted .* to 1000000"),
        ("mlq-w8-d2_digits", "No model is called 'mlq'. Did you mean 'mlp'?"),
        ("mlp-w8-d2_digit", "No data set is called 'digit'. Did you mean 'digits'?"),
        ("mlp-w8-d2_pydoc", "Model 'mlp' is for image data, and 'pydoc' is text. For text there are: transf"),
        (
            "transformer-w8-d2_digits",
            "Model 'transformer' is for text data, and 'digits' is image. For image",
        ),
        ("mlp-w8-d2-h4_digits", "Model 'mlp' has no heads; leave out -h4"),
        ("vit-w8-d2-h0_digits", "The number of heads in task name .* is '0'"),
        (
            "vit-w6-d2_digits",
            "Model 'vit' with 4 heads was given the width 6; wanted a multiple of 4 or another",
        ),
        ("transformer-w12-d2-h4_pydoc", "with 4 heads was given the width 12; wanted a multiple of 8 or"),
        ("autoencoder-w6-d2_digits", "Model 'autoencoder' was given the width 6; wanted a multiple of 4\\."),
        ("mlp-w8-d2-rsqrt_digits", "Model 'mlp' has no residual branches; leave out -rsqrt"),
        (
            "vit-w8-d2-rliner_digits",
            "No scaling of residual branches is called 'liner'. Did you mean 'linear'",
        ),
        ("vit-w8-d2-r_digits", "No scaling of residual branches is called ''"),
        ("vit-w8-d2-rsqrt-h4_digits", "No scaling of residual branches is called 'sqrt-h4'"),
        ("mlp-w8-d2", "is no task name; wanted MODEL-wWIDTH-dDEPTH_DATASET"),
        ("", "'' is no task name"),
    ],
)
def test_wrong_names_are_refused_in_one_line(name, message):
    with pytest.raises(InputError, match=message) as raised:
        parse_task_name(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", [0, -4, 2.0, True, "8"])
def test_wrong_widths_are_refused(width):
    with pytest.raises(InputError, match="The width of a task is"):
        TaskName("mlp", width, 2, "digits")


def test_the_tables_of_names_need_no_jax():
    modules = "eval_tasks, eval_tasks.names, eval_tasks.data, eval_tasks.models"
    code = f"import sys, {modules}; print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
