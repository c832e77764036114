"""From one reward a completion to one advantage a completion, by comparing within groups.

Each function maps rewards (B,) and group numbers (B,) to advantages (B,). Rows of one group need not
be neighbours, and groups may differ in size.
"""

import torch


def _groups(rewards, group):
    """(index of each row's group, sizes, means, whether all rewards of the group are equal)."""
    if rewards.ndim != 1 or rewards.shape != group.shape:
        raise ValueError(
            f"rewards, group: expected one shape (B,), got {tuple(rewards.shape)} and {tuple(group.shape)}"
        )
    if not rewards.is_floating_point():
        raise ValueError(f"rewards: expected floating point numbers, got {rewards.dtype}")
    if not torch.isfinite(rewards).all():
        raise ValueError("rewards: expected finite numbers, got NaN or infinity")
    _, index, size = torch.unique(group, return_inverse=True, return_counts=True)
    zeros = rewards.new_zeros(len(size))
    mean = zeros.index_add(0, index, rewards) / size
    high = zeros.scatter_reduce(0, index, rewards, "amax", include_self=False)
    low = zeros.scatter_reduce(0, index, rewards, "amin", include_self=False)
    return index, size, mean, high == low


def centred(rewards, group):
    """(98) R_i minus the mean of its group; exactly 0 where all rewards of the group are equal."""
    index, _, mean, equal = _groups(rewards, group)
    return torch.where(equal[index], 0.0, rewards - mean[index])


def z_score(rewards, group, ddof=0, eps=1e-8):
    """(90), (91) (R_i - mean) / sqrt(variance + eps), mean and variance over the group.

    ddof 0 is the book's population variance; 1 the sample variance of torch.std. A group whose
    rewards are all equal, a group of one included, gets exactly 0: in floating point its computed
    variance need not be 0.
    """
    if ddof not in (0, 1) or not eps >= 0:
        raise ValueError(f"ddof, eps: expected 0 or 1, and a number >= 0, got {ddof} and {eps}")
    index, size, _, _ = _groups(rewards, group)
    a = centred(rewards, group)
    variance = a.new_zeros(len(size)).index_add(0, index, a**2) / (size - ddof).clamp(min=1)
    return torch.where(a == 0, 0.0, a / (variance + eps).sqrt()[index])


def leave_one_out(rewards, group):
    """R_i minus the mean of the other rewards of its group (RLOO); a group needs two rows.

    Equal to (98) times G / (G - 1): the baseline no longer holds the row's own reward.
    """
    index, size, _, _ = _groups(rewards, group)
    if (size < 2).any():
        raise ValueError("group: leave_one_out compares with others, expected at least two rows a group")
    others = (size - 1).to(rewards.dtype)
    return centred(rewards, group) * (size / others)[index]


def raw(rewards, group):
    """R_i itself: REINFORCE without a baseline."""
    _groups(rewards, group)
    return rewards


def ones(rewards, group):
    """1 for every row, whatever its reward: imitation."""
    _groups(rewards, group)
    return torch.ones_like(rewards)
