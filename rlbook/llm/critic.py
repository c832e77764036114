"""PPO on tokens with a learned critic: what the critic-free methods save.

The critic is a second transformer as large as the policy: twice the weights and optimiser state, and
one more forward and backward pass for each update. Notebook 05a measures it.
"""

import copy
import time

import numpy as np
import torch

from rlbook import td, validate
from rlbook.llm.decoding import position_ids
from rlbook.llm.trainer import Trainer


class Critic(torch.nn.Module):
    """V(x, y_<t) for every position that chooses a token: a copy of the policy with a scalar head."""

    def __init__(self, model):
        super().__init__()
        self.body = copy.deepcopy(model)
        weight = model.get_input_embeddings().weight
        self.head = torch.nn.Linear(weight.shape[1], 1).to(weight.device, weight.dtype)
        torch.nn.init.zeros_(self.head.weight)  # before the first fit V is 0: the advantage is R
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, rollouts):
        """Values (B, T) of `rollouts`, 0 where mask is 0."""
        T = rollouts.mask.shape[1]
        ids = torch.cat([rollouts.prompt_ids, rollouts.completion_ids[:, :-1]], 1)
        attention = torch.cat([rollouts.prompt_mask, rollouts.mask[:, :-1]], 1)
        states = self.body(
            ids, attention_mask=attention, position_ids=position_ids(attention), output_hidden_states=True,
            logits_to_keep=1,
        ).hidden_states[-1][:, -T:]  # fmt: skip
        return torch.where(rollouts.mask, self.head(states).squeeze(-1), 0.0)


def token_gae(rewards, values, mask, lam, discount=1.0):
    """(80), (81) over the tokens of each completion: (advantages, value targets), both (B, T).

    The reward (B,) is that of the last token, the others earn 0; values (B, T) are V before each token;
    after the last token there is nothing to bootstrap from, truncated or not: the verifier has spoken.
    """
    if values.shape != mask.shape or rewards.shape != mask.shape[:1]:
        raise ValueError(
            f"values, rewards: expected shapes {tuple(mask.shape)} and {tuple(mask.shape[:1])}, "
            f"got {tuple(values.shape)} and {tuple(rewards.shape)}"
        )
    v = np.where(mask.cpu(), values.detach().double().cpu(), 0.0).T  # time first
    last = mask.cpu().numpy().T & ~np.roll(mask.cpu().numpy().T, -1, axis=0)
    last[-1] = mask.cpu().numpy()[:, -1]
    reward = np.where(last, rewards.double().cpu().numpy(), 0.0)
    after = np.vstack([v[1:], np.zeros((1, v.shape[1]))])
    found = td.gae(reward, v, after, last, np.zeros_like(last), discount, lam)
    return tuple(torch.where(mask, torch.from_numpy(x.T).to(values), 0.0) for x in found)


class PPOTrainer(Trainer):
    """The trainer with a critic's advantages in place of group comparisons.

    Use it with method "dapo" and options {"clip": (0.2, 0.2)}: (78) summed as a token mean. History has
    two more columns, value_loss and critic_seconds.
    """

    def __init__(self, config, lam=0.95, critic_lr=1e-3, critic_epochs=2):
        super().__init__(config)
        self.lam = validate.number("lam", lam, 0.0, 1.0)
        self.critic_epochs = validate.integer("critic_epochs", critic_epochs)
        self.critic_lr = validate.number("critic_lr", critic_lr, 0.0, open_low=True)
        self.critic = Critic(self.model)
        self.critic_optimiser = torch.optim.AdamW(
            self.critic.parameters(), lr=self.critic_lr, weight_decay=0.0
        )

    def update(self, rollouts):
        """The policy's epochs on (78), then the critic's on (82)."""
        begin = time.perf_counter()
        rows = self.config.micro_batch or len(rollouts)
        parts = torch.arange(len(rollouts), device=self.device).split(rows)
        with torch.no_grad():
            values = torch.cat([self.critic(rollouts.rows(part)) for part in parts])
        advantages, target = token_gae(rollouts.rewards, values, rollouts.mask, self.lam)
        mean, deviation = advantages[rollouts.mask].mean(), advantages[rollouts.mask].std()
        normal = torch.where(rollouts.mask, (advantages - mean) / (deviation + 1e-8), 0.0)
        spent = time.perf_counter() - begin
        row = super().update(rollouts, [normal])
        begin = time.perf_counter()
        for _ in range(self.critic_epochs):
            self.critic_optimiser.zero_grad()
            loss = sum(self._critic_backward(rollouts.rows(part), target[part], rollouts) for part in parts)
            if not np.isfinite(loss):
                self._stop(rollouts, torch.tensor(loss))
            self.critic_optimiser.step()
        spent += time.perf_counter() - begin
        return row | {"value_loss": loss, "critic_seconds": spent}

    def _critic_backward(self, part, target, whole):
        """Add the gradient of the part's share of (82); its value."""
        loss = (self.critic(part) - target).square()[part.mask].sum() / whole.mask.sum()
        loss.backward()
        return loss.item()

    def _settings(self):
        own = {"lam": self.lam, "critic_lr": self.critic_lr, "critic_epochs": self.critic_epochs}
        return super()._settings() | own

    def _stateful(self):
        modules, optimisers, generators = super()._stateful()
        modules, optimisers = {**modules, "critic": self.critic}, dict(optimisers)
        return modules, optimisers | {"critic_optimiser": self.critic_optimiser}, generators
