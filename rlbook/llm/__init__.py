"""Language models as policies: the parts of chapters 5 and 6, one idea a file.

`batch`, `advantages`, `ratios`, `gates`, `aggregate`, `kl` and `methods` are the objectives;
`worlds` holds token worlds small enough to enumerate; `tasks`, `models`, `sampling` and `trainer`
turn them into a training run; `pretrain` makes the models in `data/models`.
"""
