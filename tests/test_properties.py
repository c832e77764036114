"""Identities that hold for every input: 200 drawn cases each, the same cases in every run."""

import numpy as np
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlbook import estimation, td, worlds
from rlbook.mdp import TabularMDP

examples = settings(max_examples=200, deadline=None, derandomize=True)
sizes, unit, amounts = st.integers(1, 6), st.floats(0, 1), st.floats(-1e3, 1e3)
coefficients = st.tuples(unit, unit)


def numbers(shape, elements=amounts):
    return arrays(float, shape, elements=elements)


@st.composite
def distributions(draw, shape, low=0.0):
    """Rows that sum to 1; many of their entries are 0 or tiny unless `low` forbids it."""
    raw = draw(numbers(shape, st.floats(low, 1)))
    raw[..., draw(st.integers(0, shape[-1] - 1))] += 1
    return raw / raw.sum(axis=-1, keepdims=True)


@st.composite
def problems(draw):
    """An MDP and a policy: half of them drawn number by number, with zeros, ties and large rewards."""
    S, A, gamma = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.floats(0, 0.97))
    if draw(st.booleans()):
        mdp = worlds.random_mdp(draw(st.integers(0, 10**6)), S, A, gamma)
    else:
        P, rho = draw(distributions((S, A, S))), draw(distributions((S,)))
        mdp = TabularMDP(P, draw(numbers((S, A))), rho, gamma)
    return mdp, draw(distributions((S, A)))


def tolerance(mdp):
    """A thousand roundings of the largest value that this MDP can have."""
    return 1e-13 * (1 + np.abs(mdp.r).max()) / (1 - mdp.gamma)


@st.composite
def samples(draw):
    """(f, w) of the same length with at least one positive weight."""
    n = draw(sizes)
    w = draw(numbers(n, st.floats(0, 1e6)))
    w[draw(st.integers(0, n - 1))] += 1e-3
    return draw(numbers(n)), w


@st.composite
def targets(draw):
    """p, q > 0 and f on the same points."""
    n = draw(sizes)
    return draw(distributions((n,))), draw(distributions((n,), low=1e-6)), draw(numbers(n))


@st.composite
def streams(draw, columns=1):
    """`columns` arrays over the same T steps."""
    T = draw(st.integers(1, 12))
    return tuple(draw(numbers(T)) for _ in range(columns))


def ends(T):
    """A terminal last step, and no cuts."""
    return np.arange(T) == T - 1, np.zeros(T)


# --- estimation -------------------------------------------------------------------------------------


@examples
@given(targets())
def test_importance_weights_carry_every_average_from_q_to_p(drawn):
    """(4) for any f, and for f = 1: the mean weight is 1."""
    p, q, f = drawn
    w = estimation.importance_weights(p, q)
    np.testing.assert_allclose(q @ (w * f), p @ f, rtol=0, atol=1e-10)
    np.testing.assert_allclose(q @ w, 1, rtol=0, atol=1e-13)


@examples
@given(targets())
def test_the_variance_of_importance_sampling_is_a_second_moment_about_the_mean(drawn):
    """(5): computed around the mean instead of as a difference of two large numbers."""
    p, q, f = drawn
    want = q @ (p / q * f - p @ f) ** 2
    got = estimation.importance_sampling_variance(p, q, f)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * (1 + q @ (p / q * f) ** 2))


@examples
@given(samples(), st.floats(1e-3, 1e3))
def test_self_normalisation_ignores_the_scale_and_stays_between_the_extremes(drawn, scale):
    """Remark 1.3."""
    f, w = drawn
    got = estimation.self_normalised(f, w)
    np.testing.assert_allclose(estimation.self_normalised(f, scale * w), got, rtol=0, atol=1e-10)
    assert f.min() - 1e-10 <= got <= f.max() + 1e-10


@examples
@given(samples(), st.floats(1e-3, 1e3))
def test_the_effective_sample_size_lies_between_one_and_n(drawn, scale):
    _, w = drawn
    got = estimation.effective_sample_size(w)
    assert 1 - 1e-12 <= got <= len(w) * (1 + 1e-12)
    np.testing.assert_allclose(estimation.effective_sample_size(scale * w), got, rtol=1e-12)


@examples
@given(st.data(), sizes, st.integers(1, 4))
def test_softmax_scores_average_to_zero(data, n_actions, d):
    """Ex. 1.8, Remark 1.4: for any features and parameters, under the policy itself."""
    features, theta = data.draw(numbers((n_actions, d), st.floats(-5, 5))), data.draw(numbers(d))
    pi = estimation.softmax(features @ theta)
    np.testing.assert_allclose(pi.sum(), 1, rtol=0, atol=1e-14)
    np.testing.assert_allclose(pi @ estimation.softmax_score(features, theta), 0, rtol=0, atol=1e-13)


@examples
@given(st.data(), sizes, amounts)
def test_softmax_ignores_a_common_shift_and_keeps_ratios(data, n, shift):
    logits = data.draw(numbers(n, st.floats(-300, 300)))
    pi = estimation.softmax(logits)
    np.testing.assert_allclose(estimation.softmax(logits + shift), pi, rtol=0, atol=1e-12)
    np.testing.assert_allclose(pi, pi[0] * np.exp(logits - logits[0]), rtol=0, atol=1e-12)


# --- returns and temporal differences ---------------------------------------------------------------


@examples
@given(streams(2), unit, amounts)
def test_returns_are_recursive_and_linear(drawn, discount, scale):
    """(16): G_t = r_t + gamma G_{t+1}, and G(a + c b) = G(a) + c G(b)."""
    a, b = drawn
    Ga, Gb = td.returns_to_go(a, discount), td.returns_to_go(b, discount)
    np.testing.assert_allclose(Ga - discount * np.append(Ga[1:], 0), a, rtol=0, atol=1e-9)
    np.testing.assert_allclose(td.returns_to_go(a + scale * b, discount), Ga + scale * Gb, rtol=0, atol=1e-6)


@examples
@given(streams(2), unit)
def test_gae_with_lambda_one_is_the_return_less_the_value(drawn, discount):
    """(80) without cuts: the values of later steps cancel."""
    reward, value = drawn
    got, target = td.gae(reward, value, np.append(value[1:], 9e9), *ends(len(reward)), discount, 1.0)
    G = [sum(discount**k * r for k, r in enumerate(reward[t:])) for t in range(len(reward))]
    np.testing.assert_allclose(target, G, rtol=0, atol=1e-9)
    np.testing.assert_allclose(got, G - value, rtol=0, atol=1e-9)


@examples
@given(streams(1), coefficients, st.integers(1, 15), amounts)
def test_the_true_values_of_a_chain_surprise_nobody(drawn, gamma_lam, n, end):
    """With exact V on a deterministic chain each n-step return is V, and each advantage and update is 0."""
    (reward,), (discount, lam) = drawn, gamma_lam
    T, V = len(reward), [end]
    for r in reward[::-1]:
        V.insert(0, r + discount * V[0])
    here, ahead, none = np.array(V[:-1]), np.array(V[1:]), np.zeros(len(reward))
    np.testing.assert_allclose(
        td.n_step_return(reward, ahead, none, none, discount, n), here, rtol=0, atol=1e-8
    )
    np.testing.assert_allclose(
        td.gae(reward, here, ahead, none, none, discount, lam)[0], 0, rtol=0, atol=1e-8
    )
    steps = (np.arange(T), reward, np.arange(1, T + 1))
    np.testing.assert_allclose(td.td_lambda(*steps, none, none, discount, lam, 0.5, V), V, rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        td.td_loss_gradient(V, *steps, none, discount, residual=True), 0, rtol=0, atol=1e-8
    )


@examples
@given(streams(3), coefficients, st.data())
def test_targets_are_the_value_plus_the_advantage_and_cut_where_flags_say(drawn, gamma_lam, data):
    """(80), (81): data before a flag never depend on data after it."""
    reward, value, next_value = drawn
    discount, lam = gamma_lam
    T = len(reward)
    ended, cut = (data.draw(arrays(bool, T)) for _ in range(2))
    advantage, target = td.gae(*drawn, ended, cut, discount, lam)
    np.testing.assert_allclose(target - value, advantage, rtol=0, atol=1e-9)
    stop = next((t for t in range(T) if ended[t] or cut[t]), T - 1)
    first = slice(0, stop + 1)
    alone, _ = td.gae(*(a[first] for a in (*drawn, ended, cut)), discount, lam)
    np.testing.assert_allclose(advantage[first], alone, rtol=0, atol=1e-9)
    n_step = td.n_step_return(reward, next_value, ended, cut, discount, T)
    alone = td.n_step_return(*(a[first] for a in (reward, next_value, ended, cut)), discount, T)
    np.testing.assert_allclose(n_step[first], alone, rtol=0, atol=1e-9)


# --- exact MDPs -------------------------------------------------------------------------------------


@examples
@given(problems())
def test_values_solve_the_bellman_equations(drawn):
    """(24)-(27), with the sums spelled out."""
    mdp, pi = drawn
    V, Q = mdp.evaluate(pi)[:2]
    tol = tolerance(mdp)
    np.testing.assert_allclose(np.einsum("sa,sa->s", pi, Q), V, rtol=0, atol=tol)
    np.testing.assert_allclose(mdp.r + mdp.gamma * np.einsum("sat,t->sa", mdp.P, V), Q, rtol=0, atol=tol)
    ahead = np.einsum("sat,tb,tb->sa", mdp.P, pi, Q)
    np.testing.assert_allclose(mdp.r + mdp.gamma * ahead, Q, rtol=0, atol=tol)
    np.testing.assert_allclose(np.einsum("sa,sa->s", pi, mdp.r + mdp.gamma * ahead), V, rtol=0, atol=tol)


@examples
@given(problems())
def test_advantages_average_to_zero_in_each_state_and_overall(drawn):
    """(28), (29), and (30) for what they are."""
    mdp, pi = drawn
    found = mdp.evaluate(pi)
    tol = tolerance(mdp)
    centred = np.einsum("sa,sa->s", pi, found.A)
    np.testing.assert_allclose(centred, 0, rtol=0, atol=tol)
    np.testing.assert_allclose(found.d @ centred, 0, rtol=0, atol=tol)
    one_step = mdp.r + mdp.gamma * np.einsum("sat,t->sa", mdp.P, found.V) - found.V[:, None]
    np.testing.assert_allclose(found.A, one_step, rtol=0, atol=tol)


@examples
@given(problems())
def test_occupancies_are_distributions_that_weigh_rewards_into_performance(drawn):
    """(19), (20): d >= 0, sum 1, flow in = flow out, and <d, r> = (1 - gamma) J."""
    mdp, pi = drawn
    found = mdp.evaluate(pi)
    joint = found.d[:, None] * pi
    assert found.d.min() >= -1e-12
    np.testing.assert_allclose(found.d.sum(), 1, rtol=0, atol=1e-12)
    flow = (1 - mdp.gamma) * mdp.rho + mdp.gamma * np.einsum("sa,sat->t", joint, mdp.P)
    np.testing.assert_allclose(found.d, flow, rtol=0, atol=1e-12)
    np.testing.assert_allclose((joint * mdp.r).sum(), (1 - mdp.gamma) * found.J, rtol=0, atol=tolerance(mdp))


@examples
@given(problems(), amounts)
def test_a_bonus_on_every_step_moves_values_and_no_advantage(drawn, c):
    """r + c: J and V rise by c / (1 - gamma), A and d stay."""
    mdp, pi = drawn
    one, two = mdp.evaluate(pi), TabularMDP(mdp.P, mdp.r + c, mdp.rho, mdp.gamma).evaluate(pi)
    tol = tolerance(mdp) + 1e-13 * abs(c) / (1 - mdp.gamma)
    np.testing.assert_allclose(two.J - one.J, c / (1 - mdp.gamma), rtol=0, atol=tol)
    np.testing.assert_allclose(two.V - one.V, c / (1 - mdp.gamma), rtol=0, atol=tol)
    np.testing.assert_allclose(two.A, one.A, rtol=0, atol=tol)
    np.testing.assert_allclose(two.d, one.d, rtol=0, atol=1e-12)


@examples
@given(problems())
def test_no_policy_beats_the_optimal_one(drawn):
    """(18), and the optimality equation: V* is the maximum of Q*."""
    mdp, pi = drawn
    best, J = mdp.optimal()
    found = mdp.evaluate(best)
    tol = 1e-9 * (1 + np.abs(mdp.r).max()) / (1 - mdp.gamma) ** 2
    assert mdp.evaluate(pi).J <= J + tol
    np.testing.assert_allclose(found.Q.max(axis=1), found.V, rtol=0, atol=tol)


@examples
@given(problems(), st.data())
def test_policy_gradients_add_up_to_zero_in_each_state(drawn, data):
    """(36): a common shift of the logits of a state changes nothing."""
    mdp, _ = drawn
    gradient = mdp.policy_gradient(data.draw(numbers(mdp.r.shape, st.floats(-20, 20))))
    np.testing.assert_allclose(gradient.sum(axis=1), 0, rtol=0, atol=tolerance(mdp) / (1 - mdp.gamma))


@examples
@given(problems(), st.integers(0, 6))
def test_the_law_of_the_state_moves_one_step_at_a_time(drawn, t):
    """(8): d_{t+1}(s') = sum_{s, a} d_t(s) pi(a|s) P(s'|s, a)."""
    mdp, pi = drawn
    want = np.einsum("s,sa,sat->t", mdp.state_law(pi, t), pi, mdp.P)
    np.testing.assert_allclose(mdp.state_law(pi, t + 1), want, rtol=0, atol=1e-13)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(problems())
def test_every_mdp_is_an_environment_that_gymnasium_accepts(drawn):
    """The outsider is gymnasium's check_env; it raises on the first thing it dislikes."""
    env = drawn[0].env()
    assert check_env(env, skip_render_check=True) is None
