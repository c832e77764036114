"""Chapter 3: the printed forms of the policy gradient, exact and per trajectory, for tabular softmax."""

import numpy as np

from rlbook import validate
from rlbook.estimation import softmax
from rlbook.td import returns_to_go

FORMS = ("trajectory", "reward_to_go", "printed")


def truncated_gradient(mdp, logits, horizon, form="reward_to_go"):
    """(34), (35) Exact mean of a policy-gradient estimator over trajectories of `horizon` steps.

    | argument | shape      | meaning                                                         |
    | -------- | ---------- | --------------------------------------------------------------- |
    | mdp      | TabularMDP | the world                                                       |
    | logits   | (S, A)     | of the softmax policy                                           |
    | horizon  | int >= 1   | steps of a trajectory                                           |
    | form     | str        | "trajectory": (34), score of all actions times G_0              |
    |          |            | "reward_to_go": (35) with gamma^t, sum of gamma^t score_t G_t   |
    |          |            | "printed": (35) as it stands, sum of score_t G_t                |

    Returns (S, A). The first two are the gradient of the truncated J, and equal: rewards before t
    have no correlation with score t. The printed form is not the gradient of J for gamma < 1, nor of
    anything else; as the horizon grows it grows without limit, so it has no infinite-horizon value
    unless the episode ends. By dynamic programming: law of s_t times advantage with horizon - t steps to go.
    """
    horizon, form = validate.integer("horizon", horizon), _form(form)
    pi = softmax(validate.array("logits", logits, shape=mdp.r.shape))
    P_pi, _ = mdp.transition(pi)
    V, advantages = np.zeros(mdp.n_states), []
    for _ in range(horizon):
        Q = mdp.r + mdp.gamma * (mdp.P @ V)
        V = (pi * Q).sum(axis=1)
        advantages.append(Q - V[:, None])
    law, gradient = mdp.rho, np.zeros(mdp.r.shape)
    for t, advantage in enumerate(reversed(advantages)):
        weight = 1.0 if form == "printed" else mdp.gamma**t
        gradient += weight * law[:, None] * pi * advantage
        law = law @ P_pi
    return gradient


def trajectory_gradients(logits, walk, gamma, form="reward_to_go"):
    """(38), (39) The policy-gradient estimate of each sampled trajectory, for the softmax policy.

    | argument | shape          | meaning                                              |
    | -------- | -------------- | ---------------------------------------------------- |
    | logits   | (S, A)         | of the softmax policy that sampled                   |
    | walk     | `Trajectories` | n rollouts of T steps, from `TabularMDP.sample`      |
    | gamma    | [0, 1]         | discount                                             |
    | form     | str            | as in `truncated_gradient`                           |

    Returns (n, S, A); the mean over n is the batch estimate (39), the spread its variance.
    """
    logits = validate.array("logits", logits, ndim=2)
    pi, (n_states, n_actions) = softmax(logits), logits.shape
    reward = validate.array("reward", walk.reward, ndim=2)
    n, T = reward.shape
    state = validate.indices("state", walk.state, n_states, shape=(n, T + 1))[:, :-1]
    action = validate.indices("action", walk.action, n_actions, shape=(n, T))
    gamma, form = validate.number("gamma", gamma, 0.0, 1.0), _form(form)
    G = returns_to_go(reward.T, gamma).T
    weight = {
        "trajectory": np.broadcast_to(G[:, :1], G.shape),
        "reward_to_go": gamma ** np.arange(T) * G,
        "printed": G,
    }[form]
    gradient, row = np.zeros((n, *logits.shape)), np.arange(n)[:, None]
    np.add.at(gradient, (row, state, action), weight)  # score: 1 at the action taken ...
    np.subtract.at(gradient, (row, state), weight[..., None] * pi[state])  # ... minus pi in its state
    return gradient


def _form(form):
    if form not in FORMS:
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
    return form
