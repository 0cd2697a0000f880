import dataclasses
import json
import re

import pytest

from meta_train.config import OWN_FIELDS, MetaTrainConfig
from meta_train.presets import PRESETS
from mulo.errors import InputError
from mulo.optimizers import make_optimizer
from mulo.optimizers.descriptions import FIELDS, MAX_SIZE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ()}, "tasks is empty"),
        ({"tasks": ("mlp-w-8-d2_digits",)}, "width"),
        ({"tasks": ("mlp-w8-d2_digit",)}, "Did you mean 'digits'"),
        ({"tasks": ("mlpp-w8-d2_digits",)}, "Did you mean 'mlp'"),
        ({"parametrization": "mupp"}, "Did you mean 'mup'"),
        ({"optimizer": "smallfc"}, "Did you mean 'small_fc'"),
        ({"estimator": "pess"}, "Did you mean 'pes'"),
        ({"meta_steps": 0}, "meta_steps is 0; wanted a finite number at least 1"),
        ({"meta_steps": -3}, "meta_steps is -3"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"perturbation_std": 0.0}, "perturbation_std is 0.0; wanted a finite number above 0"),
        ({"loss_bound": float("inf")}, "loss_bound is inf"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**32}, "wanted less than 2\\*\\*32"),
        ({"pairs_per_slot": 3}, "num_pairs 8 is not a multiple of pairs_per_slot 3"),
        ({"min_horizon": 10}, "truncation_length 20, min_horizon 10"),
        ({"meta_objective": "mean"}, "Did you mean 'mean_loss'"),
        ({"loss_scale": "lgo"}, "Did you mean 'log'"),
        ({"augmentation": 0.5}, "augmentation is 0.5; wanted at least 1"),
        ({"task_weights": (1.0,)}, "task_weights has 1 entries for 3 tasks"),
        ({"task_weights": (1.0, 0.0, 1.0)}, "task_weights is 0.0; wanted a finite number above 0"),
        ({"tasks": ("mlp-w8-d2_digits",) * 2}, "tasks has a task twice"),
        ({"validation_tasks": ("mlp-w8-d2_digits",)}, "mlp-w8-d2_digits, which is trained on"),
        ({"validation_interval": 0}, "validation_interval is 0; wanted a finite number at least 1"),
        ({"tasks": ("sine:16",)}, "No task of an installed package"),
        ({"max_horizon": 20}, "min_horizon 40, max_horizon 20"),
        ({"hidden_size": 4097}, "hidden_size is 4097; wanted a whole number from 1 to 4096"),
        ({"num_banks": 4}, "num_banks is given, and the learned optimizer small_fc has no such field"),
        ({"trained_part": "mlp"}, "No part of the theta of small_fc is called 'mlp'. There are: all"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused_when_the_configuration_is_built(change, message):
    with pytest.raises(InputError, match=message) as caught:
        dataclasses.replace(PRESETS["quick"], **change)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name):
    config = PRESETS[name]
    assert MetaTrainConfig.from_json(config.to_json(), "here") == config


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"tasks": ["mlp-w8-d2_digits"], "colour": 1}', "null"])
def test_a_file_that_is_no_configuration_is_named(text):
    with pytest.raises(InputError, match=re.escape("runs/a/config.json is not a configuration")):
        MetaTrainConfig.from_json(text, "runs/a/config.json")


def test_the_digest_tells_every_field():
    config = PRESETS["quick"]
    changes = {"seed": 1, "meta_steps": 251, "tasks": ("mlp-w8-d2_digits",), "perturbation_std": 0.02}
    digests = {dataclasses.replace(config, **{name: value}).digest() for name, value in changes.items()}
    assert len(digests | {config.digest()}) == len(changes) + 1


def test_fields_that_a_file_lacks_have_their_default():
    fields = json.loads(PRESETS["quick"].to_json())
    for name in ("inner_max_global_norm", "trained_part", "initial_theta"):
        del fields[name]
    assert MetaTrainConfig.from_json(json.dumps(fields), "here") == PRESETS["quick"]


def test_every_field_of_every_learned_optimizer_is_a_field_with_its_default():
    names = {field.name for field in dataclasses.fields(MetaTrainConfig)}
    for optimizer, fields in FIELDS.items():
        assert OWN_FIELDS[optimizer].keys() <= names
        if optimizer != "small_fc":
            assert PRESETS["quick"].replace(optimizer=optimizer).optimizer_config == fields
    # muLO's, whose recipe the defaults are.
    assert MetaTrainConfig().optimizer_config == FIELDS["small_fc"] | {"step_mult": 0.01}
    assert (PRESETS["quick"].weight_decay, PRESETS["quick"].max_global_norm) == (1e-4, 1.0)
    decayed = PRESETS["quick"].replace(optimizer="celo2", inner_weight_decay=0.5)
    assert decayed.optimizer_config["weight_decay"] == 0.5 and decayed.weight_decay == 1e-4


def test_twins_differ_in_the_parametrization_alone():
    assert (
        PRESETS["muvelo-quick-sp"]
        == PRESETS["muvelo-quick"].replace(parametrization="sp")
        != PRESETS["muvelo-quick"]
    )


@pytest.mark.parametrize("optimizer", FIELDS)
def test_sizes_have_the_bound_of_the_class(optimizer):
    config = PRESETS["quick"].replace(optimizer=optimizer)
    for name in [name for name, default in FIELDS[optimizer].items() if type(default) is int]:
        largest = config.replace(**{name: MAX_SIZE}).optimizer_config
        assert make_optimizer(optimizer, largest).config() == largest
        for refuse in (config.replace, lambda optimizer=optimizer, **size: make_optimizer(optimizer, size)):
            with pytest.raises(InputError, match=f"{name} is {MAX_SIZE + 1}; wanted a whole number from 1"):
                refuse(**{name: MAX_SIZE + 1})


def test_a_part_of_theta_goes_with_its_optimizer():
    second = PRESETS["celo-paper-2"]
    assert second.trained_keys() == ("mixing", "lstm", "step_size")
    other = second.replace(optimizer="velo")
    assert (other.trained_part, other.initial_theta, other.trained_keys()) == ("all", "", ())
    with pytest.raises(InputError, match="Did you mean 'scheduler'"):
        second.replace(trained_part="schedule")
    for part in ("scheduler", "all"):
        with pytest.raises(InputError, match=f"trained_part is {part} and learned_rate is false"):
            second.replace(learned_rate=False, trained_part=part)
    assert second.replace(learned_rate=False, trained_part="mlp").trained_keys() == ("mlp",)


def test_paper_presets_are_the_published_recipe():
    small, medium = PRESETS["paper-s"], PRESETS["paper-m"]
    assert small.tasks == ("mlp-w128-d3_imagenet32",)
    assert [task.split("-")[1] for task in medium.tasks] == ["w128", "w512", "w1024"]
    for config in (small, medium):
        assert (config.meta_steps, config.truncation_length, config.num_pairs) == (5000, 50, 8)
        assert (config.min_horizon, config.max_horizon, config.batch_size) == (100, 1000, 4096)
        assert (config.hidden_size, config.step_mult, config.perturbation_std) == (32, 0.01, 0.01)
        assert (config.learning_rate, config.end_learning_rate, config.warmup_steps) == (3e-3, 1e-3, 100)


def test_weights_are_relative_to_their_mean():
    config = dataclasses.replace(PRESETS["quick"], task_weights=(1.0, 1.0, 4.0))
    assert config.relative_weights() == (0.5, 0.5, 2.0)
    assert PRESETS["quick"].relative_weights() == (1.0, 1.0, 1.0)


def test_with_other_tasks_the_weights_of_before_are_left_out():
    preset = PRESETS["mulo-x"]
    assert len(preset.task_weights) == len(preset.tasks)
    assert preset.replace(tasks=("mlp-w8-d1_digits",)).task_weights == ()
    assert preset.replace(seed=1).task_weights == preset.task_weights
    assert preset.replace(tasks=("mlp-w8-d1_digits",), task_weights=(2.0,)).task_weights == (2.0,)
