"""Chapter 1, second half: returns, temporal differences, and what lies between them.

Arrays run over time first: (T,) for one stream or (T, N) for N streams side by side. `next_value`
and `next_state` are those after each step and before any reset. `terminated` says that the episode
ended (the future is worth 0); `truncated` says that it was only cut (the future goes on unseen).
"""

import numpy as np

from rlbook import validate


def returns_to_go(reward, discount):
    """(16), (38) Discounted reward-to-go G_t = r_t + discount G_{t+1}, up to the end of the array.

    | argument | shape          | meaning                 |
    | -------- | -------------- | ----------------------- |
    | reward   | (T,) or (T, N) | r_t of one episode each |
    | discount | [0, 1]         | gamma                   |

    Returns G, shaped as `reward`.
    """
    reward = validate.array("reward", reward, ndim=(1, 2))
    discount = validate.number("discount", discount, 0.0, 1.0)
    G = reward.copy()
    for t in reversed(range(len(reward) - 1)):
        G[t] += discount * G[t + 1]
    return G


def td_error(reward, value, next_value, discount, terminated):
    """(9) TD errors r + discount V(s') - V(s), with V(s') = 0 after a terminal step.

    | argument          | shape                 | meaning                        |
    | ----------------- | --------------------- | ------------------------------ |
    | reward            | (), (T,) or (T, N)    | r(s_t, a_t)                    |
    | value, next_value | as reward             | V(s_t), V(s_{t+1})             |
    | discount          | [0, 1]                | gamma                          |
    | terminated        | as reward             | the episode ended after step t |

    The TD target y is the error plus `value`.
    """
    reward, value, next_value = validate.same_shape(
        ndim=(0, 1, 2), reward=reward, value=value, next_value=next_value
    )
    terminated = validate.flags("terminated", terminated, reward.shape)
    discount = validate.number("discount", discount, 0.0, 1.0)
    return reward + discount * np.where(terminated, 0.0, next_value) - value


def n_step_return(reward, next_value, terminated, truncated, discount, n):
    """n-step targets: n rewards, then V of the state reached; fewer where the episode is cut earlier.

    | argument              | shape          | meaning                                      |
    | --------------------- | -------------- | -------------------------------------------- |
    | reward                | (T,) or (T, N) | r_t                                          |
    | next_value            | as reward      | V(s_{t+1})                                   |
    | terminated, truncated | as reward      | the episode ended / was cut after step t     |
    | discount              | [0, 1]         | gamma                                        |
    | n                     | int >= 1       | 1 gives the TD target (9), large n the return |

    The array's end counts as a cut: the last value bootstraps there. Source: Sutton and Barto 2018, (7.1).
    """
    reward, next_value = validate.same_shape(ndim=(1, 2), reward=reward, next_value=next_value)
    terminated, truncated = _cuts(terminated, truncated, reward.shape)
    discount, n = validate.number("discount", discount, 0.0, 1.0), validate.integer("n", n)
    bootstrap = np.where(terminated, 0.0, next_value)
    stop = terminated | truncated
    stop[-1] = True
    G = reward + discount * bootstrap
    for _ in range(min(n, len(reward)) - 1):  # one more reward before the bootstrap each time
        G = reward + discount * np.where(stop, bootstrap, np.roll(G, -1, axis=0))
    return G


def gae(reward, value, next_value, terminated, truncated, discount, lam):
    """(80), (81) Truncated generalised advantage estimates and value targets.

    | argument              | shape          | meaning                                  |
    | --------------------- | -------------- | ---------------------------------------- |
    | reward                | (T,) or (T, N) | r_t                                      |
    | value, next_value     | as reward      | V(s_t), V(s_{t+1})                       |
    | terminated, truncated | as reward      | the episode ended / was cut after step t |
    | discount, lam         | [0, 1]         | gamma, lambda                            |

    Returns advantages and targets, shaped as `reward`; the targets are the lambda-returns. A
    terminated step does not bootstrap; a truncated one does, but the sum stops there.
    Source: Schulman et al. 2016.
    """
    delta = td_error(reward, value, next_value, discount, terminated)
    if delta.ndim == 0:
        raise ValueError("reward: expected shape (T,) or (T, N), got ()")
    terminated, truncated = _cuts(terminated, truncated, delta.shape)
    carry = discount * validate.number("lam", lam, 0.0, 1.0) * ~(terminated | truncated)
    advantage = delta.copy()
    for t in reversed(range(len(delta) - 1)):  # A_t = delta_t + gamma lambda A_{t+1}
        advantage[t] += carry[t] * advantage[t + 1]
    return advantage, advantage + value


def td_lambda(state, reward, next_state, terminated, truncated, discount, lam, step_size, value):
    """Tabular TD(lambda) with accumulating traces, one pass through time; lam = 0 is TD(0) (Ex. 1.9).

    | argument              | shape          | meaning                                           |
    | --------------------- | -------------- | ------------------------------------------------- |
    | state, next_state     | (T,) or (T, N) | indices s_t, s_{t+1}                              |
    | reward                | as state       | r_t                                               |
    | terminated, truncated | as state       | the episode ended / was cut after step t          |
    | discount, lam         | [0, 1]         | gamma, lambda                                     |
    | step_size             | > 0            | eta                                               |
    | value                 | (S,) or (N, S) | the estimate to start from; it is not changed     |

    Returns the estimate after the pass: (S,) for one stream, (N, S) for N independent learners.
    Source: Sutton and Barto 2018, ch. 12.
    """
    reward = validate.array("reward", reward, ndim=(1, 2))
    value = validate.array("value", value, ndim=(1, 2))
    n_states = value.shape[-1]
    state = validate.indices("state", state, n_states, shape=reward.shape)
    next_state = validate.indices("next_state", next_state, n_states, shape=reward.shape)
    terminated, truncated = _cuts(terminated, truncated, reward.shape)
    discount, lam = validate.number("discount", discount, 0.0, 1.0), validate.number("lam", lam, 0.0, 1.0)
    step_size = validate.number("step_size", step_size, low=0.0, open_low=True)
    if reward.ndim == 1 and value.ndim == 2:
        raise ValueError(f"value: expected shape (S,) with one stream of rewards, got {value.shape}")
    if value.ndim == 2 and len(value) != reward.shape[1]:
        raise ValueError(f"value: expected {reward.shape[1]} rows, one a stream, got shape {value.shape}")

    n = 1 if reward.ndim == 1 else reward.shape[1]
    V = np.array(np.broadcast_to(value, (n, n_states)))
    columns = (a.reshape(len(reward), n) for a in (state, reward, next_state, terminated, truncated))
    stream, trace = np.arange(n), np.zeros((n, n_states))
    for s, r, s_next, ended, cut in zip(*columns, strict=True):
        delta = r + discount * np.where(ended, 0.0, V[stream, s_next]) - V[stream, s]
        trace *= discount * lam
        trace[stream, s] += 1
        V += step_size * delta[:, None] * trace
        trace[ended | cut] = 0
    return V[0] if reward.ndim == 1 else V


def td_loss_gradient(value, state, reward, next_state, terminated, discount, residual=False, weight=None):
    """Gradient (S,) of half the mean squared TD error over transitions, for a table of values.

    | argument   | shape        | meaning                                                             |
    | ---------- | ------------ | ------------------------------------------------------------------- |
    | value      | (S,)         | V                                                                   |
    | state, reward, next_state, terminated | (N,) | the transitions                                  |
    | discount   | [0, 1]       | gamma                                                               |
    | residual   | bool         | False: semi-gradient, the target is held fixed. True: the gradient  |
    |            |              | of the printed loss (45), through V(s') as well                     |
    | weight     | (N,) or None | probability of each transition; None: 1/N each                      |

    The semi-gradient vanishes at the true values; the residual gradient in general does not.
    """
    value = validate.array("value", value, ndim=1)
    reward = validate.array("reward", reward, ndim=1)
    state = validate.indices("state", state, len(value), shape=reward.shape)
    next_state = validate.indices("next_state", next_state, len(value), shape=reward.shape)
    terminated = validate.flags("terminated", terminated, reward.shape)
    n = len(reward)
    weight = np.full(n, 1 / n) if weight is None else validate.distributions("weight", weight, shape=(n,))
    delta = td_error(reward, value[state], value[next_state], discount, terminated)
    gradient = -np.bincount(state, weight * delta, minlength=len(value))
    if residual:
        gradient += np.bincount(next_state, discount * weight * delta * ~terminated, minlength=len(value))
    return gradient


def _cuts(terminated, truncated, shape):
    return validate.flags("terminated", terminated, shape), validate.flags("truncated", truncated, shape)
