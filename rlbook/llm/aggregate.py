"""From one number a token to one number a batch.

x is (B, T), or (B, 1) where a row has one number; mask (B, T) marks the tokens to add up. `counted`
(default: mask) marks the tokens and rows to divide by: the whole optimiser step where mask is only a
part of it, so that the parts add up to the whole. Nothing to count gives exactly 0.
"""

import torch


def _total(x, mask, per_row):
    """Sum of x over the tokens of mask, each row divided by per_row (B, 1)."""
    return torch.where(mask, x / per_row, 0.0).sum()


def _rows(counted):
    return counted.any(1).sum().clamp(min=1)


def total(x, mask, counted=None):
    """Sum over all tokens (P8 in the paper's first version)."""
    return _total(x, mask, 1)


def sequence_mean(x, mask, counted=None):
    """(97) Mean over rows of the mean over a row's tokens (1 / T_i)."""
    counted = mask if counted is None else counted
    return _total(x, mask, mask.sum(1, keepdim=True).clamp(min=1)) / _rows(counted)


def token_mean(x, mask, counted=None):
    """(102) Mean over all tokens (1 / N_tok)."""
    counted = mask if counted is None else counted
    return _total(x, mask, 1) / counted.sum().clamp(min=1)


def constant(x, mask, counted=None, length=None):
    """(100) Sum over a row's tokens by a constant length (default: T of counted), mean over rows."""
    counted = mask if counted is None else counted
    return _total(x, mask, counted.shape[1] if length is None else length) / _rows(counted)
