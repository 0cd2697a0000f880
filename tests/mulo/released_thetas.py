"""Thetas as the reference implementations lay them out, with random weights: for tests of the importers."""

import collections
import json

import numpy as np

LSTMState = collections.namedtuple("LSTMState", ["hidden", "cell"])
GROUPS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)


class Weights:
    """Random float32 arrays, each different."""

    def __init__(self, seed=0):
        self.generator = np.random.default_rng(seed)

    def __call__(self, *shape):
        return self.generator.standard_normal(shape).astype(np.float32)

    def linear(self, num_inputs, num_outputs):
        return {"w": self(num_inputs, num_outputs), "b": self(num_outputs)}

    def stack(self, leading, hidden):
        first = {f"w0__{i}": self(*leading, n, hidden) for i, n in enumerate(GROUPS)}
        others = {"b0": (hidden,), "w1": (hidden, hidden), "b1": (hidden,), "w2": (hidden, 3), "b2": (3,)}
        return {"~": first | {name: self(*leading, *shape) for name, shape in others.items()}}

    def recurrent(self, num_features, size, **more):
        """The recurrent part; Haiku names a layer inside another with a slash: one key, not two."""
        return {
            "lstm_init_state": LSTMState(self(1, size), self(1, size)),
            "rnn_params": {
                "linear": self.linear(num_features, size),
                "linear_1": self.linear(num_features, size),
                "linear_2": self.linear(num_features, size),
                "rnn/linear": self.linear(2 * size, 4 * size),
                "step_size": self.linear(size, 1),
                **more,
            },
        }


def velo_tree(size=8, banks=3, hidden=4):
    weights = Weights()
    recurrent = weights.recurrent(30, size, rnn_to_controls=weights.linear(size, banks))
    return {"ff_mod_stack": weights.stack((banks,), hidden), **recurrent}


def celo_tree(size=8, hidden=4):
    weights = Weights()
    recurrent = weights.recurrent(18, size, rnn_to_controls=weights.linear(size, 1))
    return {"ff_mod_stack": weights.stack((1,), hidden), **recurrent}


def celo_adam_tree(size=8):
    return Weights().recurrent(18, size)


def celo2_tree(hidden=8):
    return {"ff_mod_stack": Weights().stack((), hidden)}


def small_fc_tree(hidden=4):
    weights = Weights()
    layers = {f"w{i}": shape for i, shape in enumerate([(39, hidden), (hidden, hidden), (hidden, 2)])}
    layers |= {f"b{i}": shape[1:] for i, shape in enumerate(list(layers.values()))}
    return {
        "nn": {"~": {name: weights(*shape) for name, shape in layers.items()}},
        **{"momentum_decays": weights(3), "rms_decays": weights(1), "adafactor_decays": weights(3)},
    }


def mulo_arrays(hidden=4):
    """The layers of the PyTorch release: weights are [outputs, inputs]."""
    weights = Weights()
    shapes = {"input": (hidden, 39), "linear_0": (hidden, hidden), "output": (2, hidden)}
    arrays = {f"network.{layer}.weight": weights(*shape) for layer, shape in shapes.items()}
    return arrays | {f"network.{layer}.bias": weights(shape[0]) for layer, shape in shapes.items()}


TREES = {
    "velo": velo_tree,
    "velo_s": velo_tree,
    "muvelo": velo_tree,
    "celo": celo_tree,
    "celo_adam": celo_adam_tree,
    "celo2": celo2_tree,
    "celo2_base": celo2_tree,
    "small_fc": small_fc_tree,
    "mulo": mulo_arrays,
    "mulo_jax": small_fc_tree,
}


def flat(tree, path=""):
    """The arrays by their path, as the golden traces name them."""
    if isinstance(tree, LSTMState):
        tree = tree._asdict()
    if not isinstance(tree, dict):
        return {path[1:]: tree}
    return {name: leaf for key, node in tree.items() for name, leaf in flat(node, f"{path}/{key}").items()}


def safetensors_bytes(arrays):
    """A safetensors file as PyTorch users write it: 8 bytes of length, a JSON header, the arrays."""
    header, data = {}, b""
    for name, array in sorted(arrays.items()):
        header[name] = {
            "dtype": "F32",
            "shape": list(array.shape),
            "data_offsets": [len(data), len(data) + array.nbytes],
        }
        data += array.tobytes()
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded + data
