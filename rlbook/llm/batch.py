"""One dataclass that names every tensor of a batch of completions and its shape."""

from dataclasses import dataclass, fields

import torch

POLICY, GUIDE = 0, 1  # values of Rollouts.source


@dataclass(frozen=True)
class Rollouts:
    """Completions of B rows with P prompt and T completion positions; checked when made.

    | field          | shape  | meaning                                                            |
    | -------------- | ------ | ------------------------------------------------------------------ |
    | prompt_ids     | (B, P) | prompt tokens, padded on the left                                  |
    | completion_ids | (B, T) | completion tokens, padded on the right                             |
    | mask           | (B, T) | 1 on completion tokens (the end token is one), 0 on padding        |
    | logp_old       | (B, T) | log pi_old of each token when it was sampled                       |
    | rewards        | (B,)   | R(x, y), one number a completion                                   |
    | group          | (B,)   | rows with the same number answer the same prompt                   |
    | source         | (B,)   | 0: sampled from the policy, 1: from the guide                      |
    | truncated      | (B,)   | the completion was cut: it has no end token                        |
    | logp_ref       | (B, T) | log-probabilities under the reference policy; None if not used     |
    | logp_guide     | (B, T) | log-probabilities under the guide; None if not used                |
    | prompt_mask    | (B, P) | 1 on prompt tokens, 0 on padding; None: every position counts      |

    What stands where mask is 0 never matters. Raises ValueError on wrong shapes, on numbers that are
    not finite where mask is 1, and on a row without a token.
    """

    prompt_ids: torch.Tensor
    completion_ids: torch.Tensor
    mask: torch.Tensor
    logp_old: torch.Tensor
    rewards: torch.Tensor
    group: torch.Tensor
    source: torch.Tensor
    truncated: torch.Tensor
    logp_ref: torch.Tensor | None = None
    logp_guide: torch.Tensor | None = None
    prompt_mask: torch.Tensor | None = None

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, torch.Tensor) and not (value is None and field.default is None):
                raise ValueError(f"{field.name}: expected a torch tensor, got {type(value).__name__}")
        if self.completion_ids.ndim != 2 or not len(self.completion_ids):
            raise ValueError(
                f"completion_ids: expected shape (B, T) with B > 0, got {tuple(self.completion_ids.shape)}"
            )
        B, T = self.completion_ids.shape
        prompt = (B, self.prompt_ids.shape[-1] if self.prompt_ids.ndim else 0)
        shapes = dict.fromkeys(("mask", "logp_old", "logp_ref", "logp_guide"), (B, T))
        shapes |= dict.fromkeys(("rewards", "group", "source", "truncated"), (B,))
        shapes |= dict.fromkeys(("prompt_ids", "prompt_mask"), prompt)
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {tuple(value.shape)}")
        for name in ("mask", "source", "truncated", "prompt_mask"):
            value = getattr(self, name)
            if value is not None and not ((value == 0) | (value == 1)).all():
                raise ValueError(f"{name}: expected 0 and 1 only")
        for name in ("mask", "truncated", "prompt_mask"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, getattr(self, name).bool())
        empty = (~self.mask.any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"mask: expected at least one token in every row, got none in rows {empty[:5]}")
        for name in ("logp_old", "logp_ref", "logp_guide", "rewards"):
            value = getattr(self, name)
            if value is None:
                continue
            wrong = ~torch.isfinite(value) & (self.mask if value.ndim == 2 else True)
            if wrong.any():
                where = tuple(wrong.nonzero()[0].tolist())
                raise ValueError(f"{name}: expected finite numbers, got {value[where].item()} at {where}")

    def __len__(self):
        return len(self.rewards)

    def rows(self, index):
        """The same batch with these rows only; index is a bool (B,) or integer tensor."""
        chosen = (getattr(self, field.name) for field in fields(self))
        return Rollouts(*(None if value is None else value[index] for value in chosen))
