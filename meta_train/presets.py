"""Where a configuration starts from: recipes of the papers, and small ones. Imports no JAX."""

from collections.abc import Mapping

from meta_train.config import MetaTrainConfig

# Two CPU cores finish this in four to seven minutes; digits at three small widths. It departs from the
# paper's recipe where so few meta-steps ask for it: noise is reused (PES's growing sums need more
# averaging), the logarithm of the loss is judged, and steps are ten times as large.
_QUICK = MetaTrainConfig(
    tasks=("mlp-w8-d2_digits", "mlp-w16-d2_digits", "mlp-w32-d2_digits"),
    batch_size=128,
    hidden_size=8,
    step_mult=0.1,
    estimator="nres",
    loss_scale="log",
    truncation_length=20,
    min_horizon=40,
    max_horizon=400,
    meta_steps=2000,
    learning_rate=1e-2,
    end_learning_rate=1e-4,
    warmup_steps=10,
    validation_tasks=("mlp-w64-d2_digits",),
)
# 4500 weights in place of 400: the meta-gradient has more noise, and theta goes more slowly. With a factor of
# 1 on the mixture, as in the paper, inner steps are at first so small that 100 meta-steps teach nothing.
_MUVELO_QUICK = _QUICK.replace(
    optimizer="muvelo", interp_mult=30.0, step_mult=0.01, learning_rate=3e-3, warmup_steps=20
)
# What makes VeLO, as its authors have it, of a muVeLO: SP, steps in proportion to the size of a tensor, and
# VeLO's factor on the mixture; step size and learning rate are what suits that.
_AS_VELO = {
    "optimizer": "velo",
    "lstm_hidden_size": 16,
    "num_banks": 8,
    "step_mult": 1e-4,
    "learning_rate": 1e-3,
    "parametrization": "sp",
}
_VELO_QUICK = _MUVELO_QUICK.replace(**_AS_VELO)
# The recipe of muLO at the scale of two CPU cores: three small widths, small images, and over all tasks as
# many pairs as muLO_M has. Validation is on tasks that no suite of mulo-eval has.
_MULO_S = MetaTrainConfig(
    tasks=tuple(
        f"mlp-w{width}-d3_{data_set}" for data_set in ("cifar10-16", "digits") for width in (16, 32, 64)
    ),
    batch_size=128,
    loss_scale="initial",  # losses of two data sets on one scale
    num_pairs=4,
    pairs_per_slot=4,
    meta_steps=1000,
    warmup_steps=20,
    validation_tasks=("mlp-w96-d4_cifar10-8", "mlp-w96-d4_digits"),
    validation_interval=100,
    validation_steps=500,
)
# The same for muVeLO, in half of the meta-steps. What else differs is what suits so few: noise is reused and
# the logarithm of the loss judged, where small losses, those on digits, vary most.
_MUVELO_S = _MULO_S.replace(
    optimizer="muvelo",
    interp_mult=30.0,
    step_mult=0.01,
    estimator="nres",
    loss_scale="log",
    task_weights=(1.0, 1.0, 1.0, 0.3, 0.3, 0.3),
    meta_steps=500,
    end_learning_rate=3e-4,
    validation_interval=50,
)
# What several papers suggest one by one, together under muP and at the scale of one CPU core: scale-free
# features, a normalised direction, a schedule and weight decay from outside, noise that is reused, the
# logarithm of the loss, several data sets, depths and models, theta chosen by validation.
_MULO_X = MetaTrainConfig(
    tasks=(
        "mlp-w16-d2_digits",
        "mlp-w32-d4_digits",
        "mlp-w16-d4_cifar10-8",
        "mlp-w32-d2_cifar10-8",
        "mlp-w16-d3_cifar10-16",
        "autoencoder-w16-d2_cifar10-8",
        "convnet-w8-d2_cifar10-8",
        "transformer-w32-d1-h4_pydoc-16",
        "rnn-w32-d1_pydoc-16",
        "vit-w16-d1-h4_cifar10-8",
    ),
    # The logarithm of the small losses on digits, and of the autoencoder's, varies most.
    task_weights=(0.3, 0.3, 1.0, 1.0, 1.0, 0.5, 1.0, 1.0, 1.0, 1.0),
    batch_size=64,
    optimizer="direction_fc",
    inner_weight_decay=1.0,
    estimator="nres",
    loss_scale="log",
    num_pairs=4,
    pairs_per_slot=4,
    meta_steps=160,
    learning_rate=1e-2,
    warmup_steps=20,
    validation_tasks=(
        "mlp-w192-d4_cifar10-8",
        "mlp-w96-d3_digits",
        "mlp-w48-d8_cifar10-8",
        "autoencoder-w48-d3_cifar10-8",
        "transformer-w64-d2-h4_pydoc-16",
        "rnn-w64-d1_pydoc-16",
    ),
    validation_interval=40,
    validation_steps=500,
)
# muLO_M: three widths, for a GPU (103 hours on an A6000 for the authors).
_PAPER_M = MetaTrainConfig(
    tasks=("mlp-w128-d3_imagenet32", "mlp-w512-d3_imagenet32", "mlp-w1024-d3_imagenet32"),
    validation_tasks=("mlp-w2048-d3_imagenet32",),
)
# muVeLO_M (250 hours on an A6000). The paper gives no learning rates for it: those of muLO_M.
_MUVELO_PAPER_M = _PAPER_M.replace(optimizer="muvelo", truncation_length=20, meta_steps=45_000)
# Celo (arXiv 2501.12670), the first of two phases: the network alone, without the schedule. The authors have
# four sets of 8x8 grey images; here digits is in place of SVHN, MNIST and Fashion-MNIST are 14x14, CIFAR-10
# has its colours, and each leaf is rescaled by a factor of its own.
_CELO_PAPER_1 = MetaTrainConfig(
    tasks=(
        "mlp-w32-d1_cifar10-8",
        "mlp-w32-d1_fashion-mnist-14",
        "mlp-w32-d1_mnist-14",
        "mlp-w32-d1_digits",
    ),
    parametrization="sp",
    augmentation=1000.0,
    batch_size=64,
    optimizer="celo",
    learned_rate=False,
    trained_part="mlp",
    max_horizon=2000,
    meta_steps=100_000,
    learning_rate=3e-4,
    end_learning_rate=3e-4,
    warmup_steps=0,
    max_global_norm=1e9,  # no clipping
    validation_tasks=("mlp-w128-d1_digits",),
    validation_interval=1000,
)

PRESETS: Mapping[str, MetaTrainConfig] = {
    "quick": _QUICK,
    # The same in SP: in the paper too its steps are a tenth of those under muP.
    "quick-sp": _QUICK.replace(parametrization="sp", step_mult=0.01),
    "mulo-s": _MULO_S,
    # Of the step sizes 0.001, 0.003 and 0.01 the one with the best validation score after 100 meta-steps.
    "lo-sp-s": _MULO_S.replace(parametrization="sp", step_mult=0.001),
    "mulo-x": _MULO_X,
    "muvelo-s": _MUVELO_S,
    "velo-s": _MUVELO_S.replace(**_AS_VELO),
    "muvelo-quick": _MUVELO_QUICK,
    "muvelo-quick-sp": _MUVELO_QUICK.replace(parametrization="sp"),
    "velo-quick": _VELO_QUICK,
    "celo-quick": _VELO_QUICK.replace(optimizer="celo", lstm_hidden_size=16, step_mult=0.1),
    "celo-adam-quick": _VELO_QUICK.replace(optimizer="celo_adam", lstm_hidden_size=16),
    # muLO_S: one width, for a GPU (8 hours on an A6000 for the authors). Validation is ours.
    "paper-s": MetaTrainConfig(validation_tasks=("mlp-w512-d3_imagenet32",)),
    "paper-m": _PAPER_M,
    "muvelo-paper-m": _MUVELO_PAPER_M,
    "velo-paper-m": _MUVELO_PAPER_M.replace(
        optimizer="velo", lstm_hidden_size=16, num_banks=8, parametrization="sp"
    ),
    "celo-paper-1": _CELO_PAPER_1,
    # The second: the schedule, with the network of the first as it is.
    "celo-paper-2": _CELO_PAPER_1.replace(
        learned_rate=True, trained_part="scheduler", initial_theta="runs/celo-paper-1"
    ),
}

FIRST_PRESETS: Mapping[str, str] = {
    "small_fc": "quick",
    "velo": "velo-quick",
    "muvelo": "muvelo-quick",
    "celo": "celo-quick",
    "celo_adam": "celo-adam-quick",
    "celo2": "quick",
    "direction_fc": "mulo-x",
}
"""The preset from which each learned optimizer starts where none is named: one for two CPU cores."""
