"""Made-up results files: whole suites whose numbers follow from a formula, without training anything."""

import hashlib
import json
import math

GUESSING = math.log(10)


def make_record(**changes):
    """One line of schema 2 as a dict: an evaluation run of `adamw` at width 32, seed 0."""
    record = {
        "schema": 2,
        "suite": "wide",
        "size": "cpu",
        "series": "mlp-d3_digits",
        "axis": "width",
        "value": 32,
        "base_value": 32,
        "num_seeds": 3,
        "optimizer": "adamw",
        "optimizer_config": {"name": "adamw", "weight_decay": 1e-4},
        "tuned_at": "each value",
        "parametrization": "sp",
        "learning_rate": 1e-3,
        "purpose": "evaluate",
        "task": "mlp-w32-d3_digits",
        "width": 32,
        "depth": 3,
        "seed": 0,
        "num_steps": 100,
        "batch_size": 128,
        "data_digest": "d" * 64,
        "data": {"data_set": "digits"},
        "jax_version": "0.10.2",
        "unit": "nats",
        "guessing_loss": GUESSING,
        "final_loss": 1.0,
        "mean_loss": 1.5,
        "validation_loss": 1.1,
        "validation_accuracy": 0.6,
        "diverged": False,
        "losses": {"steps": [0, 50, 99], "values": [2.3, 1.5, 1.0]},
        "step_seconds": 0.002,
        "state_bytes": 2000,
        "params_bytes": 1000,
        "wall_seconds": 0.2,
        "versions": {"python": "3.11.7", "device": "cpu", "mulo": "0.1.0", "jax": "0.10.2"},
        "provenance": None,
        **changes,
    }
    if "key" not in changes:
        text = json.dumps([record[field] for field in ("series", "value", "optimizer", "purpose", "seed",
                                                       "learning_rate", "optimizer_config")])  # fmt: skip
        record["key"] = hashlib.sha256(text.encode()).hexdigest()
    return record


def write(path, records):
    """Writes a results file and returns its path."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


# label -> (tuned at, parametrization, loss at the base value, exponent of the value, state over params)
OPTIMIZERS = {
    "mulo-small": ("", "mup", 0.62, -0.22, 5.0),
    "sp-small": ("", "sp", 0.66, 0.12, 5.0),
    "muadamw": ("base value", "mup", 0.75, -0.16, 2.0),
    "adamw": ("each value", "sp", 0.72, -0.18, 2.0),
    "adam-1e-3": ("", "sp", 0.95, -0.05, 2.0),
}
GRID = (5e-4, 1e-3, 2e-3, 4e-3)


def make_suite(
    suite="wide",
    size="cpu",
    series=("mlp-d3_digits", "mlp-d3_cifar10-16"),
    axis="width",
    values=(32, 64, 128, 256, 512, 1024),
    num_seeds=3,
    num_points=60,
    num_steps=1000,
):
    """The records of all of `OPTIMIZERS`: sp-small diverges from 16 times the base value."""
    records = []
    for series_index, name in enumerate(series):
        for value in values:
            for label, (tuned_at, parametrization, _, _, _) in OPTIMIZERS.items():
                common = {
                    "suite": suite, "size": size, "series": name, "axis": axis, "value": value,
                    "base_value": values[0], "num_seeds": num_seeds, "optimizer": label,
                    "tuned_at": tuned_at, "parametrization": parametrization, "num_steps": num_steps,
                    "optimizer_config": {"name": label}, "task": f"{name}-{axis}{value}",
                    "width": value if axis == "width" else 64,
                }  # fmt: skip
                rate = 2e-3 if tuned_at else None
                for seed in range(num_seeds):
                    measured = _outcome(label, series_index, value / values[0], seed, num_points, num_steps)
                    records.append(make_record(**common, **measured, seed=seed, learning_rate=rate))
                if tuned_at == "each value" or (tuned_at and value == values[0]):
                    records += [
                        make_record(**common, purpose="tune", learning_rate=tried, seed=seed)
                        for tried in GRID
                        for seed in range(num_seeds)
                    ]
    return records


def _outcome(label, series_index, multiple, seed, num_points, num_steps):
    _, _, base, exponent, state = OPTIMIZERS[label]
    steps = [round(i * (num_steps - 1) / (num_points - 1)) for i in range(num_points)]
    final = base * multiple**exponent * (1 + 0.02 * (seed - 1)) + 0.5 * series_index
    rate = 5.0 + (2.0 if "small" in label else 0.0)
    values = [
        final
        + (GUESSING - final) * math.exp(-rate * step / num_steps)
        + 0.02 * math.sin(7.3 * i + seed) * (i > 0)
        for i, step in enumerate(steps)
    ]
    diverged = label == "sp-small" and multiple >= 16
    if diverged:
        values = [value * 3 if i > num_points // 4 else value for i, value in enumerate(values)]
        values = [None if i > num_points // 3 else value for i, value in enumerate(values)]
    params = 4000 * round(multiple**2 * 10)
    return {
        "final_loss": None if diverged else values[-1],
        "mean_loss": None if diverged else sum(values) / len(values),
        "validation_loss": None if diverged else values[-1] * 1.15,
        "validation_accuracy": None if diverged else max(0.1, 1 - values[-1] / GUESSING),
        "diverged": diverged,
        "losses": {"steps": steps, "values": values},
        "step_seconds": 1e-3 * (3 if "small" in label else 1) * multiple,
        "state_bytes": int(state * params),
        "params_bytes": params,
    }
