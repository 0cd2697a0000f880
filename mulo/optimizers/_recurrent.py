"""The recurrent network that VeLO and Celo plan with: one row of inputs for each tensor, one LSTM for all.

Metz et al. 2022 (arXiv 2211.09760), as implemented by its authors, but for a first layer of theirs that has
weights and is never used.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mulo._types import Theta


class LSTMState(NamedTuple):
    """State of the LSTM."""

    hidden: jax.Array  # [N, L], float32, a row for each tensor
    cell: jax.Array  # [N, L], float32


def init_linear(key: jax.Array, num_inputs: int, num_outputs: int) -> Theta:
    """Weights `w [I, O]`, normal as in `mulo.optimizers._mlp.init_mlp`, and biases `b [O]`, zero."""
    normal = jax.random.truncated_normal(key, -2.0, 2.0, (num_inputs, num_outputs), jnp.float32)
    return {"w": normal / np.sqrt(num_inputs).astype(np.float32), "b": jnp.zeros(num_outputs, jnp.float32)}


def init_recurrent(key: jax.Array, num_inputs: int, size: int) -> Theta:
    """Weights of the layers that mix the tensors and of the LSTM, with its initial state.

    Args:
      key: random key.
      num_inputs: F, of each tensor.
      size: L, of the LSTM.
    """
    maximum_key, own_key, lstm_key = jax.random.split(key, 3)
    return {
        "mixing": {
            "maximum": init_linear(maximum_key, num_inputs, size),
            "own": init_linear(own_key, num_inputs, size),
        },
        "lstm": {
            **init_linear(lstm_key, 2 * size, 4 * size),
            "initial_hidden": jnp.zeros(size, jnp.float32),
            "initial_cell": jnp.zeros(size, jnp.float32),
        },
    }


def init_lstm_state(theta: Theta, num_rows: int) -> LSTMState:
    """The initial state, the same in every row."""
    lstm = theta["lstm"]
    return LSTMState(
        hidden=jnp.tile(lstm["initial_hidden"], (num_rows, 1)),
        cell=jnp.tile(lstm["initial_cell"], (num_rows, 1)),
    )


def advance_lstm(theta: Theta, state: LSTMState, inputs: jax.Array) -> LSTMState:
    """One step of the LSTM; its output is the new `hidden`.

    Every tensor hears of every other through a maximum over all of them.

    Args:
      theta: as from `init_recurrent`.
      state: before.
      inputs: [N, F].
    """
    mixing, lstm = theta["mixing"], theta["lstm"]
    maximum = jnp.max(jax.nn.relu(linear(mixing["maximum"], inputs)), axis=0, keepdims=True)
    mixed = linear(mixing["own"], inputs) + maximum
    gates = linear(lstm, jnp.concatenate([mixed, state.hidden], axis=1))
    enter, candidate, keep, leave = jnp.split(gates, 4, axis=1)
    kept = jax.nn.sigmoid(keep + 1.0) * state.cell
    cell = kept + jax.nn.sigmoid(enter) * jnp.tanh(candidate)
    return LSTMState(hidden=jax.nn.sigmoid(leave) * jnp.tanh(cell), cell=cell)


def linear(layer: Theta, inputs: jax.Array) -> jax.Array:
    """inputs: [N, I] -> [N, O]."""
    return jnp.matmul(inputs, layer["w"], precision=jax.lax.Precision.HIGHEST) + layer["b"][None]
