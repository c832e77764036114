"""Estimates of the KL divergence to a reference policy, one number a token.

logp, logp_ref: log-probabilities (B, T) of tokens sampled from pi. As values, k1 and k3 have the mean
KL(pi || ref). As terms of an objective their gradients differ: notebook 05a shows which is which.
"""

import torch

PLACES = ("reward_k1", "loss_k1", "loss_k2", "loss_k3", "exact")


def k1(logp, logp_ref):
    """(87) log pi - log ref."""
    return logp - logp_ref


def k2(logp, logp_ref):
    """(log pi - log ref)^2 / 2."""
    return (logp - logp_ref) ** 2 / 2


def k3(logp, logp_ref):
    """ref / pi - 1 - log(ref / pi), never negative; the log-ratio is held in [-20, 20]."""
    log_ratio = (logp_ref - logp).clamp(-20, 20)
    return log_ratio.exp() - 1 - log_ratio


def exact(log_probs, log_probs_ref):
    """KL(pi || ref) of the next token, summed over the vocabulary: (..., V) to (...).

    Inputs are log-probabilities of the whole vocabulary. Exact in each state the sample visited.
    """
    if log_probs.shape != log_probs_ref.shape:
        raise ValueError(
            f"log_probs_ref: expected shape {tuple(log_probs.shape)}, got {tuple(log_probs_ref.shape)}"
        )
    p = log_probs.exp()
    return (p * torch.where(p > 0, log_probs - log_probs_ref, 0.0)).sum(-1)  # 0 log 0 = 0, gradient too
