"""Policies as networks. The outsiders: torch.distributions, finite differences, frequencies, hand numbers."""

import math

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete
from torch.distributions import Categorical, Normal, kl_divergence

from rlbook import policies

BOX = Box(-np.inf, np.inf, (3,))
ROWS = 7


def drawn(kind, seed=0, rows=ROWS):
    """(policy, parameters, actions) in float64; parameters and actions are drawn, no network made them."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    if kind == "categorical":
        policy = policies.build(BOX, Discrete(4))[0]
        return policy, normal.log_softmax(-1), torch.randint(4, (rows,), generator=generator)
    policy = policies.build(BOX, Box(-1, 1, (2,)))[0]
    return policy, normal, torch.randn(rows, 2, generator=generator, dtype=torch.float64)


def twin(params, kind):
    """The same distribution from torch."""
    if kind == "categorical":
        return Categorical(probs=params.exp())
    mean, log_std = params[..., :2], params[..., 2:]
    return torch.distributions.Independent(Normal(mean, log_std.exp()), 1)


def differences(f, x, h=1e-6):
    """Central differences of the scalar f at the tensor x."""
    numeric = torch.zeros_like(x)
    for i in np.ndindex(*x.shape):
        up, down = x.detach().clone(), x.detach().clone()
        up[i] += h
        down[i] -= h
        numeric[i] = (f(up) - f(down)) / (2 * h)
    return numeric


kinds = pytest.mark.parametrize("kind", ["categorical", "gaussian"])


# --- log-probability, entropy (83), divergence -------------------------------------------------------


@kinds
def test_log_probabilities_are_those_of_torch_distributions(kind):
    policy, params, action = drawn(kind)
    got = policy.log_prob(params, action)
    assert got.shape == (ROWS,)
    np.testing.assert_allclose(got, twin(params, kind).log_prob(action), rtol=0, atol=1e-13)


@kinds
def test_entropies_are_those_of_torch_distributions(kind):
    """(83)."""
    policy, params, _ = drawn(kind)
    got = policy.entropy(params)
    assert got.shape == (ROWS,)
    np.testing.assert_allclose(got, twin(params, kind).entropy(), rtol=0, atol=1e-13)


@kinds
def test_divergences_are_those_of_torch_distributions(kind):
    """KL(old || new): its value differs from that of KL(new || old) in every row here."""
    policy, old, _ = drawn(kind)
    new = drawn(kind, seed=1)[1]
    forward = kl_divergence(twin(old, kind), twin(new, kind))
    backward = kl_divergence(twin(new, kind), twin(old, kind))
    got = policy.kl(old, new)
    assert got.shape == (ROWS,)
    np.testing.assert_allclose(got, forward, rtol=0, atol=1e-12)
    assert ((forward - backward).abs() > 1e-3).all()
    np.testing.assert_allclose(policy.kl(old, old), 0, rtol=0, atol=1e-15)


def test_the_divergence_of_two_coins_is_that_of_old_from_new():
    """(70) Old (1/2, 1/2), new (1/4, 3/4): 1/2 log 2 + 1/2 log 2/3 = 0.143841; the reverse is 0.130812."""
    policy = policies.build(BOX, Discrete(2))[0]
    old, new = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    assert policy.kl(old, new).item() == pytest.approx(0.5 * math.log(4 / 3), abs=1e-7)
    assert policy.kl(new, old).item() == pytest.approx(0.130812, abs=1e-6)


def test_the_divergence_of_two_normals_is_that_of_old_from_new():
    """Old N(0, 1), new N(0, 2^2): log 2 + 1/8 - 1/2 = 0.318147; the reverse is 2 - 1/2 - log 2 = 0.806853."""
    policy = policies.build(BOX, Box(-1, 1, (1,)))[0]
    old, new = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, math.log(2)]])
    assert policy.kl(old, new).item() == pytest.approx(0.318147, abs=1e-6)
    assert policy.kl(new, old).item() == pytest.approx(0.806853, abs=1e-6)
    moved = torch.tensor([[3.0, 0.0]])
    assert policy.kl(old, moved).item() == pytest.approx(4.5)  # (3 - 0)^2 / 2


@kinds
@pytest.mark.parametrize("what", ["log_prob", "entropy", "kl"])
def test_gradients_are_derivatives(kind, what):
    """Central differences in the parameters; those of KL in its second argument."""
    policy, params, action = drawn(kind)
    old = drawn(kind, seed=1)[1]
    weight = torch.linspace(1, 2, ROWS, dtype=torch.float64)  # so that no row's part is lost in a sum

    def scalar(x):
        rows = {
            "log_prob": lambda: policy.log_prob(x, action),
            "entropy": lambda: policy.entropy(x),
            "kl": lambda: policy.kl(old, x),
        }[what]()
        return (weight * rows).sum()

    x = params.clone().requires_grad_()
    scalar(x).backward()
    assert x.grad.abs().max() > 0.01
    np.testing.assert_allclose(x.grad, differences(scalar, x), rtol=1e-7, atol=1e-7)


@kinds
def test_gradients_reach_the_weights(kind):
    """The same through the network: every weight of the policy, log-probability plus entropy."""
    action_space = Discrete(4) if kind == "categorical" else Box(-1, 1, (2,))
    policy = policies.build(BOX, action_space, hidden=(5,))[0].double()
    action = drawn(kind)[2]
    obs = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def scalar():
        params = policy(obs)
        return (policy.log_prob(params, action) + policy.entropy(params)).sum()

    scalar().backward()
    for name, w in policy.named_parameters():

        def shifted(x, w=w):
            before = w.data.clone()
            w.data.copy_(x)
            y = scalar().detach()
            w.data.copy_(before)
            return y

        np.testing.assert_allclose(w.grad, differences(shifted, w), rtol=0, atol=1e-6, err_msg=name)
    assert min(w.grad.abs().max() for w in policy.parameters()) > 1e-4


def test_equal_logits_have_the_entropy_log_a():
    """(83): the largest there is over A actions."""
    for A in (2, 3, 10):
        policy = policies.build(BOX, Discrete(A))[0]
        with torch.no_grad():
            policy.net[-1].weight.zero_()
            params = policy(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
        np.testing.assert_allclose(params.exp(), 1 / A, rtol=1e-6)
        np.testing.assert_allclose(policy.entropy(params), math.log(A), rtol=1e-6)


def test_an_action_that_never_happens_adds_no_entropy():
    """(83): 0 log 0 counts as 0, and nothing turns into NaN."""
    policy = policies.build(BOX, Discrete(2))[0]
    params = torch.tensor([[1000.0, 0.0]]).log_softmax(-1)
    assert policy.entropy(params).item() == 0
    assert policy.kl(params, params).item() == 0


def test_the_spread_does_not_depend_on_the_state():
    """Mean and log std side by side; the std starts at 1 in every dimension."""
    policy = policies.build(BOX, Box(-1, 1, (2,)))[0]
    params = policy(torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)))
    assert params.shape == (ROWS, 4)
    np.testing.assert_array_equal(params[:, 2:].detach(), np.zeros((ROWS, 2)))
    assert (params[0, :2] != params[1, :2]).all()
    policy.log_std.data[1] = 0.5
    np.testing.assert_array_equal(policy(torch.zeros(3, 3))[:, 2:].detach(), [[0, 0.5]] * 3)


# --- sampling ---------------------------------------------------------------------------------------


def test_actions_come_as_often_as_they_should():
    """Frequencies of 40,000 draws, within 4 standard errors of each probability."""
    policy, p, n = policies.build(BOX, Discrete(4))[0], np.array([0.5, 0.3, 0.15, 0.05]), 40_000
    params = torch.from_numpy(np.log(p)).expand(n, 4)
    got = np.bincount(policy.sample(params, torch.Generator().manual_seed(0)), minlength=4) / n
    assert (np.abs(got - p) < 4 * np.sqrt(p * (1 - p) / n)).all(), got


def test_rows_draw_from_their_own_distributions():
    policy = policies.build(BOX, Discrete(3))[0]
    params = (1000 * torch.eye(3)).log_softmax(-1)
    for seed in range(20):
        assert policy.sample(params, torch.Generator().manual_seed(seed)).tolist() == [0, 1, 2]


def test_normal_actions_have_their_mean_and_spread():
    """40,000 draws: means within 4 standard errors, and so the variances; the two axes are independent."""
    policy, n = policies.build(BOX, Box(-1, 1, (2,)))[0], 40_000
    mean, std = np.array([1.0, -2.0]), np.array([0.5, 3.0])
    params = torch.from_numpy(np.concatenate([mean, np.log(std)])).expand(n, 4)
    a = policy.sample(params, torch.Generator().manual_seed(0)).numpy()
    assert a.shape == (n, 2)
    assert (np.abs(a.mean(0) - mean) < 4 * std / math.sqrt(n)).all()
    assert (np.abs(a.var(0) - std**2) < 4 * std**2 * math.sqrt(2 / n)).all()
    assert abs(np.corrcoef(a.T)[0, 1]) < 4 / math.sqrt(n)


@kinds
def test_samples_repeat_and_leave_the_global_generator_alone(kind):
    policy, params, _ = drawn(kind, rows=200)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = policy.sample(params, torch.Generator().manual_seed(3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, policy.sample(params, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, policy.sample(params, torch.Generator().manual_seed(4)))


def test_the_mode_is_the_likeliest_action():
    policy = policies.build(BOX, Discrete(3))[0]
    params = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]]).log()
    assert policy.mode(params).tolist() == [1, 2]
    policy = policies.build(BOX, Box(-1, 1, (2,)))[0]
    assert policy.mode(torch.tensor([[0.1, -0.2, 5.0, 6.0]]))[0].tolist() == pytest.approx([0.1, -0.2])


# --- networks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("action_space", [Discrete(2), Box(-1, 1, (2,))], ids=["discrete", "box"])
def test_the_seed_makes_the_weights(action_space):
    """Same seed, same weights, whatever the global generator holds; another seed, other weights."""

    def weights(seed):
        nets = policies.build(BOX, action_space, seed=seed)
        return torch.cat([w.flatten() for net in nets for w in net.state_dict().values()])

    torch.manual_seed(0)
    first, state = weights(5), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(first, weights(5))
    assert not torch.equal(first, weights(6))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_weights_start_orthogonal():
    """W'W = 2 I in hidden layers (gain sqrt 2), rows of length 0.01 and 1 in the last; zero biases."""
    policy, value = policies.build(BOX, Discrete(2), hidden=(8, 6))
    for net, last in ((policy.net, 0.01), (value, 1.0)):
        first, second, third = (layer.weight.detach() for layer in net if isinstance(layer, torch.nn.Linear))
        np.testing.assert_allclose(first.T @ first, 2 * np.eye(3), atol=1e-6)  # (8, 3): columns
        np.testing.assert_allclose(second @ second.T, 2 * np.eye(6), atol=1e-6)  # (6, 8): rows
        np.testing.assert_allclose(third @ third.T, last**2 * np.eye(len(third)), atol=1e-6)
        assert all((layer.bias == 0).all() for layer in net if isinstance(layer, torch.nn.Linear))


def test_hidden_layers_are_tanh():
    """The forward pass written out; no hidden layer leaves a linear map."""
    obs = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    _, value = policies.build(BOX, Discrete(2), hidden=(5,))
    (W0, b0, W1, b1), x = (w.detach().numpy() for w in value.parameters()), obs.numpy()
    np.testing.assert_allclose(value(obs).detach(), np.tanh(x @ W0.T + b0) @ W1.T + b1, atol=1e-6)
    policy, _ = policies.build(BOX, Discrete(2), hidden=())
    assert len(policy.net) == 1 and policy.net[0].weight.shape == (2, 3)


def test_a_discrete_observation_has_one_input_a_state():
    policy, value = policies.build(Discrete(4), Discrete(3), hidden=())
    assert policy(torch.eye(4)).shape == (4, 3)
    assert value(torch.eye(4)).shape == (4, 1)
    with torch.no_grad():
        np.testing.assert_allclose(policy(torch.eye(4)).exp().sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize("space", [MultiDiscrete([2, 2]), MultiBinary(3), Box(-1, 1, (2, 2)), Box(-1, 1, ())])
def test_other_action_spaces_are_refused(space):
    with pytest.raises(ValueError, match="action_space: expected Discrete or a one-axis Box, got"):
        policies.build(BOX, space)


@pytest.mark.parametrize("space", [Box(0, 1, (4, 4)), Dict({"a": BOX}), MultiDiscrete([2, 2])])
def test_other_observation_spaces_are_refused(space):
    with pytest.raises(ValueError, match="observation_space: expected Discrete or a one-axis Box, got"):
        policies.build(space, Discrete(2))
