"""The weights of reference implementations, array by array -> our theta: one table of kinds.

The names are those of the reference's parameter tree, joined with "/"; "~" is Haiku's anonymous scope.
What the reference computes and then throws away is checked and left out of our theta: the layer `linear`
before the recurrent network, the third output of the per-parameter network, and Celo's `rnn_to_controls`.

Sources: google/learned_optimization (Metz et al. 2022, arXiv 2203.11860 and 2211.09760), the muLO code and
its PyTorch release (Thérien et al. 2024, arXiv 2406.00153), Celo (Moudgil et al. 2025, arXiv 2501.12670).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from mulo._types import Theta
from mulo.errors import CheckpointError
from mulo.names import lookup
from mulo.printing import quoted

Arrays = Mapping[str, np.ndarray]
Sizes = Mapping[str, int]
Shape = tuple[int | str, ...]

_FEATURE_GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
"""Channels of VeLO's 14 groups of features: each has an array of first-layer weights of its own."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the files of one kind hold, and what becomes of it.

    Args:
      optimizer: key of `mulo.optimizers.OPTIMIZERS`.
      parametrization: what it was meta-trained under: "mup" or "sp".
      shapes: name -> shape of every array there must be. A length is a number, a size such as "L", or a
        multiple of one such as "4L".
      sizes: size -> the array and the axis that it is read from.
      to_theta: arrays that have these shapes -> our theta.
      to_config: sizes -> configuration of the optimizer.
    """

    optimizer: str
    parametrization: str
    shapes: Mapping[str, Shape]
    sizes: Mapping[str, tuple[str, int]]
    to_theta: Callable[[Arrays], Theta]
    to_config: Callable[[Sizes], dict[str, Any]]


def from_reference(kind: str, arrays: Arrays) -> tuple[dict[str, Any], Theta]:
    """Configuration and theta from the arrays of a reference implementation.

    Args:
      kind: a key of `mulo.importers.KINDS`.
      arrays: every array of the reference's theta, by its path in the reference's tree, joined with "/".
        Floats of other widths (bfloat16, float16, float64) are converted to float32.

    Returns:
      The optimizer's configuration: sizes as found, the rest as the authors of that kind ran it. Theta:
      nested dictionaries of new float32 arrays.

    Raises:
      InputError: unknown kind.
      CheckpointError: an array is missing, too many, of another shape or dtype, or not finite; the text names
        it, and begins in lower case so that the name of the file can go before it.

    >>> shapes = {"w0": (39, 4), "b0": (4,), "w1": (4, 4), "b1": (4,), "w2": (4, 2), "b2": (2,)}
    >>> arrays = {f"nn/~/{name}": np.zeros(shape, np.float32) for name, shape in shapes.items()}
    >>> for name, length in {"momentum_decays": 3, "rms_decays": 1, "adafactor_decays": 3}.items():
    ...     arrays[name] = np.zeros(length, np.float32)
    >>> config, theta = from_reference("small_fc", arrays)
    >>> config["hidden_size"], theta["decays"]["second_moment"].shape
    (4, (1,))
    """
    layout = lookup(LAYOUTS, kind, "kind of released theta")
    arrays = {name: _as_float32(array) for name, array in arrays.items()}
    sizes = _check(layout, arrays)
    theta = layout.to_theta({name: np.asarray(arrays[name]) for name in layout.shapes})
    return layout.to_config(sizes), theta


def _as_float32(array: Any) -> np.ndarray:
    """The array in float32 if it is of another width; what is no float is left to `_check`."""
    array = np.asarray(array)
    if array.dtype == np.float32 or not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    with np.errstate(over="ignore", invalid="ignore"):  # an infinity is refused later, by name
        return array.astype(np.float32)


def _check(layout: Layout, arrays: Arrays) -> dict[str, int]:
    """The sizes, if every array is there and has its shape and dtype, and no other is there."""
    for name in layout.shapes:
        if name not in arrays:
            raise CheckpointError(f"has no leaf {quoted(name)}, which is expected of this kind")
    unexpected = sorted(set(arrays) - set(layout.shapes))
    if unexpected:
        raise CheckpointError(f"has a leaf {quoted(unexpected[0])} that is not expected of this kind")
    sizes: dict[str, int] = {}
    for size, (name, axis) in layout.sizes.items():
        shape, wanted = np.shape(arrays[name]), layout.shapes[name]
        if len(shape) != len(wanted) or shape[axis] < 1:
            raise CheckpointError(f"leaf {quoted(name)} has shape {quoted(shape)}; wanted {_spelled(wanted)}")
        sizes[size] = shape[axis]
    for name, spelled in layout.shapes.items():
        wanted = tuple(_length(length, sizes) for length in spelled)
        _check_array(name, np.asarray(arrays[name]), wanted, _spelled(spelled))
    return sizes


def _check_array(name: str, array: np.ndarray, wanted: tuple[int, ...], spelled: str) -> None:
    if array.shape != wanted:
        where_from = "" if spelled == str(wanted) else f", which is {spelled}"
        got = quoted(array.shape)
        raise CheckpointError(f"leaf {quoted(name)} has shape {got}; wanted {wanted}{where_from}")
    if array.dtype != np.float32:
        raise CheckpointError(
            f"leaf {quoted(name)} has dtype {array.dtype}; wanted float32, or floats of another width"
        )
    if not np.all(np.isfinite(array)):
        num_nonfinite = int(np.sum(~np.isfinite(array)))
        raise CheckpointError(f"leaf {quoted(name)} holds {num_nonfinite} entries that are not finite")


def _length(length: int | str, sizes: Sizes) -> int:
    if isinstance(length, int):
        return length
    return int(length[:-1] or 1) * sizes[length[-1]]


def _spelled(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _stack_shapes(leading: Shape, hidden: int | str) -> dict[str, Shape]:
    """Shapes of VeLO's per-parameter network, the leading axis before each."""
    shapes: dict[str, Shape] = {f"w0__{i}": (n, hidden) for i, n in enumerate(_FEATURE_GROUPS)}
    shapes |= {"b0": (hidden,), "w1": (hidden, hidden), "b1": (hidden,), "w2": (hidden, 3), "b2": (3,)}
    return {f"ff_mod_stack/~/{name}": (*leading, *shape) for name, shape in shapes.items()}


def _linear_shapes(name: str, num_inputs: int | str, num_outputs: int | str) -> dict[str, Shape]:
    return {f"rnn_params/{name}/w": (num_inputs, num_outputs), f"rnn_params/{name}/b": (num_outputs,)}


def _recurrent_shapes(num_features: int) -> dict[str, Shape]:
    """Shapes of the recurrent part: L its size."""
    return {
        **_linear_shapes("linear", num_features, "L"),
        **_linear_shapes("linear_1", num_features, "L"),
        **_linear_shapes("linear_2", num_features, "L"),
        **_linear_shapes("rnn/linear", "2L", "4L"),
        **_linear_shapes("step_size", "L", 1),
        "lstm_init_state/hidden": (1, "L"),
        "lstm_init_state/cell": (1, "L"),
    }


_SMALL_FC_SHAPES: dict[str, Shape] = {
    **{"nn/~/w0": (39, "H"), "nn/~/b0": ("H",), "nn/~/w1": ("H", "H"), "nn/~/b1": ("H",)},
    **{"nn/~/w2": ("H", 2), "nn/~/b2": (2,)},
    **{"momentum_decays": (3,), "rms_decays": (1,), "adafactor_decays": (3,)},
}
# PyTorch keeps weights as [outputs, inputs].
_TORCH_SHAPES: dict[str, Shape] = {
    **{"network.input.weight": ("H", 39), "network.input.bias": ("H",)},
    **{"network.linear_0.weight": ("H", "H"), "network.linear_0.bias": ("H",)},
    **{"network.output.weight": (2, "H"), "network.output.bias": (2,)},
}
_VELO_SHAPES = {
    **_stack_shapes(("N",), "H"),
    **_recurrent_shapes(30),
    **_linear_shapes("rnn_to_controls", "L", "N"),
}
_CELO_SHAPES = {
    **_stack_shapes((1,), "H"),
    **_recurrent_shapes(18),
    **_linear_shapes("rnn_to_controls", "L", 1),
}
_RECURRENT_SIZE = {"L": ("rnn_params/step_size/w", 0)}
_STACK_SIZE = {"H": ("ff_mod_stack/~/b0", -1)}
_BANK_SIZE = {"N": ("ff_mod_stack/~/b0", 0)}

MULO_DECAYS = {
    "momentum": (0.15216392, 0.14245212, 0.06812963),
    "second_moment": (0.01079706,),
    "factored": (0.18621896, -0.10864615, -0.06185547),
}
"""Learned decay offsets of the muLO release: its weight file lacks them, PyLO's `AdafacLO_naive` has them."""


def _small_fc_theta(arrays: Arrays) -> Theta:
    names = {"momentum": "momentum_decays", "second_moment": "rms_decays", "factored": "adafactor_decays"}
    return {
        "mlp": {name: arrays[f"nn/~/{name}"].copy() for name in ("w0", "b0", "w1", "b1", "w2", "b2")},
        "decays": {ours: arrays[theirs].copy() for ours, theirs in names.items()},
    }


def _torch_theta(arrays: Arrays) -> Theta:
    mlp = {}
    for i, layer in enumerate(("input", "linear_0", "output")):
        mlp[f"w{i}"] = np.ascontiguousarray(arrays[f"network.{layer}.weight"].T)
        mlp[f"b{i}"] = arrays[f"network.{layer}.bias"].copy()
    return {"mlp": mlp, "decays": {name: np.float32(offsets) for name, offsets in MULO_DECAYS.items()}}


def _stack(arrays: Arrays, num_outputs: int) -> Theta:
    """The per-parameter network: first-layer weights in one array, the outputs that are used."""

    def part(name: str) -> np.ndarray:
        return arrays[f"ff_mod_stack/~/{name}"]

    first = np.concatenate([part(f"w0__{i}") for i in range(len(_FEATURE_GROUPS))], axis=-2)
    kept = {name: part(name).copy() for name in ("b0", "w1", "b1")}
    return {"w0": first, **kept, **{name: part(name)[..., :num_outputs].copy() for name in ("w2", "b2")}}


def _linear(arrays: Arrays, name: str) -> Theta:
    return {part: arrays[f"rnn_params/{name}/{part}"].copy() for part in ("w", "b")}


def _recurrent_theta(arrays: Arrays) -> Theta:
    """Mixing, recurrent network and step size."""
    return {
        "mixing": {"maximum": _linear(arrays, "linear_1"), "own": _linear(arrays, "linear_2")},
        "lstm": {
            **_linear(arrays, "rnn/linear"),
            "initial_hidden": arrays["lstm_init_state/hidden"][0].copy(),
            "initial_cell": arrays["lstm_init_state/cell"][0].copy(),
        },
        "step_size": _linear(arrays, "step_size"),
    }


def _velo_theta(arrays: Arrays) -> Theta:
    controls = _linear(arrays, "rnn_to_controls")
    return {"bank": _stack(arrays, 2), "controls": controls, **_recurrent_theta(arrays)}


def _celo_theta(arrays: Arrays) -> Theta:
    mlp = {name: array[0].copy() for name, array in _stack(arrays, 2).items()}
    return {"mlp": mlp, **_recurrent_theta(arrays)}


def _celo2_theta(arrays: Arrays) -> Theta:
    return {"mlp": _stack(arrays, 1)}


def _mulo_config(sizes: Sizes) -> dict[str, Any]:
    """With the step_mult of muLO's runs."""
    return {"hidden_size": sizes["H"], "step_mult": 0.01}


def _velo_sizes(sizes: Sizes) -> dict[str, Any]:
    return {"lstm_hidden_size": sizes["L"], "num_banks": sizes["N"], "hidden_size": sizes["H"]}


LAYOUTS: Mapping[str, Layout] = {
    "velo": Layout(
        optimizer="velo",
        parametrization="sp",
        shapes=_VELO_SHAPES,
        sizes={**_RECURRENT_SIZE, **_BANK_SIZE, **_STACK_SIZE},
        to_theta=_velo_theta,
        to_config=_velo_sizes,
    ),
    # Celo's repository trained it without the factor 100 on the mixed weights.
    "velo_s": Layout(
        optimizer="velo",
        parametrization="sp",
        shapes=_VELO_SHAPES,
        sizes={**_RECURRENT_SIZE, **_BANK_SIZE, **_STACK_SIZE},
        to_theta=_velo_theta,
        to_config=lambda sizes: {**_velo_sizes(sizes), "interp_mult": 1.0},
    ),
    # As in the configuration of its repository.
    "muvelo": Layout(
        optimizer="muvelo",
        parametrization="mup",
        shapes=_VELO_SHAPES,
        sizes={**_RECURRENT_SIZE, **_BANK_SIZE, **_STACK_SIZE},
        to_theta=_velo_theta,
        to_config=lambda sizes: {**_velo_sizes(sizes), "interp_mult": 1.0, "param_scale": False},
    ),
    "celo": Layout(
        optimizer="celo",
        parametrization="sp",
        shapes=_CELO_SHAPES,
        sizes={**_RECURRENT_SIZE, **_STACK_SIZE},
        to_theta=_celo_theta,
        to_config=lambda sizes: {"lstm_hidden_size": sizes["L"], "hidden_size": sizes["H"]},
    ),
    "celo_adam": Layout(
        optimizer="celo_adam",
        parametrization="sp",
        shapes=_recurrent_shapes(18),
        sizes=_RECURRENT_SIZE,
        to_theta=_recurrent_theta,
        to_config=lambda sizes: {"lstm_hidden_size": sizes["L"]},
    ),
    "celo2": Layout(
        optimizer="celo2",
        parametrization="sp",
        shapes=_stack_shapes((), "H"),
        sizes=_STACK_SIZE,
        to_theta=_celo2_theta,
        to_config=lambda sizes: {"hidden_size": sizes["H"], "adam_names": "b"},
    ),
    "celo2_base": Layout(
        optimizer="celo2",
        parametrization="sp",
        shapes=_stack_shapes((), "H"),
        sizes=_STACK_SIZE,
        to_theta=_celo2_theta,
        to_config=lambda sizes: {"hidden_size": sizes["H"], "newton_schulz": False, "adam_names": ""},
    ),
    "small_fc": Layout(
        optimizer="small_fc",
        parametrization="sp",
        shapes=_SMALL_FC_SHAPES,
        sizes={"H": ("nn/~/b0", 0)},
        to_theta=_small_fc_theta,
        to_config=lambda sizes: {"hidden_size": sizes["H"]},
    ),
    "mulo": Layout(
        optimizer="small_fc",
        parametrization="mup",
        shapes=_TORCH_SHAPES,
        sizes={"H": ("network.input.bias", 0)},
        to_theta=_torch_theta,
        to_config=_mulo_config,
    ),
    "mulo_jax": Layout(
        optimizer="small_fc",
        parametrization="mup",
        shapes=_SMALL_FC_SHAPES,
        sizes={"H": ("nn/~/b0", 0)},
        to_theta=_small_fc_theta,
        to_config=_mulo_config,
    ),
}
