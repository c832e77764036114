"""Policies and value functions as small networks, for discrete and continuous actions.

A policy maps observations (B, D) to distribution parameters (B, K), one tensor that can be stored,
sliced and detached like any other; its methods turn parameters into log-probabilities, entropies,
divergences and samples. No method draws from a global generator.
"""

import math

import torch
from gymnasium.spaces import Box, Discrete
from torch import nn


def mlp(sizes, gain_out, generator):
    """Linear layers with tanh between them; orthogonal weights, zero biases."""
    layers = []
    for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
        last = i == len(sizes) - 2
        layer = nn.utils.skip_init(nn.Linear, n_in, n_out)  # its own would draw from torch's generator
        nn.init.orthogonal_(layer.weight, gain_out if last else math.sqrt(2), generator=generator)
        nn.init.zeros_(layer.bias)
        layers += [layer] if last else [layer, nn.Tanh()]
    return nn.Sequential(*layers)


class CategoricalPolicy(nn.Module):
    """Softmax policy over A actions; its parameters are log-probabilities (B, A)."""

    def __init__(self, n_obs, n_actions, hidden, generator):
        super().__init__()
        self.net = mlp([n_obs, *hidden, n_actions], 0.01, generator)

    def forward(self, obs):
        """obs (B, D) -> log-probabilities (B, A)."""
        return self.net(obs).log_softmax(dim=-1)

    def log_prob(self, params, action):
        """log pi(a|s): params (B, A), action (B,) int -> (B,)."""
        return params.gather(-1, action.unsqueeze(-1)).squeeze(-1)

    def entropy(self, params):
        """(83) Shannon entropy (B,)."""
        return -(params.exp() * params).sum(dim=-1)

    def kl(self, old, new):
        """KL(old || new) (B,), the direction of (66)-(70)."""
        return (old.exp() * (old - new)).sum(dim=-1)

    def sample(self, params, generator):
        """One action a row, (B,) int, by the Gumbel-max trick."""
        return (params - torch.empty_like(params).exponential_(generator=generator).log()).argmax(dim=-1)

    def mode(self, params):
        """The most likely action."""
        return params.argmax(dim=-1)


class GaussianPolicy(nn.Module):
    """Normal policy with a state-independent spread; its parameters are (mean, log std) (B, 2 d)."""

    def __init__(self, n_obs, n_actions, hidden, generator):
        super().__init__()
        self.net = mlp([n_obs, *hidden, n_actions], 0.01, generator)
        self.log_std = nn.Parameter(torch.zeros(n_actions))

    def forward(self, obs):
        """obs (B, D) -> means and log standard deviations (B, 2 d)."""
        mean = self.net(obs)
        return torch.cat([mean, self.log_std.expand_as(mean)], dim=-1)

    def log_prob(self, params, action):
        """log density: params (B, 2 d), action (B, d) -> (B,)."""
        mean, log_std = params.chunk(2, dim=-1)
        z = (action - mean) / log_std.exp()
        return (-0.5 * z**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(dim=-1)

    def entropy(self, params):
        """(83) Differential entropy (B,)."""
        _, log_std = params.chunk(2, dim=-1)
        return (log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(dim=-1)

    def kl(self, old, new):
        """KL(old || new) (B,), the direction of (66)-(70)."""
        (mean0, log0), (mean1, log1) = old.chunk(2, dim=-1), new.chunk(2, dim=-1)
        ratio = (2 * (log0 - log1)).exp()
        return (log1 - log0 + 0.5 * (ratio + ((mean0 - mean1) / log1.exp()) ** 2 - 1)).sum(dim=-1)

    def sample(self, params, generator):
        """One action a row, (B, d)."""
        mean, log_std = params.chunk(2, dim=-1)
        return mean + log_std.exp() * torch.randn(mean.shape, generator=generator, dtype=mean.dtype)

    def mode(self, params):
        """The mean."""
        return params.chunk(2, dim=-1)[0]


def build(observation_space, action_space, hidden=(64, 64), seed=0):
    """(policy, value) networks for a gymnasium environment; value maps obs (B, D) to (B, 1).

    Discrete observations are one-hot. Raises ValueError for spaces other than Box and Discrete.
    """
    generator = torch.Generator().manual_seed(seed)
    n_obs = n_inputs(observation_space)
    if isinstance(action_space, Discrete):
        policy = CategoricalPolicy(n_obs, int(action_space.n), hidden, generator)
    elif isinstance(action_space, Box) and len(action_space.shape) == 1:
        policy = GaussianPolicy(n_obs, action_space.shape[0], hidden, generator)
    else:
        raise ValueError(f"action_space: expected Discrete or a one-axis Box, got {action_space}")
    return policy, mlp([n_obs, *hidden, 1], 1.0, generator)


def n_inputs(observation_space):
    """Length of one observation as the networks see it."""
    if isinstance(observation_space, Discrete):
        return int(observation_space.n)
    if isinstance(observation_space, Box) and len(observation_space.shape) == 1:
        return observation_space.shape[0]
    raise ValueError(f"observation_space: expected Discrete or a one-axis Box, got {observation_space}")
