import dataclasses
import json
import tomllib

import pytest

from meta_train.cli import main
from meta_train.config_file import read_config_file, to_toml
from meta_train.presets import FIRST_PRESETS, PRESETS
from mulo.errors import InputError
from mulo.optimizers import OPTIMIZERS


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_printed_is_read_again(name, tmp_path):
    config = dataclasses.replace(PRESETS[name], task_weights=(2.0,) * len(PRESETS[name].tasks))
    (tmp_path / "a.toml").write_text(to_toml(config))
    preset, fields = read_config_file(tmp_path / "a.toml")
    assert preset is None
    assert PRESETS["quick"].replace(**fields) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("meta_step = 5", "No field of the configuration is called 'meta_step'. Did you mean 'meta_steps'?"),
        ("meta_steps = '5'", "meta_steps is '5'; wanted a whole number"),
        ("meta_steps = true", "meta_steps is True; wanted a whole number"),
        ("learning_rate = true", "learning_rate is True; wanted a number"),
        ("tasks = 'mlp-w8-d2_digits'", "wanted a list of texts"),
        ("tasks = [8]", "wanted a list of texts"),
        ("num_banks = 8.0", "num_banks is 8.0; wanted a whole number"),
        ("newton_schulz = 1", "newton_schulz is 1; wanted true or false"),
        ("task_weights = ['1']", "wanted a list of numbers"),
        ("preset = 'quik'", "Did you mean 'quick'"),
        ("preset = 1", "No preset is called '1'"),
        ("[estimator]\nname = 'pes'", "estimator is {'name': 'pes'}; wanted a text"),
        ("meta_steps = ", "is not TOML"),
        ("\xff", "is not TOML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_the_file(text, message, tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read_config_file(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert main(["--config", str(path), "--out", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.toml cannot be read: No such file"):
        read_config_file(tmp_path / "nothing.toml")


def test_flags_come_before_the_file_and_the_file_before_the_preset(tmp_path, capsys):
    path = tmp_path / "a.toml"
    path.write_text('preset = "paper-s"\nmeta_steps = 7\nlearning_rate = 1\n')
    flags = [
        "--meta-steps",
        "9",
        "--tasks",
        "mlp-w8-d1_digits",
        "mlp-w9-d1_digits",
        "--task-weights",
        "1",
        "3",
    ]
    assert main(["config", "--config", str(path), *flags]) == 0
    (tmp_path / "b.toml").write_text(capsys.readouterr().out)
    fields = read_config_file(tmp_path / "b.toml")[1]
    changes = {"meta_steps": 9, "learning_rate": 1.0, "tasks": ("mlp-w8-d1_digits", "mlp-w9-d1_digits")}
    changes["validation_tasks"] = ()
    assert fields == PRESETS["paper-s"].replace(task_weights=(1.0, 3.0), **changes).to_dict()


def test_a_configuration_of_wrong_types_is_refused_when_built():
    for change in (
        {"meta_steps": 5.0},
        {"meta_steps": True},
        {"optimizer": 1},
        {"tasks": ["mlp-w8-d2_digits"]},
    ):
        with pytest.raises(InputError, match="; wanted a"):
            dataclasses.replace(PRESETS["quick"], **change)
    whole = dataclasses.replace(PRESETS["quick"], learning_rate=1)
    assert json.loads(whole.to_json())["learning_rate"] == 1.0 and isinstance(whole.learning_rate, float)


def test_flags_for_tasks_leave_the_validation_tasks_of_the_preset_out(capsys):
    for flags, expected in (
        ([], PRESETS["quick"].validation_tasks),
        (["--tasks", "mlp-w64-d2_digits"], ()),
        (["--tasks", "mlp-w8-d1_digits", "--validation-tasks", "mlp-w9-d1_digits"], ("mlp-w9-d1_digits",)),
        (["--validation-tasks"], ()),
    ):
        assert main(["config", *flags]) == 0
        assert tomllib.loads(capsys.readouterr().out)["validation_tasks"] == list(expected)


def test_another_learned_optimizer_has_its_own_fields(tmp_path, capsys):
    (tmp_path / "a.toml").write_text('optimizer = "velo"\nlstm_hidden_size = 8\nmeta_steps = 3\n')
    assert main(["config", "--config", str(tmp_path / "a.toml"), "--num-banks", "4", "--no-param-scale"]) == 0
    fields = tomllib.loads(capsys.readouterr().out)
    own = {"lstm_hidden_size": 8, "num_banks": 4, "param_scale": False, "hidden_size": 4, "step_mult": 1e-4}
    assert {name: fields[name] for name in own} == own
    assert "scale_free" not in fields and fields["batch_size"] == PRESETS["quick"].batch_size
    assert main(["--config", str(tmp_path / "a.toml"), "--scale-free", "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert "scale_free is given, and the learned optimizer velo has no such field. It has: lstm" in error
    assert error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_without_a_preset_a_learned_optimizer_starts_from_a_small_one_of_its_own(tmp_path, capsys):
    assert FIRST_PRESETS.keys() == OPTIMIZERS.keys()
    for optimizer, preset in FIRST_PRESETS.items():
        assert main(["config", "--optimizer", optimizer]) == 0
        (tmp_path / "a.toml").write_text(capsys.readouterr().out)
        fields = read_config_file(tmp_path / "a.toml")[1]
        assert fields == PRESETS[preset].replace(optimizer=optimizer).to_dict()
        assert preset == "quick" or PRESETS[preset].optimizer == optimizer
        assert fields.get("lstm_hidden_size", 0) <= 16
    assert main(["config", "--preset", "quick", "--optimizer", "velo"]) == 0  # what is named counts
    assert tomllib.loads(capsys.readouterr().out)["lstm_hidden_size"] == 512


@pytest.mark.parametrize("command", ["status", "watch", "digest"])
def test_a_folder_that_is_no_run_is_named(command, tmp_path, capsys):
    assert main([command, str(tmp_path)]) == 2
    assert f"{tmp_path} is not a run" in capsys.readouterr().err
