"""The toy worlds of the book, as exact MDPs and as registered gymnasium environments."""

import numpy as np
from gymnasium.envs.registration import register, registry

from rlbook import validate
from rlbook.estimation import softmax
from rlbook.mdp import TabularMDP


def two_state(gamma=0.9):
    """A two-state, two-action world small enough to check by hand; used throughout chapter 2.

    In state 0 action 0 pays 1; in state 1 action 1 pays 2. Both actions move the state at random,
    so no action is simply "stay". Starts in state 0.
    """
    P = [[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]]
    return TabularMDP(P, r=[[1, 0], [0, 2]], rho=[1, 0], gamma=gamma)


def random_mdp(rng, n_states, n_actions, gamma=0.9):
    """A random world: transition rows from Dirichlet(1/2), rewards N(0, 1), first state Dirichlet(1).

    rng is a NumPy generator or an int seed.
    """
    rng = np.random.default_rng(rng)
    n_states, n_actions = validate.integer("n_states", n_states), validate.integer("n_actions", n_actions)
    P = rng.dirichlet(np.full(n_states, 0.5), size=(n_states, n_actions))
    r = rng.standard_normal((n_states, n_actions))
    return TabularMDP(P, r, rng.dirichlet(np.ones(n_states)), gamma)


def random_walk(n=5, gamma=0.9):
    """A walk on n states in a row; stepping off the right end pays 1, off the left end 0.

    States 0..n-1 and a terminal state n; actions (left, right); starts in the middle. With the
    uniform policy this is the classic test of TD prediction. Source: Sutton and Barto 2018, Ex. 6.2.
    """
    n = validate.integer("n", n)
    P, r = np.zeros((n + 1, 2, n + 1)), np.zeros((n + 1, 2))
    for s in range(n):
        P[s, 0, s - 1 if s > 0 else n] = 1
        P[s, 1, s + 1] = 1  # state n, the terminal one, lies to the right of the last
    P[n, :, n] = 1
    r[n - 1, 1] = 1
    return TabularMDP(P, r, np.eye(n + 1)[n // 2], gamma)


def fork(gamma=0.9):
    """A -> B or C with probability 1/2; B pays 1 on its way out, C pays 0.

    States (A, B, C, end), one action. The values are (gamma/2, 1, 0, 0); minimising the squared TD
    error through both of its values does not find them.
    """
    P = np.zeros((4, 1, 4))
    P[0, 0, 1:3] = 0.5
    P[1:, 0, 3] = 1
    return TabularMDP(P, r=[[0], [1], [0], [0]], rho=[1, 0, 0, 0], gamma=gamma)


def surrogate_cliff(gamma=0.9, M=100.0):
    """Ex. 4.1.1: a rarely visited state where one action pays -M.

    States (s0, s1, end). In s0: a0 ends the episode, a1 leads to s1. In s1: g pays 1, b pays -M,
    both end the episode. Actions are (a0, a1) in s0 and (g, b) in s1.
    """
    M = validate.number("M", M, low=0.0)
    P = np.zeros((3, 2, 3))
    P[0, 0, 2] = P[0, 1, 1] = 1
    P[1:, :, 2] = 1
    return TabularMDP(P, r=[[0, 0], [1, -M], [0, 0]], rho=[1, 0, 0], gamma=gamma)


def horizon_bandit(H, gamma=0.9, one_shot=True):
    """Ex. 4.1.2: H actions that change nothing, then a reward of 1.

    States: one for each of the H steps, then s_end where the reward is paid. With `one_shot` it is
    paid once (a further, silent state follows) and J = gamma^H for every policy, as the book states.
    Without, s_end is absorbing and pays for ever, as the book defines it: J = gamma^H / (1 - gamma).
    """
    H = validate.integer("H", H)
    n = H + 2 if one_shot else H + 1
    P, r = np.zeros((n, 2, n)), np.zeros((n, 2))
    steps = np.arange(n)
    P[steps, :, np.minimum(steps + 1, n - 1)] = 1
    r[H] = 1
    return TabularMDP(P, r, np.eye(n)[0], gamma)


TIED_OFFSET = np.log(0.001 / 0.999) - np.log(1e-4 / 0.9999)  # 2.3035


def tied_policy(theta, offset=TIED_OFFSET):
    """A one-parameter class on the cliff of Ex. 4.1.1: who goes to s1 more also takes b more.

    pi(a1|s0) = sigmoid(theta), pi(b|s1) = sigmoid(theta + offset); (3, 2). The default offset, 2.3035,
    gives the policy of the book, 1e-4 and 1e-3, at theta = log(1e-4 / 0.9999). In this class the
    maximiser of L walks off the cliff; among all policies it does not.
    """
    theta, offset = validate.number("theta", theta), validate.number("offset", offset)
    return softmax([[0, theta], [0, theta + offset], [0, 0]])


def delayed_penalty(T=20, gamma=0.9):
    """A chain where action 1 pays +1 in the first step and -3 in step T; discounted, it is worth taking.

    States: one for each of the steps 0..T, then a terminal one. With one shared probability p of
    action 1, J = p (1 - 3 gamma^T): at T = 20 and gamma = 0.9, 0.63527 p.
    """
    T = validate.integer("T", T)
    P, r = np.zeros((T + 2, 2, T + 2)), np.zeros((T + 2, 2))
    steps = np.arange(T + 2)
    P[steps, :, np.minimum(steps + 1, T + 1)] = 1
    r[0, 1], r[T, 1] = 1, -3
    return TabularMDP(P, r, np.eye(T + 2)[0], gamma)


def length_bandit(lengths=(10, 100, 10), reward=(0, 0, 1), gamma=0.9):
    """A bandit whose arms differ in how long their episodes are.

    In state 0 arm a pays reward[a] at once; then silent steps follow, lengths[a] steps in all. So
    neither length nor discount matters for J = sum_a pi(a) reward[a]: an update that prefers a
    length does so by itself. State k > 0 means k steps done of the longest arm; the last is terminal.
    """
    reward = validate.array("reward", reward, ndim=1)
    lengths = validate.array("lengths", lengths, shape=reward.shape)
    lengths = np.array([validate.integer("lengths", n) for n in lengths])
    end = lengths.max()
    P, r = np.zeros((end + 1, len(reward), end + 1)), np.zeros((end + 1, len(reward)))
    steps = np.arange(end + 1)
    P[steps, :, np.minimum(steps + 1, end)] = 1
    P[0] = np.eye(end + 1)[end - lengths + 1]  # a short arm joins the silent steps late
    r[0] = reward
    return TabularMDP(P, r, np.eye(end + 1)[0], gamma)


WORLDS = {
    "TwoState": two_state,
    "RandomWalk": random_walk,
    "Fork": fork,
    "SurrogateCliff": surrogate_cliff,
    "HorizonBandit": horizon_bandit,
    "DelayedPenalty": delayed_penalty,
    "LengthBandit": length_bandit,
}


def make_env(world, max_steps=None, **options):
    """The gymnasium environment of a world by name; the other options go to the world.

    Episodes are truncated after max_steps steps, by default 200, or twice the states if that is more.
    """
    if world not in WORLDS:
        raise ValueError(f"world: expected one of {', '.join(WORLDS)}, got {world!r}")
    mdp = WORLDS[world](**({"H": 10} if world == "HorizonBandit" else {}) | options)
    return mdp.env(max(200, 2 * mdp.n_states) if max_steps is None else max_steps)


def register_envs():
    """Make the worlds known to `gymnasium.make`, as `rlbook/TwoState-v0` and so on."""
    for world in WORLDS:
        if f"rlbook/{world}-v0" not in registry:
            register(f"rlbook/{world}-v0", entry_point="rlbook.worlds:make_env", kwargs={"world": world})


register_envs()
