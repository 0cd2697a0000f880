"""Every fault that can be had without processes; theta is that of a quiet run, to the bit."""

import jax
import numpy as np
import pytest

from meta_train.config import MetaTrainConfig
from meta_train.errors import ExecutorError, InterruptedMetaStepError
from meta_train.executors.distributed import DistributedExecutor
from meta_train.executors.interface import Answered, Died, Ready
from meta_train.executors.local import LocalExecutor
from meta_train.executors.messages import Facts
from meta_train.executors.options import WorkerOptions
from meta_train.meta_optimizer import make_meta_optimizer
from meta_train.meta_update import make_meta_update
from meta_train.programs import addressed_key, build_optimizer, build_programs, slot_shapes
from mulo.checkpoint_file import theta_digest
from tests.faults.fake_pool import FakePool, change_gradients

pytestmark = pytest.mark.usefixtures("standard_promotion")

CONFIG = MetaTrainConfig(
    tasks=("mlp-w8-d1_digits",),
    batch_size=8,
    hidden_size=4,
    truncation_length=2,
    min_horizon=2,
    max_horizon=12,
    num_pairs=4,
    pairs_per_slot=1,
    meta_steps=12,
    warmup_steps=1,
)
NUM_SLOTS = 4


@pytest.fixture(scope="module")
def programs():
    return build_programs(CONFIG)


@pytest.fixture(scope="module")
def update():
    return make_meta_update(CONFIG)


def train(executor, update, meta_steps=range(CONFIG.meta_steps), after=lambda _: None, config=CONFIG):
    """Meta-steps of an executor; the digest of theta."""
    theta = build_optimizer(config).init_theta(addressed_key(config.seed, "theta"))
    state = make_meta_optimizer(config).init(theta)
    for meta_step in meta_steps:
        gradients = [result.gradient for result in executor.advance(theta, meta_step)]
        theta, state, _ = update(theta, state, gradients)
        after(meta_step)
    return theta_digest(theta)


@pytest.fixture(scope="module")
def quiet(programs, update):
    """The digest of a run in this process."""
    return train(LocalExecutor(CONFIG, programs), update)


class Setting:
    """A distributed executor on a fake pool."""

    def __init__(
        self, programs, num_workers, fault=None, stop=lambda: False, no_room=(), versions=None, **options
    ):
        self.said = []
        self.pool = FakePool(CONFIG, programs, fault=fault)
        self.pool.no_room.update(no_room)
        self.executor = DistributedExecutor(
            CONFIG,
            self.pool,
            WorkerOptions(workers=num_workers, **{"snapshot_interval": 4} | options),
            say=self.said.append,
            state_shapes=slot_shapes(CONFIG, programs),
            stop=stop,
            versions=versions,
            clock=self.pool.clock,
        )

    def heard(self, text):
        return [line for line in self.said if text in line]


def once(condition, do):
    """A fault that happens at the first call for which `condition` holds."""
    done = []

    def fault(call):
        if done or not condition(call):
            return call.answer
        done.append(True)
        return do(call)

    return fault


def at(meta_step, place=None):
    return lambda call: call.request.meta_step == meta_step and place in (None, call.worker.place)


def kill(call):
    call.die()


@pytest.mark.parametrize("num_workers", [1, 2, 3, 5])
def test_theta_does_not_depend_on_the_number_of_workers(programs, update, quiet, num_workers):
    setting = Setting(programs, num_workers)
    assert train(setting.executor, update) == quiet
    report = setting.executor.report()
    assert report["restarts"] == report["replays"] == report["dropped_answers"] == 0
    assert sum(report["worker_slots"].values()) == NUM_SLOTS


@pytest.mark.parametrize("meta_step", [0, 1, 5, 11])
@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_a_worker_is_killed_in_the_middle_of_an_unroll(programs, update, quiet, num_workers, meta_step):
    setting = Setting(programs, num_workers, once(at(meta_step), kill))
    assert train(setting.executor, update) == quiet
    assert len(setting.heard("is lost: killed")) == 1
    assert setting.executor.report()["restarts"] == 1


@pytest.mark.parametrize("places", [(0, 1), (0, 1, 2)])
def test_several_workers_are_killed_at_once(programs, update, quiet, places):
    def fault(call):
        if call.request.meta_step == 6 and call.worker.worker_id in places:
            return call.die()
        return call.answer

    setting = Setting(programs, 3, fault)
    assert train(setting.executor, update) == quiet
    assert setting.executor.report()["restarts"] == len(places)


def test_a_worker_dies_while_it_makes_lost_slots_again(programs, update, quiet):
    def fault(call):
        replays = any(order.start is not None and order.start.thetas for order in call.request.orders)
        if call.request.meta_step == 7 and (
            call.worker.worker_id < 2 or (replays and call.worker.worker_id < 4)
        ):
            return call.die()
        return call.answer

    setting = Setting(programs, 2, fault)
    assert train(setting.executor, update) == quiet
    assert setting.executor.report()["restarts"] > 2


@pytest.mark.parametrize("interval", [1, 3, 100])
def test_the_interval_of_snapshots_decides_only_how_much_is_done_again(programs, update, quiet, interval):
    setting = Setting(programs, 2, once(at(10), kill), snapshot_interval=interval)
    assert train(setting.executor, update) == quiet
    replays = setting.executor.report()["replays"]
    assert replays == 0 if interval == 1 else replays > 0


def test_killed_and_restored_from_a_checkpoint(programs, update, quiet):
    first = Setting(programs, 2)
    theta = build_optimizer(CONFIG).init_theta(addressed_key(CONFIG.seed, "theta"))
    state = make_meta_optimizer(CONFIG).init(theta)
    for meta_step in range(5):
        results = first.executor.advance(theta, meta_step)
        theta, state, _ = update(theta, state, [result.gradient for result in results])
    slot_states = first.executor.snapshot()
    second = Setting(programs, 3, once(at(9), kill))
    second.executor.restore(slot_states, 5)
    for meta_step in range(5, CONFIG.meta_steps):
        results = second.executor.advance(theta, meta_step)
        theta, state, _ = update(theta, state, [result.gradient for result in results])
    assert theta_digest(theta) == quiet


@pytest.mark.parametrize("meta_step", [2, 7])
def test_what_the_driver_knows_is_enough_to_go_on_when_no_worker_answers(programs, update, quiet, meta_step):
    """Some slots have answered for the meta-step under way, with their states; it is made again."""
    stopped = []

    def fault(call):
        if call.request.meta_step != meta_step or call.worker.place == 0:
            return call.answer
        return stopped.append(True)

    first = Setting(programs, 2, fault, stop=lambda: bool(stopped), snapshot_interval=3)
    theta = build_optimizer(CONFIG).init_theta(addressed_key(CONFIG.seed, "theta"))
    state = make_meta_optimizer(CONFIG).init(theta)
    for step in range(meta_step):
        results = first.executor.advance(theta, step)
        theta, state, _ = update(theta, state, [result.gradient for result in results])
    with pytest.raises(InterruptedMetaStepError):
        first.executor.advance(theta, meta_step)
    known = first.executor.known_states(meta_step)
    for second in (Setting(programs, 3).executor, LocalExecutor(CONFIG, programs)):
        second.restore(known[0], meta_step, known[1])
        mine, my_state = theta, state
        for step in range(meta_step, CONFIG.meta_steps):
            results = second.advance(mine, step)
            mine, my_state, _ = update(mine, my_state, [result.gradient for result in results])
        assert theta_digest(mine) == quiet


def test_a_snapshot_is_that_of_the_local_executor_even_if_a_worker_dies_meanwhile(programs, update):
    local = LocalExecutor(CONFIG, programs)
    setting = Setting(programs, 2, once(lambda call: call.request.theta is None, kill))
    for executor in (local, setting.executor):
        train(executor, update, range(5))
    for mine, theirs in zip(
        jax.tree.leaves(setting.executor.snapshot()), jax.tree.leaves(local.snapshot()), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)
    assert setting.heard("is lost: killed")


def test_a_hanging_worker_is_ended_and_replaced(programs, update, quiet):
    setting = Setting(programs, 2, once(at(5, 1), lambda *_: None), worker_timeout=15.0)
    assert train(setting.executor, update) == quiet
    (line,) = setting.heard("it hangs")
    assert "worker 1" in line
    assert setting.executor.report()["restarts"] == 1


def test_a_long_call_is_not_taken_to_hang(programs, update, quiet):
    def fault(call):
        call.worker.slowness = 5.0
        return call.answer

    setting = Setting(programs, 2, fault, worker_timeout=0.5)
    assert train(setting.executor, update) == quiet
    assert not setting.heard("it hangs")


def test_late_and_double_answers_are_dropped(programs, update, quiet):
    def fault(call):
        call.pool.later(2.25, Answered(call.worker.worker_id, call.answer))
        call.pool.later(6.0, Answered(call.worker.worker_id, call.answer))
        if call.request.meta_step == 4 and call.worker.place == 0 and call.worker.worker_id == 0:
            call.pool.die(call.worker, seconds=0.1)
        return call.answer

    setting = Setting(programs, 2, fault)
    assert train(setting.executor, update) == quiet
    assert setting.executor.report()["dropped_answers"] > CONFIG.meta_steps


MISSHAPEN = {
    "shape": lambda answer: change_gradients(answer, lambda leaf: leaf[None]),
    "dtype": lambda answer: change_gradients(answer, lambda leaf: leaf.astype(np.float64)),
    "no tree": lambda answer: change_gradients(answer, lambda leaf: {"more": leaf}),
    "meta-step": lambda answer: answer._replace(meta_step=answer.meta_step - 1),
    "slots": lambda answer: answer._replace(slots={slot + 1: a for slot, a in answer.slots.items()}),
    "nothing": lambda answer: answer._replace(slots=None),
    "no answer": lambda _: "nonsense",
    "no result": lambda answer: answer._replace(
        slots={slot: a._replace(result=None) for slot, a in answer.slots.items()}
    ),
}


@pytest.mark.parametrize("kind", MISSHAPEN)
def test_a_worker_that_answers_what_cannot_be_is_replaced(programs, update, quiet, kind):
    fault = once(at(5, 1), lambda call: MISSHAPEN[kind](call.answer))
    setting = Setting(programs, 2, fault)
    assert train(setting.executor, update) == quiet
    (line,) = setting.heard("is lost: its answer cannot be right")
    assert "worker 1" in line and "\n" not in line
    assert setting.executor.report()["restarts"] == 1


def test_workers_that_answer_nothing_else_end_the_run(programs, update):
    setting = Setting(programs, 2, lambda call: change_gradients(call.answer, lambda leaf: leaf[None]))
    with pytest.raises(ExecutorError, match=r"6 workers were lost one after the other.*cannot be right"):
        train(setting.executor, update)


def test_misshapen_states_are_no_snapshots(programs, update, quiet):
    def damage(call):
        slots = {
            slot: a._replace(state=a.state and a.state._replace(lost=np.zeros(3, bool)))
            for slot, a in call.answer.slots.items()
        }
        return call.answer._replace(slots=slots)

    setting = Setting(programs, 2, once(at(4), damage), snapshot_interval=2)
    assert train(setting.executor, update) == quiet
    assert setting.heard("has a leaf bool[3]")


def explosive(compiled):
    """A program whose gradients are not finite where theta is not, as those of the analytic estimator."""

    def advance(theta, *arguments):
        gradient, state, statistics = compiled.advance(theta, *arguments)
        return jax.tree.map(lambda g, t: g + 0 * t, gradient, theta), state, statistics

    return compiled._replace(advance=advance)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_gradients_that_are_not_finite_are_results(programs, num_workers):
    """An inner run may really explode: nobody is blamed."""
    theta = build_optimizer(CONFIG).init_theta(addressed_key(CONFIG.seed, "theta"))
    bad = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), theta)
    programs = {task: explosive(compiled) for task, compiled in programs.items()}
    local = LocalExecutor(CONFIG, programs)
    expected = [local.advance(theta, 0), local.advance(bad, 1), local.advance(theta, 2)]
    setting = Setting(programs, num_workers)
    found = [setting.executor.advance(t, step) for step, t in enumerate((theta, bad, theta))]
    assert not np.isfinite(expected[1][0].gradient["mlp"]["w0"]).all()
    for mine, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert not setting.heard("is lost")


def test_a_worker_that_joins_gets_slots_within_a_few_meta_steps(programs, update, quiet):
    slots_of_the_late = []

    def after(meta_step):
        if meta_step == 4:
            setting.pool.make_room(setting.pool.workers[1])
        slots_of_the_late.append(setting.executor.report()["worker_slots"].get("1", 0))

    setting = Setting(programs, 2, no_room=[1], min_workers=1)
    assert train(setting.executor, update, after=after) == quiet
    assert slots_of_the_late[:5] == [0] * 5
    assert slots_of_the_late[8] == 2
    assert setting.executor.report()["replays"] == 0


def test_nothing_is_begun_with_less_than_min_workers(programs, update):
    setting = Setting(programs, 3, no_room=[2], min_workers=3)
    with pytest.raises(ExecutorError, match="2 of at least 3 workers are there after 600 s"):
        train(setting.executor, update)


def test_below_min_workers_the_run_waits_for_a_replacement(programs, update, quiet):
    setting = Setting(programs, 2, once(at(5), kill), min_workers=2)
    assert train(setting.executor, update) == quiet
    by_meta_step = [r.meta_step for w in setting.pool.workers.values() for r in w.seen]
    assert by_meta_step.count(5) == 3  # two, and again one: the survivor was not given more


def test_a_restart_storm_ends_with_one_line(programs, update):
    setting = Setting(programs, 2, lambda call: call.die("segfault"))
    with pytest.raises(ExecutorError, match=r"6 workers were lost one after the other.*segfault") as caught:
        train(setting.executor, update)
    assert "\n" not in str(caught.value)
    assert setting.pool.clock.now < 60


@pytest.mark.parametrize("what", ["versions", "data"])
def test_a_worker_that_joins_and_cannot_take_part_does_not_end_the_run(programs, update, quiet, what):
    def after(meta_step):
        late = setting.pool.workers[1]
        if meta_step != 4:
            return
        if what == "versions":
            facts = Facts(1001, "there", "cpu", {"jax": "0.0.1"}, 1.0)
            setting.pool.later(0.1, Ready(1, facts))
        else:
            setting.pool.later(0.1, Died(1, "no data set here", hopeless=True))
        assert late.alive

    setting = Setting(programs, 2, no_room=[1], min_workers=1, versions={})
    assert train(setting.executor, update, after=after) == quiet
    (line,) = setting.heard("is refused")
    assert ("0.0.1" if what == "versions" else "no data set here") in line
    assert setting.executor.report()["worker_slots"] == {"0": NUM_SLOTS}
    assert len(setting.pool.workers) == 2 and setting.pool.workers[1].alive  # it keeps its device


def test_other_versions_than_the_driver_has_end_a_run_before_it_begins(programs, update):
    setting = Setting(programs, 2, versions={"jax": "0.0.1"})
    with pytest.raises(ExecutorError, match="Install the same versions everywhere"):
        train(setting.executor, update)


def test_what_would_happen_to_any_worker_ends_the_run_at_once(programs, update):
    def fault(call):
        call.pool.later(0.1, Died(call.worker.worker_id, "out of memory", hopeless=True))

    setting = Setting(programs, 2, fault)
    with pytest.raises(ExecutorError, match="any other would: out of memory"):
        train(setting.executor, update)


def test_a_signal_does_not_wait_for_a_meta_step_that_does_not_end(programs, update):
    stopped = []
    setting = Setting(programs, 1, lambda *_: stopped.append(True), stop=lambda: bool(stopped))
    with pytest.raises(InterruptedMetaStepError):
        train(setting.executor, update)
    assert setting.pool.clock.now < 30


def test_the_pool_is_closed_with_the_executor(programs):
    setting = Setting(programs, 2)
    with setting.executor:
        assert not setting.pool.closed
    assert setting.pool.closed
