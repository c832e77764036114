"""Asynchronous advantage actor-critic. The outsiders: A2C, the optimiser's formula, and the process table.

A started worker costs seconds (it imports torch), so what the parent makes of dying workers is mostly
asked of forked stand-ins.
"""

import multiprocessing
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from rlbook import a2c, a3c, policies
from rlbook.rollout import one_thread
from rlbook.worlds import two_state

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
SMALL = a3c.Config(800, n_envs=4, discount=0.9, hidden=(8,), workers=1)


class Trouble(gymnasium.Env):
    """The two-state world, with something that happens in the seventh step, and only in a worker.

    Workers find it as `test_a3c:Fail-v0` and so on: that name makes them import this file.
    """

    def __init__(self, event):
        self.env, self.event, self.steps = two_state().env(50), event, 0
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)

    def step(self, action):
        self.steps += 1
        if self.steps == 7:
            self.event()
        return self.env.step(action)


def fail():
    raise RuntimeError("the seventh step is broken")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def meet():
    """Wait until the other worker is here too, so that neither does all the work alone."""
    folder = Path(os.environ["A3C_MEETING"])
    (folder / str(os.getpid())).touch()
    start = time.monotonic()
    while len(list(folder.iterdir())) < 2 and time.monotonic() - start < 60:
        time.sleep(0.001)


for event in (fail, die, meet):
    gymnasium.register(f"{event.__name__.title()}-v0", entry_point=Trouble, kwargs={"event": event})


@pytest.fixture(autouse=True)
def one_thread_two_minutes_and_no_process_left():
    """A run that would hang ends with an error, and what it leaves behind is ended and counted."""
    if hasattr(signal, "SIGALRM"):
        before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("still waiting after two minutes"))
        signal.alarm(120)
    with one_thread():
        yield
    if hasattr(signal, "SIGALRM"):
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    left = multiprocessing.active_children()
    for process in left:
        process.kill()
    assert left == []


def flat(*networks):
    return torch.cat([parameters_to_vector(net.parameters()).detach() for net in networks])


# --- real workers -----------------------------------------------------------------------------------


def test_one_worker_is_a2c_bit_for_bit():
    """Box 3.4.3. Same seed, same numbers: weights, every column of the history; staleness 0."""
    want = a2c.train(
        "CartPole-v1", a2c.Config(800, n_envs=4, discount=0.9, hidden=(8,)), seed=2, progress=False
    )
    got = a3c.train("CartPole-v1", SMALL, seed=2, progress=False)
    assert torch.equal(flat(got.policy, got.value), flat(want.policy, want.value))
    for name in set(want.history) - {"seconds"}:
        np.testing.assert_array_equal(got.history[name], want.history[name])
    assert len(got.history["staleness"]) == 40
    assert not got.history["staleness"].any() and not got.history["worker"].any()
    assert np.isfinite(want.history["episode_return"]).any()


def test_two_workers_share_the_work(tmp_path, monkeypatch):
    """Every update happens once, both workers make some, some come late, and the policy gets better."""
    monkeypatch.setenv("A3C_MEETING", str(tmp_path))
    config = a3c.Config(6_000, n_envs=4, discount=0.9, lr=5e-3, hidden=(8,), workers=2)
    found = a3c.train("test_a3c:Meet-v0", config, progress=False)
    history = found.history
    assert len(history["worker"]) == 6_000 // (4 * 5)
    assert history["env_steps"].tolist() == list(range(20, 6_001, 20))
    assert set(history["worker"]) == {0, 1} and np.bincount(history["worker"].astype(int)).min() > 20
    assert history["staleness"].min() == 0 and history["staleness"].max() >= 1
    assert (np.diff(history["seconds"]) >= 0).all()
    with torch.no_grad():
        pi = found.policy.double()(torch.eye(2, dtype=torch.float64)).exp().numpy()
    assert two_state().evaluate(pi).J > 12  # 7.47 at the start, at most 15.82


def test_a_worker_that_fails_hands_over_its_traceback():
    with pytest.raises(a3c.WorkerError, match="(?s)worker 0 stopped:.*the seventh step is broken") as caught:
        a3c.train("test_a3c:Fail-v0", SMALL, progress=False)
    assert "in fail" in str(caught.value)
    assert len(caught.value.result.history["env_steps"]) == 1  # five steps make an update, the seventh fails
    assert torch.isfinite(flat(caught.value.result.policy, caught.value.result.value)).all()


def test_a_worker_that_is_killed_is_noticed():
    with pytest.raises(a3c.WorkerError, match="worker 0 died with exit code -9"):
        a3c.train("test_a3c:Die-v0", SMALL, progress=False)
    assert multiprocessing.active_children() == []


# --- what the parent makes of its workers: forked stand-ins -----------------------------------------


@pytest.fixture
def stand_in(monkeypatch):
    """Replace the worker's function; the two workers are forked, which takes milliseconds."""

    def replace(work):
        monkeypatch.setattr(a3c, "_work", work)
        fork = multiprocessing.get_context("fork")
        monkeypatch.setattr(torch.multiprocessing, "get_context", lambda method: fork)
        return lambda: a3c.train("CartPole-v1", a3c.Config(800, workers=2), progress=False)

    return replace


ROW = {"episode_return": 1.0, "staleness": 0, "worker": 0, "value_loss": 0.0, "entropy": 0.0}


@forks
def test_a_worker_killed_with_the_lock_in_its_hand_does_not_hang_the_run(stand_in):
    def work(w, *args, taken, done, rows):
        if w == 0:
            taken.get_lock().acquire()
            die()
        time.sleep(0.2)
        taken.get_lock().acquire()  # for ever

    with pytest.raises(a3c.WorkerError, match="worker 0 died with exit code -9"):
        stand_in(work)()


@forks
def test_a_worker_killed_while_writing_a_row_does_not_hang_the_run(stand_in):
    def work(w, *args, taken, done, rows):
        if w == 1:
            rows.put(ROW)
            rows._wlock.acquire()
            die()
        time.sleep(0.2)
        rows.put(ROW)  # for ever

    with pytest.raises(a3c.WorkerError, match="worker 1 died with exit code -9") as caught:
        stand_in(work)()
    assert len(caught.value.result.history["worker"]) == 1


@forks
def test_workers_that_leave_quietly_are_missed(stand_in):
    """os._exit(0) looks like success to the system: the missing updates tell. 800 steps are 20 updates."""

    def work(w, *args, taken, done, rows):
        rows.put(ROW)
        os._exit(0)

    with pytest.raises(a3c.WorkerError, match="every worker ended with 18 updates missing"):
        stand_in(work)()


@forks
def test_an_interrupt_ends_the_workers(stand_in, monkeypatch):
    class Bar:
        def __init__(self, **options): ...

        def __enter__(self):
            return self

        def __exit__(self, *error): ...

        def update(self):
            raise KeyboardInterrupt

    def work(w, *args, taken, done, rows):
        rows.put(ROW)
        time.sleep(600)

    monkeypatch.setattr(a3c, "tqdm", Bar)
    with pytest.raises(KeyboardInterrupt):
        stand_in(work)()
    assert multiprocessing.active_children() == []


def test_an_unknown_environment_is_refused_before_any_process_starts(monkeypatch):
    monkeypatch.setattr(torch.multiprocessing, "get_context", lambda method: pytest.fail("a process"))
    with pytest.raises(ValueError, match="env_id: expected a registered environment, got 'Nowhere-v0'"):
        a3c.train("Nowhere-v0", progress=False)


@pytest.mark.parametrize("name, bad", [("workers", 0), ("workers", 1.5), ("lr", 0.0), ("hidden", 64)])
def test_config_names_a_bad_setting(name, bad):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        a3c.Config(**{name: bad})
    assert type(a3c.Config(workers=2.0).workers) is int


# --- one worker, run here ---------------------------------------------------------------------------


def run_worker(monkeypatch, config, meanwhile=lambda done, weights: None, alive=True):
    """`_work` in this process as worker 7, one update; `meanwhile` happens after it has read the weights."""

    def number():
        return SimpleNamespace(value=0, get_lock=nullcontext)

    policy, value = cartpole_nets(config)
    update, rows, done = a2c.optimiser(policy, value, config), [], number()
    weights = update.param_groups[0]["params"]
    for p in weights:
        update.state[p] = {"step": torch.zeros(()), "square_avg": torch.ones_like(p)}
    collect = a3c.Collector.collect

    def interrupted(self, policy, steps):
        meanwhile(done, weights)
        return collect(self, policy, steps)

    monkeypatch.setattr(a3c.Collector, "collect", interrupted)
    parent = SimpleNamespace(is_alive=lambda: alive)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: parent)
    numbers = dict(taken=number(), done=done, rows=SimpleNamespace(put=rows.append))
    a3c._work(7, "CartPole-v1", config, 5, policy, value, update.state_dict()["state"], 1, **numbers)
    return rows, flat(policy, value), done.value


def cartpole_nets(config):
    env = gymnasium.make("CartPole-v1")
    return policies.build(env.observation_space, env.action_space, config.hidden, seed=5)


def test_a_late_gradient_is_that_of_the_weights_it_was_read_from(monkeypatch):
    """Others make 3 updates meanwhile and add 1 to every weight. Then theta + 1 moves by RMSprop on the
    gradient g at theta: by -lr g / sqrt(.99 + .01 g^2), from the running means of 1 they share.
    """
    config = a3c.Config(hidden=(4,), lr=0.5)

    def others(done, weights):
        done.value += 3
        with torch.no_grad():
            for p in weights:
                p += 1

    nets = cartpole_nets(config)
    before = flat(*nets)
    segment = a3c.Collector("CartPole-v1", config.n_envs, 5).collect(nets[0], config.n_steps)
    a2c.gradient(*nets, segment, config)
    g = torch.cat([p.grad.flatten() for net in nets for p in net.parameters()])
    rows, after, done = run_worker(monkeypatch, config, others)
    want = before + 1 - config.lr * g / (0.99 + 0.01 * g**2).sqrt()
    np.testing.assert_allclose(after, want, rtol=0, atol=1e-5)  # RMSprop adds 1e-5 to the root
    assert (after - before - 1).abs().max() > 0.05
    assert (rows[0]["staleness"], rows[0]["worker"], done, len(rows)) == (3, 7, 4, 1)


def test_a_gradient_that_overflows_is_not_applied(monkeypatch):
    def huge(done, weights):
        step = gymnasium.wrappers.TimeLimit.step
        monkeypatch.setattr(
            gymnasium.wrappers.TimeLimit, "step", lambda *a: (lambda o, r, *x: (o, 1e25 * r, *x))(*step(*a))
        )

    config = a3c.Config(hidden=(4,))
    rows, after, done = run_worker(monkeypatch, config, huge)
    assert len(rows) == 1 and "worker 7 stopped" in rows[0] and "FloatingPointError: the loss is" in rows[0]
    assert torch.equal(after, flat(*cartpole_nets(config))) and done == 0


def test_a_worker_that_calls_exit_says_so(monkeypatch):
    rows, _, _ = run_worker(monkeypatch, a3c.Config(hidden=(4,)), lambda done, weights: sys.exit("bye"))
    assert len(rows) == 1 and "SystemExit: bye" in rows[0]


def test_an_orphan_does_nothing(monkeypatch):
    config = a3c.Config(hidden=(4,))
    rows, after, done = run_worker(monkeypatch, config, alive=False)
    assert rows == [] and done == 0 and torch.equal(after, flat(*cartpole_nets(config)))
