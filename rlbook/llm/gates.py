"""What a ratio may do to an advantage: ratio (B, T) or (B, 1) and advantage (B, 1), elementwise."""

import torch


def none(ratio, advantage):
    """ratio A: importance weighting without a limit."""
    return ratio * advantage


def min_clip(ratio, advantage, low=0.2, high=0.2):
    """(96), (99) min(ratio A, clip(ratio, 1 - low, 1 + high) A); with low != high DAPO's (101)."""
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def clip_binds(ratio, advantage, low=0.2, high=0.2):
    """Where min_clip has no gradient: (116) is 0 here."""
    return ((advantage > 0) & (ratio > 1 + high)) | ((advantage < 0) & (ratio < 1 - low))


def plain_clip(ratio, advantage, low=0.2, high=0.2):
    """clip(ratio, 1 - low, 1 + high) A, the other reading of the paper's CLIP: no gradient outside."""
    return ratio.clamp(1 - low, 1 + high) * advantage


def plain_clip_binds(ratio, advantage, low=0.2, high=0.2):
    """Where plain_clip has no gradient."""
    return (ratio < 1 - low) | (ratio > 1 + high)


def soft_gate(ratio, advantage, tau_pos=1.0, tau_neg=1.05):
    """(117)-(119) SAPO: 4 / tau sigmoid(tau (ratio - 1)) A, with tau_pos where A > 0, else tau_neg."""
    tau = torch.where(advantage > 0, ratio.new_tensor(tau_pos), ratio.new_tensor(tau_neg))
    return 4 / tau * torch.sigmoid(tau * (ratio - 1)) * advantage


def shaped(ratio, advantage, shape_gamma=0.1):
    """P4 x / (x + shape_gamma) A: the paper's saturating ratio to the guide."""
    return ratio / (ratio + shape_gamma) * advantage


BINDS = {min_clip: clip_binds, plain_clip: plain_clip_binds}  # gates that can stop a gradient, and where
