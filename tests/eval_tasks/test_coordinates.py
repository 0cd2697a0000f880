import pytest

from eval_tasks.cli import main
from eval_tasks.coordinates import CheckSettings, check_task, choose_optimizer
from eval_tasks.names import parse_task_name
from tests.eval_tasks.zoo import MODEL_ROWS

pytestmark = pytest.mark.usefixtures("standard_promotion")

TINY = ("--task", "mlp-w64-d2_digits", "--widths", "64", "256", "--num-seeds", "2")


def run_cli(capsys, *arguments):
    code = main(["coord-check", *map(str, arguments)])
    return code, *capsys.readouterr()


def verdicts(text):
    return {line.split()[0]: line.split()[-1] for line in text.splitlines() if line.startswith("mlp/")}


def test_muadam_passes_and_adam_in_sp_fails(tmp_path, capsys):
    code, text, _ = run_cli(capsys, *TINY, "--out", tmp_path / "mup.png")
    assert code == 0
    assert verdicts(text) == {f"mlp/linear_{index}": "flat" for index in range(3)}
    assert "slope" in text
    assert (tmp_path / "mup.png").read_bytes().startswith(b"\x89PNG\r\n")
    code, text, _ = run_cli(capsys, *TINY, "--parametrization", "sp", "--out", tmp_path / "sp.png")
    assert code == 1
    assert verdicts(text) == {
        "mlp/linear_0": "flat",  # its fan-in does not grow
        "mlp/linear_1": "growing",
        "mlp/linear_2": "growing",
    }


def test_a_learned_optimizer_passes_under_mup(tmp_path, capsys):
    words = ("--optimizer", "mulo-quick", "--num-seeds", "1", "--num-steps", "5")  # the last one counts
    code, text, _ = run_cli(capsys, *TINY, *words, "--out", tmp_path / "a.png")
    assert (code, set(verdicts(text).values())) == (0, {"flat"})


@pytest.mark.slow
@pytest.mark.parametrize("parametrization", ["mup", "sp"])
@pytest.mark.parametrize("row", MODEL_ROWS, ids=lambda row: row.model)
def test_every_model_is_flat_under_muadam_and_not_in_sp(row, parametrization):
    # Chance adds to the changes of narrow networks: the MLP's logits are at the limit from 64 on.
    narrowest = {"convnet": 32, "resnet": 32, "mlp": 128}.get(row.model, 64)
    settings = CheckSettings(
        task=parse_task_name(row.task),
        parametrization=parametrization,
        widths=(narrowest, 4 * narrowest),
        num_steps=3,
        num_seeds=4,
        batch_size=32,
        seed=0,
    )
    # At 0.03, the default, chance moves some layers of the ViT by 0.13 at these widths.
    optimizer, _ = choose_optimizer("adam", 0.01 if parametrization == "mup" else None, parametrization)
    check = check_task(settings, optimizer)
    assert check.passed == (parametrization == "mup"), check.table()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "mlp_digits"], "is no task name"),
        ([*TINY, "--optimizer", "adma"], "adma"),
        ([*TINY, "--widths", "64"], "at least two different"),
        (["--task", "vit-w64-d1-h3_digits"], "wanted a multiple of 3"),
        ([*TINY, "--num-steps", "0"], "--num-steps is 0; wanted at least 1"),
    ],
)
def test_mistakes_are_answered_in_one_line(tmp_path, capsys, words, message):
    code, _, err = run_cli(capsys, *words, "--out", tmp_path / "a.png")
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert message in err
