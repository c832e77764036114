"""Settings of a training run that cannot work: the message names them and says what is known."""

import math

import llm_tiny
import pytest

from rlbook.llm import models
from rlbook.llm.trainer import TrainConfig, Trainer


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"method": "ppo2"}, "method: expected one of reinforce, rloo, grpo, .*mix_2, got 'ppo2'"),
        ({"options": {"klip": 1}}, "dapo: expected options among clip, kl_coef.*got klip"),
        ({"options": None}, "options: expected a dict"),
        ({"options": {"clip": 0.2}}, "clip: expected two numbers"),
        ({"task": "sums"}, "name: expected one of addition, tally, countdown, got 'sums'"),
        ({"levels": (9,)}, r"levels: expected some of \(1, 2, 3, 4, 5\) for addition, got 9"),
        ({"dtype": "float16"}, "dtype: expected one of float32, bfloat16, float64, got 'float16'"),
        ({"group_size": 1}, "group_size: a group of one"),
        ({"method": "reinforce", "group_size": 1, "dynamic_sampling": True}, "dynamic_sampling: a group of"),
        ({"method": "mix_1"}, "mix_1 learns from a guide: set guide and guide_per_prompt >= 1"),
        ({"method": "mix_2", "guide": "guide"}, "mix_2 learns from a guide"),
        ({"guide": "guide", "guide_per_prompt": 1}, "guide, guide_per_prompt: dapo has no use"),
        ({"guide": "guide"}, "guide, guide_per_prompt: dapo has no use"),
        ({"method": "sft"}, "sft learns from a guide"),
        ({"method": "dapo_sft", "options": {"sft_weight": -1.0}}, "sft_weight: expected"),
        ({"minibatches": 129}, "minibatches: more than there are rows"),
        ({"guide_per_prompt": -1}, "guide_per_prompt: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"micro_batch": 0}, "micro_batch: expected"),
        ({"max_new_tokens": 2.5}, "max_new_tokens: expected a whole number, got 2.5"),
        ({"overlong_buffer": 0}, "overlong_buffer: expected"),
        ({"lr": 0.0}, "lr: expected"),
        ({"lr": math.nan}, "lr: expected finite"),
        ({"temperature": 0.0}, "temperature: expected"),
        ({"max_grad_norm": -1.0}, "max_grad_norm: expected"),
        *(
            ({name: 0}, f"{name}: expected")
            for name in "prompts_per_step epochs minibatches steps eval_every eval_problems eval_samples "
            "checkpoint_every".split()
        ),
    ],
)
def test_settings_that_cannot_work_are_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        TrainConfig(**wrong)


def test_what_only_the_model_can_tell_is_named_too(tmp_path):
    with pytest.raises(ValueError, match="device: expected 'cpu', 'cuda' or 'auto', got 'tpu'"):
        Trainer(llm_tiny.config(tmp_path, device="tpu"))
    with pytest.raises(ValueError, match="overlong_buffer: expected 1 to 5 tokens, got 6"):
        Trainer(llm_tiny.config(tmp_path, overlong_buffer=6))
    with pytest.raises(ValueError, match="name_or_path: expected a folder, one of"):
        Trainer(llm_tiny.config(tmp_path, model="nobody/knows"))
    words, model = models.tokenizer(), models.build(hidden=32, layers=1)
    words.add_tokens("?")
    model.resize_token_embeddings(len(words))
    models.save(model, words, tmp_path / "other")
    mixed = {"method": "mix_1", "guide": str(tmp_path / "other"), "guide_per_prompt": 1}
    with pytest.raises(ValueError, match="guide: .*other and .*tiny have different vocabularies"):
        Trainer(llm_tiny.config(tmp_path, **mixed))
