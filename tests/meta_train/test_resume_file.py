import dataclasses

import jax
import numpy as np
import pytest

from meta_train import resume_file
from meta_train.config import MetaTrainConfig
from meta_train.executors.local import LocalExecutor
from meta_train.executors.messages import History
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.programs import addressed_key, build_optimizer, build_programs
from meta_train.resume_file import Identity, ResumeState, read_resume_file, read_theta, write_resume_file
from meta_train.validation import no_best
from mulo.checkpoint_file import read_file, write_file
from mulo.errors import CheckpointError

pytestmark = [pytest.mark.usefixtures("standard_promotion"), pytest.mark.optimized]

CONFIG = MetaTrainConfig(
    tasks=("mlp-w8-d1_digits",),
    batch_size=8,
    hidden_size=4,
    truncation_length=2,
    min_horizon=2,
    max_horizon=12,
    num_pairs=2,
    pairs_per_slot=1,
    meta_steps=12,
    warmup_steps=1,
)


HERE = Identity(CONFIG, 4)


def own_fields(header):
    """Without those of the format of all checkpoint files."""
    return {k: v for k, v in header.items() if k not in ("format", "version", "kind", "body_bytes", "sha256")}


def rewrite(path, change):
    header, body = read_file(path, kind="run-state", max_bytes=2**30)
    write_file(path, kind="run-state", header=own_fields(header) | change, body=body)


@pytest.fixture(scope="module")
def programs():
    return build_programs(CONFIG)


@pytest.fixture(scope="module")
def state(programs):
    theta = build_optimizer(CONFIG).init_theta(addressed_key(CONFIG.seed, "theta"))
    executor = LocalExecutor(CONFIG, programs)
    executor.advance(theta, 0)
    return ResumeState(theta, make_meta_optimizer(CONFIG).init(theta), executor.snapshot(), no_best(theta))


@pytest.fixture
def behind(state):
    """The first slot before meta-step 1, the second at the beginning of a run at 3, theta before 4."""
    history = History((1, 3), (state.theta,) * 3)
    return state._replace(slot_states=[state.slot_states[0], None], history=history)


def assert_same(mine, theirs):
    assert jax.tree.structure(mine) == jax.tree.structure(theirs)
    for leaf, other in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(leaf, other)


@pytest.mark.parametrize("which", ["state", "behind"])
def test_what_is_written_is_read(request, programs, tmp_path, which):
    state = request.getfixturevalue(which)
    write_resume_file(tmp_path / "file", state, HERE)
    assert_same(read_resume_file(tmp_path / "file", HERE, programs), state)
    assert_same(read_theta(tmp_path / "file", HERE), state.theta)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (HERE._replace(meta_step=3), "was written after meta-step 4, and its name says 3"),
        (HERE._replace(meta_step=5), "was written after meta-step 4, and its name says 5"),
        (HERE._replace(config=dataclasses.replace(CONFIG, seed=1)), "belongs to another configuration"),
        (HERE._replace(initial_digest="another"), "began with another theta"),
    ],
)
def test_a_file_knows_what_it_is_of(programs, state, tmp_path, other, message):
    write_resume_file(tmp_path / "file", state, HERE)
    with pytest.raises(CheckpointError, match=message):
        read_resume_file(tmp_path / "file", other, programs)
    if not other.initial_digest:
        with pytest.raises(CheckpointError, match=message):
            read_theta(tmp_path / "file", other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"meta_step": None}, "does not say after which meta-step"),
        ({"meta_step": "4"}, "does not say after which meta-step"),
        ({"meta_step": True}, "does not say after which meta-step"),
        ({"initial_theta_digest": None}, "began with another theta"),
    ],
)
def test_a_file_that_does_not_say_what_it_is_of_is_refused(programs, state, tmp_path, change, message):
    write_resume_file(tmp_path / "file", state, HERE)
    rewrite(tmp_path / "file", change)
    with pytest.raises(CheckpointError, match=message):
        read_resume_file(tmp_path / "file", HERE, programs)


def test_a_meta_step_beyond_the_last_is_refused(programs, state, tmp_path):
    beyond = HERE._replace(meta_step=CONFIG.meta_steps + 1)
    write_resume_file(tmp_path / "file", state, beyond)
    with pytest.raises(CheckpointError, match="is of meta-step 13, and the run ends with 12"):
        read_resume_file(tmp_path / "file", beyond, programs)


def test_the_size_that_is_read_goes_with_the_configuration(programs, state, tmp_path, monkeypatch):
    """Slots of large networks have more than any constant would allow."""
    asked = []

    def read(path, *, kind, max_bytes):
        asked.append(max_bytes)
        return read_file(path, kind=kind, max_bytes=max_bytes)

    monkeypatch.setattr(resume_file, "read_file", read)
    write_resume_file(tmp_path / "file", state, HERE)
    read_resume_file(tmp_path / "file", HERE, programs)
    num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert (tmp_path / "file").stat().st_size < asked[0] < num_bytes + 2**22
    with (tmp_path / "file").open("ab") as file:
        file.truncate(2**23)
    with pytest.raises(CheckpointError, match=rf"has {2**23} bytes; wanted .* at most {asked[0]}"):
        read_resume_file(tmp_path / "file", HERE, programs)


HOSTILE = {
    "no list": {"slot_meta_steps": 3},
    "too few": {"slot_meta_steps": [1]},
    "no numbers": {"slot_meta_steps": [1, True]},
    "no truth values": {"slots_with_state": [1, 0]},
    "missing": {"slots_with_state": None},
    "beyond the end": {"slot_meta_steps": [1, 13]},
    "beyond where theta is": {"slot_meta_steps": [1, 5]},
    "fewer thetas than there are": {"slot_meta_steps": [2, 3]},
    "before the beginning": {"slot_meta_steps": [-1, 3]},
    "more thetas than there are": {"slot_meta_steps": [1, 9]},
    "a state that is not there": {"slots_with_state": [True, True]},
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_history_that_does_not_fit_is_refused(programs, behind, tmp_path, change):
    write_resume_file(tmp_path / "file", behind, HERE)
    rewrite(tmp_path / "file", change)
    with pytest.raises(CheckpointError) as caught:
        read_resume_file(tmp_path / "file", HERE, programs)
    assert "\n" not in str(caught.value)


def test_thetas_that_nobody_asked_for_are_refused(programs, state, behind, tmp_path):
    write_resume_file(tmp_path / "file", behind, HERE)
    _, body = read_file(tmp_path / "file", kind="run-state", max_bytes=2**30)
    write_resume_file(tmp_path / "file", state, HERE)
    header, full = read_file(tmp_path / "file", kind="run-state", max_bytes=2**30)
    fields = own_fields(header)
    write_file(tmp_path / "file", kind="run-state", header=fields, body=full | {"thetas": body["thetas"]})
    with pytest.raises(CheckpointError, match=r"thetas.*not expected"):
        read_resume_file(tmp_path / "file", HERE, programs)
