"""Every method raises the reward of an easy task; the sign of an update cannot be wrong."""

import llm_tiny
import numpy as np
import pytest
import torch

from rlbook.llm import critic, models
from rlbook.llm.trainer import Trainer

ANY_SEVEN = {"group_size": 8, "prompts_per_step": 8, "max_new_tokens": 4, "lr": 5e-3, "steps": 12}
ANY_SEVEN |= {"eval_every": 12, "eval_problems": 32}
METHODS = {
    "reinforce": {}, "rloo": {}, "grpo": {}, "dr_grpo": {}, "dapo": {}, "gspo": {}, "sapo": {},
    "mix_1": {"variant": "corrected"}, "mix_2": {"variant": "corrected"},
}  # fmt: skip


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    """A model that was taught to write sevens, and the folder of a random one beside it."""
    folder = tmp_path_factory.mktemp("models")
    model, words = models.load(llm_tiny.folder(folder))
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    ids = torch.tensor(
        [words(prompt + "777")["input_ids"] for prompt in ("123+456=", "987+102=", "555+318=")]
    )
    for _ in range(30):
        logits = model(ids[:, :-1]).logits[:, -3:]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, -3:].flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    models.save(model, words, folder / "guide")
    return folder


@pytest.mark.parametrize("method", METHODS)
def test_the_reward_rises(guide, monkeypatch, method):
    """Box 5.3.2, Box 5.4.1, Box 5.4.2, Box 5.5.4, Box 5.6.5, and the mixtures."""
    llm_tiny.rig(monkeypatch, lambda text, ended: "7" in text)
    mixed = {"guide": str(guide / "guide"), "guide_per_prompt": 1} if method.startswith("mix") else {}
    c = llm_tiny.config(guide, method=method, options=METHODS[method], **ANY_SEVEN, **mixed)
    history = Trainer(c).run(progress=False)
    assert history["reward"][0] < 0.35 and history["pass_at_1"][-1] > 0.6
    assert np.mean(history["reward"][-3:]) > 0.6


def test_ppo_with_a_critic_learns_too(guide, monkeypatch):
    llm_tiny.rig(monkeypatch, lambda text, ended: "7" in text)
    c = llm_tiny.config(guide, method="dapo", options={"clip": (0.2, 0.2)}, **ANY_SEVEN)
    history = critic.PPOTrainer(c).run(progress=False)
    assert history["reward"][0] < 0.35 and history["pass_at_1"][-1] > 0.6
    assert history["value_loss"][-1] < history["value_loss"].max()
