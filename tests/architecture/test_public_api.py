"""The names that users write, and how they are called. A change here is a change for them."""

import ast
import inspect

import pytest

import eval_tasks
import meta_train
import mulo
from tests.architecture.sources import ROOT

SIGNATURES = {
    "Celo": "(*, lstm_hidden_size=64, hidden_size=4, step_mult=0.001, exp_mult=0.001, learned_rate=True)",
    "Celo2": "(*, hidden_size=8, step_mult=0.001, weight_decay=0.0, newton_schulz=True, adam_names='b,bias')",
    "CeloAdam": "(*, lstm_hidden_size=64, step_mult=0.001)",
    "Checkpoint": "(optimizer, theta, parametrization, provenance=<factory>)",
    "CheckpointError": "an error",
    "DirectionFC": "(*, hidden_size=8, step_mult=0.01, scale_free=True, normalised=True, schedule='linear', "
    "weight_decay=0.0, decay_steps=0.0, growth=0.0, overshoot=0.2, newton_schulz=False, epsilon=0.0)",
    "InputError": "an error",
    "MuVeLO": "(*, lstm_hidden_size=16, num_banks=8, hidden_size=4, interp_mult=1.0, param_scale=False, "
    "step_mult=0.001, exp_mult=0.001)",
    "OptimizerState": "(params, theta, inner, count, past_end, optimizer, mup, num_steps, weight_decay, "
    "decayed)",
    "SmallFC": "(*, hidden_size=32, step_mult=0.001, exp_mult=0.001, max_global_norm=0.0, scale_free=False)",
    "VeLO": "(*, lstm_hidden_size=512, num_banks=256, hidden_size=4, interp_mult=100.0, param_scale=True, "
    "step_mult=0.001, exp_mult=0.001)",
    "apply": "(optimizer_state, grads, *, value=None)",
    "init": "(params, source, *, mup=None, num_steps=None, weight_decay=0.0, mask=None)",
    "load": "(path_or_name, *, expect=None)",
    "mup": "a module",
    "optimizer": "(source, learning_rate=1.0, *, mup=None, num_steps=None, weight_decay=0.0, mask=None)",
    "save": "(path, checkpoint, *, overwrite=False)",
}
MUP_SIGNATURES = {
    "CoordinateCheck": "(widths, layers, changes, losses, slopes, verdicts, tolerance)",
    "Leaf": "(*, role=None, fan_in_axes=None, stacked_axes=None, forward_multiplier=None, "
    "lr_multiplier=None)",
    "LeafRule": "(path, shape, infinite, role, fan_in, base_fan_in, fan_out=1, base_fan_out=1, "
    "fan_in_axes=(), stacked_axes=(), own_forward_multiplier=None, lr_multiplier=1.0)",
    "MuP": "(leaves, form='mup')",
    "RULES": "a table",
    "Role": "an enumeration",
    "Rule": "(init_std, forward_multiplier, update_multiplier, adam_lr_multiplier, sgd_lr_multiplier)",
    "STANDARD": "a MuP",
    "WidthModel": "(init, loss, activations, mup)",
    "attention_scale": "(head_dim)",
    "coordinate_check": "(make, optimizer, batch, *, widths=(64, 128, 256, 512), num_steps=5, num_seeds=3, "
    "key=None, draw_batch=None, tolerance=0.1)",
    "in_mup_form": "(make_optimizer, mup)",
    "infer": "(target, base, delta=None, *, overrides=None, other_depth=None, layout='in_out', form='mup')",
    "output_multiplier": "(fan_in)",
    "rescale_init": "(params, mup, *, output='scaled')",
    "residual_lr_multiplier": "(depth, scaling='sqrt', optimizer='adam')",
    "residual_multiplier": "(depth, scaling='sqrt')",
    "scale_by_mup": "(mup, optimizer)",
}
EVAL_TASKS_SIGNATURES = {
    "Batch": "(image, label)",
    "DataSource": "(*, train, validation, name, num_classes, mean, std, files, digest)",
    "Source": "an abstract class",
    "Task": "(*, name, parametrization, init, loss, accuracy, source, mup, guessing_loss, draw_batch=..., "
    "init_state=..., loss_and_state=None, evaluate=None, activations=None)",
    "TaskName": "(model, width, depth, data_set, heads=None, residual=None)",
    "TextBatch": "(tokens, targets)",
    "TextSource": "(*, train, validation, name, context_length, files, digest)",
    "draw_batch": "(source, split, key, batch_size)",
    "load_data": "(name, data_dir=None, *, placement=None)",
    "make_task": "(name, parametrization, source=None, base_width=None)",
    "parse_task_name": "(name)",
    "whole_split": "(source, split)",
}
META_TRAIN_SIGNATURES = {
    "MetaTrainConfig": "a configuration",  # its fields are the flags of mulo-meta-train
    "PRESETS": "a table",
    "resume": "(out, options=None, cluster=None)",
    "run": "(config, out, options=None, cluster=None)",
}


def _describe(value: object) -> str:
    if inspect.ismodule(value):
        return "a module"
    if isinstance(value, mulo.mup.MuP):
        return "a MuP"
    if isinstance(value, type) and issubclass(value, Exception):
        return "an error"
    if value is mulo.mup.Role:
        return "an enumeration"
    if value is meta_train.MetaTrainConfig:
        return "a configuration"
    if inspect.isabstract(value):
        return "an abstract class"
    if not callable(value):
        return "a table"
    signature = inspect.signature(value)
    bare = [_bare(p) for p in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def _bare(parameter: inspect.Parameter) -> inspect.Parameter:
    """Without annotation, and without the address of a default that is a function."""
    default = parameter.default
    if callable(default) and default is not inspect.Parameter.empty and "factory" not in repr(default):
        default = _DOTS
    return parameter.replace(annotation=inspect.Parameter.empty, default=default)


class _Dots:
    def __repr__(self) -> str:
        return "..."


_DOTS = _Dots()

each_package = pytest.mark.parametrize(
    ("package", "signatures"),
    [(mulo, SIGNATURES), (eval_tasks, EVAL_TASKS_SIGNATURES), (meta_train, META_TRAIN_SIGNATURES)],
    ids=["mulo", "eval_tasks", "meta_train"],
)


@each_package
def test_public_names_and_signatures(package, signatures):
    assert {name: _describe(getattr(package, name)) for name in package.__all__} == signatures


@each_package
def test_type_checkers_see_the_names_that_there_are(package, signatures):
    """The names are imported on first use; those under TYPE_CHECKING say the same once more."""
    tree = ast.parse((ROOT / package.__name__ / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname: f"{statement.module}.{alias.name}"
        for statement in block.body
        for alias in statement.names
    }
    assert imported.keys() == signatures.keys()
    for name, full_name in imported.items():
        if (package.__name__, name) != ("mulo", "mup"):
            assert package._MODULES[name] == full_name.rpartition(".")[0]


@each_package
def test_public_names_are_documented(package, signatures):
    for name in signatures:
        value = getattr(package, name)
        if inspect.isfunction(value) or inspect.isclass(value):
            doc = inspect.getdoc(value) or ""
            # The text that dataclasses and named tuples make themselves begins with their name.
            assert doc and not doc.startswith(f"{name}("), f"{package.__name__}.{name} is not documented"


def test_public_names_of_mup():
    public = {
        name
        for name, value in vars(mulo.mup).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert {name: _describe(getattr(mulo.mup, name)) for name in public} == MUP_SIGNATURES


@each_package
def test_public_functions_are_documented_with_their_arguments(package, signatures):
    for name in signatures:
        function = getattr(package, name)
        if inspect.isfunction(function):
            doc = inspect.getdoc(function)
            for argument in inspect.signature(function).parameters:
                assert f"{argument}:" in doc, f"{package.__name__}.{name} says nothing of {argument}"


def test_public_functions_of_mup_are_documented_with_their_arguments():
    for name in MUP_SIGNATURES:
        function = getattr(mulo.mup, name)
        if inspect.isfunction(function):
            for argument in inspect.signature(function).parameters:
                assert f"{argument}:" in inspect.getdoc(function), (
                    f"mulo.mup.{name} says nothing of {argument}"
                )


@each_package
def test_an_unknown_name_is_an_attribute_error(package, signatures):
    assert not hasattr(package, "no_such_name")
    assert set(dir(package)) == set(package.__all__) == set(signatures)
