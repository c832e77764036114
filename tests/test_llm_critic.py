"""PPO on tokens: the critic's values, the advantages of each token, the first update by hand."""

import copy

import llm_tiny
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlbook.llm import models
from rlbook.llm.critic import Critic, PPOTrainer, token_gae
from rlbook.llm.trainer import NonFiniteLoss, Trainer


def ragged(lengths, width):
    return torch.arange(width) < torch.tensor(lengths)[:, None]


def by_double_sum(reward, values, n, lam, discount):
    """A_t = sum_l (discount lam)^l delta_{t+l}, the reward at the last of n tokens, V = 0 after it."""
    found = []
    for t in range(n):
        total = 0.0
        for k in range(t, n):
            after = values[k + 1] if k + 1 < n else 0.0
            delta = (reward if k == n - 1 else 0.0) + discount * after - values[k]
            total += (discount * lam) ** (k - t) * delta
        found.append(total)
    return found


def test_token_gae_by_hand():
    mask = ragged([3, 1], 3)
    values = torch.tensor([[0.5, 0.25, 1.0], [0.5, 9.0, 9.0]])  # the nines stand on padding
    advantage, target = token_gae(torch.tensor([1.0, 0.0]), values, mask, lam=0.5)
    # deltas of row 0: .25 - .5, 1 - .25, 1 - 1; of row 1: 0 - .5
    assert advantage.tolist() == [[-0.25 + 0.5 * 0.75, 0.75, 0.0], [-0.5, 0.0, 0.0]]
    assert target.tolist() == [[0.625, 1.0, 1.0], [0.0, 0.0, 0.0]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99)
)
def test_token_gae_is_the_double_sum_over_ragged_rows(lengths, lam, discount, seed):
    generator = torch.Generator().manual_seed(seed)
    mask, width = ragged(lengths, max(lengths)), max(lengths)
    values = torch.randn(len(lengths), width, generator=generator, dtype=torch.float64)
    rewards = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    advantage, target = token_gae(rewards, values, mask, lam, discount)
    for i, n in enumerate(lengths):
        expected = by_double_sum(rewards[i].item(), values[i].tolist(), n, lam, discount)
        np.testing.assert_allclose(advantage[i, :n], expected, atol=1e-12)
        np.testing.assert_allclose(target[i, :n], values[i, :n].numpy() + np.array(expected), atol=1e-12)
        assert not advantage[i, n:].any() and not target[i, n:].any()


def test_token_gae_refuses_other_shapes():
    for rewards, values in ((torch.ones(2), torch.ones(2, 4)), (torch.ones(3), torch.ones(2, 3))):
        with pytest.raises(ValueError, match=r"values, rewards: expected shapes \(2, 3\) and \(2,\)"):
            token_gae(rewards, values, ragged([3, 2], 3), 0.9)


def random_head(critic):
    torch.manual_seed(0)
    torch.nn.init.normal_(critic.head.weight)
    torch.nn.init.constant_(critic.head.bias, 0.3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_values_read_the_prompt_and_the_tokens_before_and_padding_does_not_matter(tmp_path, kind):
    words = models.tokenizer()
    model = llm_tiny.gpt2(tmp_path, words) if kind == "gpt2" else llm_tiny.folder(tmp_path)
    trainer = Trainer(llm_tiny.config(tmp_path, model=model, levels=(1, 3), prompts_per_step=4))
    rollouts, _ = trainer.collect()
    critic = Critic(trainer.model)
    assert not critic(rollouts).any()  # V is 0 before the first fit
    random_head(critic)
    values = critic(rollouts)
    assert len(set(rollouts.prompt_mask.sum(1).tolist())) > 1 and not rollouts.mask.all()
    for i in range(len(rollouts)):
        prompt, completion = rollouts.prompt_ids[i][rollouts.prompt_mask[i]], rollouts.completion_ids[i]
        n = int(rollouts.mask[i].sum())
        states = trainer.model.base_model(torch.cat([prompt, completion[: n - 1]])[None]).last_hidden_state[0]
        expected = (states @ critic.head.weight[0] + 0.3)[len(prompt) - 1 :]
        torch.testing.assert_close(values[i, :n], expected, rtol=0, atol=1e-5)
        assert len(expected) == n and not values[i, n:].any()


def test_the_critic_is_a_copy_and_starts_with_a_head_of_zeros():
    model = models.build(hidden=32, layers=1)
    critic = Critic(model)
    assert sum(p.numel() for p in critic.parameters()) == sum(p.numel() for p in model.parameters()) + 33
    critic.body.lm_head.weight.data.zero_()
    assert model.lm_head.weight.any() and not critic.head.weight.any()


def test_the_first_update_is_ppo_with_the_discounted_reward_and_one_fit_of_the_values(tmp_path, monkeypatch):
    llm_tiny.rig(monkeypatch, lambda text, ended: len(set(text)) / 4)
    c = llm_tiny.config(tmp_path, options={"clip": (0.2, 0.2)}, epochs=2, dtype="float64", minibatches=2)
    ppo, plain = PPOTrainer(c, lam=0.9, critic_lr=0.01, critic_epochs=2), Trainer(c)
    rollouts, _ = ppo.collect()
    before = copy.deepcopy(ppo.critic)
    row = ppo.update(rollouts)
    n = rollouts.mask.sum(1, keepdim=True)
    # V is 0: A_t = lam^(n - 1 - t) R, standardised over all tokens of the batch
    raw = 0.9 ** (n - 1 - torch.arange(n.max())).double() * rollouts.rewards[:, None].double()
    tokens = raw[rollouts.mask]
    scaled = torch.where(rollouts.mask, (raw - tokens.mean()) / tokens.std(), 0.0)
    plain.update(rollouts, [scaled])
    for mine, other in zip(ppo.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)
    # two AdamW steps on the mean square error to A_t + 0; value_loss is that of the second
    optimiser = torch.optim.AdamW(before.parameters(), lr=0.01, weight_decay=0.0)
    for _ in range(2):
        loss = (before(rollouts) - raw)[rollouts.mask].square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert row["value_loss"] == pytest.approx(loss.item(), rel=1e-6)
    for mine, other in zip(ppo.critic.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-6)


def test_micro_batches_give_the_critic_the_same_update(tmp_path):
    found = []
    for micro_batch in (None, 3):
        c = llm_tiny.config(
            tmp_path, dtype="float64", levels=(1, 3), micro_batch=micro_batch, overlong_buffer=4
        )
        ppo = PPOTrainer(c)
        row = ppo.update(ppo.collect()[0])
        found.append([row["value_loss"], *(p.sum().item() for p in ppo.critic.parameters())])
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-7)
    assert found[0][0] > 0


@pytest.mark.parametrize("option, said", [
    ({"lam": 1.5}, "lam: expected"), ({"critic_lr": 0}, "critic_lr: expected"),
    ({"critic_epochs": 0}, "critic_epochs: expected"),
])  # fmt: skip
def test_settings_of_the_critic_are_checked(tmp_path, option, said):
    with pytest.raises(ValueError, match=said):
        PPOTrainer(llm_tiny.config(tmp_path), **option)


def test_a_critic_that_is_no_number_stops_the_run(tmp_path):
    ppo = PPOTrainer(llm_tiny.config(tmp_path, overlong_buffer=4))
    rollouts, _ = ppo.collect()
    with torch.no_grad():
        ppo.critic.head.weight.fill_(1e30)
    before = copy.deepcopy(ppo.critic.state_dict())
    with pytest.raises((NonFiniteLoss, ValueError)):
        ppo.update(rollouts)
    assert all(torch.equal(value, before[name]) for name, value in ppo.critic.state_dict().items())
