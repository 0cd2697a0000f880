"""Meta-gradients do not depend on how many threads XLA has. Without `compiler_options` they do, here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from meta_train.config import MetaTrainConfig
from meta_train.executors.local import LocalExecutor
from meta_train.programs import addressed_key, build_optimizer, build_programs
from mulo.checkpoint_file import theta_digest
config = MetaTrainConfig(
    tasks=("mlp-w32-d2_digits",), batch_size=128, hidden_size=8, num_pairs=4, pairs_per_slot=4, meta_steps=100
)
theta = build_optimizer(config).init_theta(addressed_key(0, "theta"))
executor = LocalExecutor(config, build_programs(config))
for meta_step in range(3):
    (result,) = executor.advance(theta, meta_step)
    print(theta_digest(result.gradient))
"""


@pytest.mark.slow
@pytest.mark.numeric
def test_meta_gradients_do_not_depend_on_the_number_of_threads():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "NPROC": threads},
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2")
    ]
    digests = [process.communicate(timeout=300)[0] for process in processes]
    assert len(set(digests[0].split())) == 3
    assert digests[0] == digests[1]
