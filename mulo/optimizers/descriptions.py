"""What is known of learned optimizers without importing JAX: fields, their bound, and the parts of theta."""

from collections.abc import Mapping

MAX_SIZE = 4096
"""The largest value of a field that is a size, such as `hidden_size`."""

FIELDS: Mapping[str, Mapping[str, int | float | bool | str]] = {
    "small_fc": {
        "hidden_size": 32,
        "step_mult": 0.001,
        "exp_mult": 0.001,
        "max_global_norm": 0.0,
        "scale_free": False,
    },
    "velo": {
        "lstm_hidden_size": 512,
        "num_banks": 256,
        "hidden_size": 4,
        "interp_mult": 100.0,
        "param_scale": True,
        "step_mult": 0.001,
        "exp_mult": 0.001,
    },
    "muvelo": {
        "lstm_hidden_size": 16,
        "num_banks": 8,
        "hidden_size": 4,
        "interp_mult": 1.0,
        "param_scale": False,
        "step_mult": 0.001,
        "exp_mult": 0.001,
    },
    "celo": {
        "lstm_hidden_size": 64,
        "hidden_size": 4,
        "step_mult": 0.001,
        "exp_mult": 0.001,
        "learned_rate": True,
    },
    "celo_adam": {"lstm_hidden_size": 64, "step_mult": 0.001},
    "celo2": {
        "hidden_size": 8,
        "step_mult": 0.001,
        "weight_decay": 0.0,
        "newton_schulz": True,
        "adam_names": "b,bias",
    },
    "direction_fc": {
        "hidden_size": 8,
        "step_mult": 0.01,
        "scale_free": True,
        "normalised": True,
        "schedule": "linear",
        "weight_decay": 0.0,
        "decay_steps": 0.0,
        "growth": 0.0,
        "overshoot": 0.2,
        "newton_schulz": False,
        "epsilon": 0.0,
    },
}
"""The fields of each class with their defaults."""

PARTS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "celo": {"mlp": ("mlp",), "scheduler": ("mixing", "lstm", "step_size")},
}
"""Parts of theta that can be trained alone, by their keys at its top; together they are all of it."""
