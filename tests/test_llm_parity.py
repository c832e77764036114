"""Values, gradients and clip fractions against TRL's own `GRPOTrainer._compute_loss`, fed the same numbers.

Its loss is minus our objective. Float64, 50 ragged batches a method, ratios beyond the band on both sides
with both signs of the advantage. The advantages are ours in both: TRL's differ (last test).
"""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_llm_batch import ragged

from rlbook.llm import advantages, methods

pytest.importorskip("trl", minversion="1.16", reason="needs TRL 1.16: python -m pip install -e .[trl]")

from trl.trainer.grpo_trainer import GRPOTrainer  # noqa: E402
from trl.trainer.utils import nanstd  # noqa: E402

T = 6
SETTINGS = {  # name: (our options, TRL's loss type, importance sampling level, low, high)
    "grpo": ({}, "grpo", "token", 0.2, 0.2),
    "dr_grpo": ({}, "dr_grpo", "token", 0.2, 0.2),
    "dapo": ({}, "dapo", "token", 0.2, 0.28),
    "gspo": ({}, "grpo", "sequence", 3e-4, 4e-4),
    "gspo, wider": ({"clip": (0.1, 0.15)}, "grpo", "sequence", 0.1, 0.15),
    "sapo": ({}, "sapo", "token", 0.2, 0.2),
}


def trl_loss(logp, R, A, loss_type, level, low, high, beta=0.0):
    """(loss, metrics) of TRL's method on a trainer that holds these numbers and no model."""
    trainer = SimpleNamespace(
        args=SimpleNamespace(
            delta=None,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            steps_per_generation=1,
            use_bias_correction_kl=False,
        ),
        accelerator=SimpleNamespace(
            num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=True
        ),
        model=SimpleNamespace(training=True),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logp, torch.zeros_like(logp), None),
        _metrics=defaultdict(lambda: defaultdict(list)),
        loss_type=loss_type,
        importance_sampling_level=level,
        epsilon_low=low,
        epsilon_high=high,
        beta=beta,
        max_completion_length=T,
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
    )
    inputs = {
        "prompt_ids": R.prompt_ids,
        "prompt_mask": R.prompt_mask.long(),
        "completion_ids": R.completion_ids,
        "completion_mask": R.mask.long(),
        "advantages": A,
        "num_items_in_batch": R.mask.sum(),
        "old_per_token_logps": R.logp_old,
        "ref_per_token_logps": R.logp_ref,
    }
    return GRPOTrainer._compute_loss(trainer, None, inputs), trainer._metrics["train"]


def alike(name, beta=0.0, batches=50):
    """Largest difference of value and of gradient over the batches, and the number of tokens beyond the
    band: above and A > 0, above and A < 0, below and A > 0, below and A < 0.
    """
    chosen, *settings = SETTINGS[name]
    low, high = settings[-2:]
    method = methods.get(name.split(",")[0], **chosen, kl="loss_k3", kl_coef=beta)
    worst, kinds = torch.zeros(2), []
    for seed in range(batches):
        logp, R = ragged(seed, sizes=(4, 2, 5, 3), T=T)
        found = method.objective(logp, R)
        (A,) = method.advantages(R)
        loss, metrics = trl_loss(logp, R, A, *settings, beta)
        (ours,) = torch.autograd.grad(found.value, logp)
        (theirs,) = torch.autograd.grad(-loss, logp)
        difference = torch.stack([(found.value + loss).abs(), (ours - theirs).abs().max()])
        worst = torch.maximum(worst, difference.detach())
        assert ours.abs().max() > 1e-3
        if settings[0] != "sapo" and settings[1] == "token":
            assert found.metrics["clip_fraction"] == pytest.approx(metrics["clip_ratio/region_mean"][0])
        ratio = (logp - R.logp_old).exp()
        if settings[1] == "sequence":
            ratio = ratio.log().masked_fill(~R.mask, 0).sum(1, keepdim=True) / R.mask.sum(1, keepdim=True)
            ratio = ratio.exp().expand(R.mask.shape)
        sides = (ratio > 1 + high, ratio < 1 - low)
        kinds.append([(s & a & R.mask).sum() for s in sides for a in ((A > 0)[:, None], (A < 0)[:, None])])
    return worst.tolist(), torch.tensor(kinds).sum(0)


@pytest.mark.parametrize("name", SETTINGS)
def test_objective_and_gradient_are_those_of_trl(name):
    worst, kinds = alike(name)
    assert max(worst) < 1e-6 and (kinds > 20).all()


@pytest.mark.parametrize("name", ["grpo", "dapo", "sapo", "dr_grpo"])
def test_with_a_k3_penalty_too(name):
    """beta k3 a token, aggregated as the loss is; TRL's option to weight it by the ratio is off."""
    worst, _ = alike(name, beta=0.3, batches=15)
    assert max(worst) < 1e-6


def test_trls_advantage_is_ours_but_for_where_eps_stands():
    """TRL: (R - mean) / (s + 1e-4), s with ddof 1; eps outside the root, and ours is inside.

    With eps = 0, ours times s / (s + 1e-4) is theirs. Its Dr. GRPO setting is (98).
    """
    g = torch.Generator().manual_seed(0)
    rewards, group = torch.rand(6, 4, generator=g, dtype=torch.float64), torch.arange(6).repeat_interleave(4)
    s = nanstd(rewards, dim=1, keepdim=True)
    centred = rewards - rewards.nanmean(1, keepdim=True)
    ours = advantages.z_score(rewards.flatten(), group, ddof=1, eps=0.0).view(6, 4)
    # 1e-7: TRL rounds n / (n - 1) to float32.
    np.testing.assert_allclose(ours * s / (s + 1e-4), centred / (s + 1e-4), rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        advantages.centred(rewards.flatten(), group).view(6, 4), centred, rtol=0, atol=1e-12
    )
    one = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    assert 0.75 / (nanstd(one) + 1e-4).item() == pytest.approx(1.4997, abs=1e-5)
