import dataclasses
import math
import re
import sys

import jax
import pytest

from eval_tasks import make_task
from eval_tasks.plugins import check_task_name
from meta_train.driver import run
from meta_train.presets import PRESETS
from mulo.errors import InputError
from tests import ROOT

pytestmark = pytest.mark.usefixtures("standard_promotion")


def readme_example():
    (block,) = [
        code
        for code in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "def make_task" in code
    ]
    return block


@pytest.fixture
def installed_package(tmp_path, monkeypatch):
    """The README's example, found as an installed package is."""
    (tmp_path / "my_tasks.py").write_text(readme_example())
    information = tmp_path / "my_tasks-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-tasks\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[mulo.tasks]\nsine = my_tasks:make_task\nbroken = my_tasks:nothing\nwrong = operator:concat\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("my_tasks", None)


def test_the_readme_example_is_thirty_lines_or_less():
    assert len(readme_example().splitlines()) <= 32


@pytest.mark.usefixtures("installed_package")
def test_a_task_of_another_package_is_meta_trained_on(tmp_path):
    config = dataclasses.replace(
        PRESETS["quick"],
        tasks=("sine:4", "mlp-w4-d1_digits"),
        task_weights=(2.0, 1.0),
        batch_size=4,
        hidden_size=2,
        truncation_length=2,
        min_horizon=4,
        max_horizon=8,
        meta_steps=3,
        validation_tasks=("sine:8",),
        validation_steps=3,
    )
    outcome = run(config, tmp_path / "run")
    assert outcome.signal_number is None


@pytest.mark.usefixtures("installed_package")
def test_a_task_of_another_package_has_the_name_that_it_was_asked_for_by():
    task = make_task("sine:4", "mup")
    assert task.name == "sine:4"
    params = task.init(jax.random.key(0))
    loss = task.loss(params, jax.random.key(1), task.draw_batch(task.source, "train", jax.random.key(2), 100))
    assert float(loss) == pytest.approx(task.guessing_loss, rel=0.3)
    # What it does not say of running averages and scores follows from its loss.
    batch = task.draw_batch(task.source, "validation", jax.random.key(2), 100)
    same, state = task.loss_and_state(params, task.init_state(), jax.random.key(1), batch)
    scores = task.evaluate(params, state, jax.random.key(1), batch)
    assert (float(same), state, float(scores.loss)) == (float(loss), {}, float(loss))
    assert math.isnan(scores.accuracy)


@pytest.mark.usefixtures("installed_package")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sina:4", "Did you mean 'sine'"),
        ("broken:4", "is offered by my_tasks:nothing, which fails"),
        ("wrong:4", "wanted eval_tasks.Task"),
    ],
)
def test_what_is_wrong_with_a_package_is_one_line(name, message):
    with pytest.raises((InputError), match=message) as caught:
        check_task_name(name)
        make_task(name, "mup")
    assert "\n" not in str(caught.value)
