"""Whatever the code of others does, it is answered in one line."""

import sys

import jax
import pytest

from eval_tasks import make_task
from eval_tasks.contenders import make_contenders
from eval_tasks.execution import check_step, errors_of_others
from eval_tasks.foreign_code import one_line_errors
from eval_tasks.names import parse_task_name
from eval_tasks.plugins import check_task_name
from eval_tasks.suites import Point
from mulo.errors import InputError
from tests.eval_tasks.hostile_plugins import NONSENSE, RAISING, TASK, TASK_CHANGES

pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def write_module(tmp_path, monkeypatch):
    """Writes the module `plug`, installed as a package with the entry point `plug`."""
    information = tmp_path / "plug-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[mulo.tasks]\nplug = plug:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def write(text):
        sys.modules.pop("plug", None)
        (tmp_path / "plug.py").write_text(text)

    yield write
    sys.modules.pop("plug", None)


def refusal(call):
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1_000
    return message


def use_optimizer():
    (contender, *_) = make_contenders(["plug:make", "adam-1e-3"])
    task = make_task("mlp-w4-d1_digits", "sp")
    point = Point(parse_task_name(task.name), 3, 4)
    with errors_of_others(contender, point):
        check_step(contender, task, 3)


def use_task():
    check_task_name("plug:4")
    make_task("plug:4", "sp")


@pytest.mark.parametrize("use", [use_optimizer, use_task])
@pytest.mark.parametrize("statement", RAISING)
def test_what_is_raised(statement, use, write_module):
    write_module(statement + "\n")
    assert "plug" in refusal(use)
    write_module(f"def make(*_, **__):\n    {statement}\n")
    assert "plug" in refusal(use)
    write_module("def __getattr__(name):\n    " + statement + "\n")
    assert "plug" in refusal(use)


@pytest.mark.parametrize("use", [use_optimizer, use_task])
@pytest.mark.parametrize("value", NONSENSE)
def test_nonsense_is_returned(value, use, write_module):
    write_module(f"import optax\ndef make(*_):\n    return {value}\n")
    assert "plug" in refusal(use)


@pytest.mark.parametrize("use", [use_optimizer, use_task])
@pytest.mark.parametrize("value", ["None", "3", "{}", "'text'"])
def test_what_is_no_function(value, use, write_module):
    write_module(f"make = {value}\n")
    assert "plug" in refusal(use)


@pytest.mark.parametrize("change", TASK_CHANGES)
def test_parts_of_a_task(change, write_module):
    write_module(TASK.format(change=change))
    assert "plug:4" in refusal(use_task)


def test_a_good_task_is_taken(write_module):
    write_module(TASK.format(change=""))
    assert make_task("plug:4", "sp").init(jax.random.key(0))["w"].shape == (3,)


def test_the_users_interruption_is_no_error_of_others():
    with pytest.raises(KeyboardInterrupt), one_line_errors("plug"):
        raise KeyboardInterrupt
