"""Importance ratios of completions: log-probabilities (B, T) to ratios (B, T) or (B, 1).

The log-ratio is held in [-20, 20] before exp, so a ratio is finite; a token that is held gets no
gradient. Padding has ratio 1.
"""

import torch

LIMIT = 20.0


def log_ratio(logp, logp_old, mask):
    """log pi_new - log pi_old per token (B, T), 0 where mask is 0."""
    for name, x in (("logp_old", logp_old), ("mask", mask)):
        if x.shape != logp.shape:
            raise ValueError(f"{name}: expected shape {tuple(logp.shape)} as logp, got {tuple(x.shape)}")
    return torch.where(mask.bool(), logp - logp_old, 0.0)


def token_ratio(logp, logp_old, mask):
    """(92), (95), (104), (115) pi_new / pi_old of each token; (B, T)."""
    return log_ratio(logp, logp_old, mask).clamp(-LIMIT, LIMIT).exp()


def sequence_ratio(logp, logp_old, mask):
    """(93), (107) Geometric mean of a completion's token ratios; (B, 1). Not an importance weight."""
    total = log_ratio(logp, logp_old, mask).sum(1, keepdim=True)
    return (total / mask.sum(1, keepdim=True).clamp(min=1)).clamp(-LIMIT, LIMIT).exp()


def product_ratio(logp, logp_old, mask):
    """(105) pi_new / pi_old of a whole completion, the importance weight; (B, 1)."""
    return log_ratio(logp, logp_old, mask).sum(1, keepdim=True).clamp(-LIMIT, LIMIT).exp()
