"""Every critic-free method as a row of one table: which terms its objective sums.

`get("dapo")` is DAPO as published; options change one part and leave the others. The machinery, and
what a term is, stand in `rlbook.llm.objective`.
"""

import inspect

from rlbook import validate
from rlbook.llm import advantages, aggregate, gates, ratios
from rlbook.llm.objective import (
    Method,
    Term,
    everything,
    guide,
    guide_or_unrewarded,
    policy,
    rewarded,
    rewarded_guide,
    unrewarded,
)


def _pair(name, pair):
    try:
        first, second = pair
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected two numbers, got {pair!r}") from None
    return validate.number(name, first, 0.0), validate.number(name, second, 0.0)


def _clip(clip):
    return dict(zip(("low", "high"), _pair("clip", clip), strict=True))


def _reinforce(**shared):
    term = Term(advantages.raw, ratios.product_ratio, gates.none, aggregate.sequence_mean)
    return Method("reinforce", (term,), **shared)


def _rloo(clip=(0.2, 0.2), **shared):
    row = advantages.leave_one_out, ratios.product_ratio, gates.min_clip, aggregate.sequence_mean
    return Method("rloo", (Term(*row, _clip(clip)),), **shared)


def _grpo(clip=(0.2, 0.2), **shared):
    row = advantages.z_score, ratios.token_ratio, gates.min_clip, aggregate.sequence_mean
    return Method("grpo", (Term(*row, _clip(clip)),), **shared)


def _dr_grpo(clip=(0.2, 0.2), max_length=None, **shared):
    length = None if max_length is None else validate.integer("max_length", max_length)

    def constant(x, mask, counted=None):
        return aggregate.constant(x, mask, counted, length)

    row = advantages.centred, ratios.token_ratio, gates.min_clip, constant
    return Method("dr_grpo", (Term(*row, _clip(clip)),), **shared)


def _dapo(clip=(0.2, 0.28), **shared):
    row = advantages.z_score, ratios.token_ratio, gates.min_clip, aggregate.token_mean
    return Method("dapo", (Term(*row, _clip(clip)),), **shared)


def _gspo(clip=(3e-4, 4e-4), **shared):
    # The published range. The geometric mean moves far less than a token's ratio: for completions of
    # T tokens a range of about 0.2 / sqrt(T) clips as often as GRPO's 0.2 does.
    row = advantages.z_score, ratios.sequence_ratio, gates.min_clip, aggregate.sequence_mean
    return Method("gspo", (Term(*row, _clip(clip)),), **shared)


def _sapo(tau_pos=1.0, tau_neg=1.05, **shared):
    taus = {name: validate.number(name, x, 0.0, open_low=True) for name, x in
            (("tau_pos", tau_pos), ("tau_neg", tau_neg))}  # fmt: skip
    row = advantages.z_score, ratios.token_ratio, gates.soft_gate, aggregate.sequence_mean
    return Method("sapo", (Term(*row, taus),), **shared)


def _imitation(weight, only_rewarded):
    rows = _choice("only_rewarded", only_rewarded, {False: guide, True: rewarded_guide})
    parts = advantages.ones, ratios.token_ratio, gates.none, aggregate.token_mean
    return Term(*parts, rows=rows, behaviour="itself", weight=weight)


def _sft(only_rewarded=False, **shared):
    return Method("sft", (_imitation(1.0, only_rewarded),), **shared)


def _dapo_sft(clip=(0.2, 0.28), sft_weight=1.0, only_rewarded=False, **shared):
    row = advantages.z_score, ratios.token_ratio, gates.min_clip, aggregate.token_mean
    weight = validate.number("sft_weight", sft_weight, 0.0)
    return Method("dapo_sft", (Term(*row, _clip(clip)), _imitation(weight, only_rewarded)), **shared)


def _mix_1(variant="faithful", weights=(0.5, 0.5), normaliser="each", **mixed):
    own, shaped, shared = _mixed_parts(**mixed)
    pool = _choice("variant", variant, {"faithful": None, "corrected": everything})
    counted = _choice("normaliser", normaliser, {"each": None, "joint": everything})
    first, second = _pair("weights", weights)
    terms = (
        Term(*own, pool=pool, counted=counted, weight=first),
        Term(*shaped, rows=guide, pool=pool, counted=counted, behaviour="guide", weight=second),
    )
    return Method("mix_1", terms, **shared)


def _mix_2(variant="faithful", weights=(0.5, 0.5), pool_on=None, zero_ratio=None, normaliser="v001", **mixed):
    own, shaped, shared = _mixed_parts(**mixed)
    pool_on = pool_on or _choice("variant", variant, {"faithful": "rewarded", "corrected": "policy"})
    zero_ratio = zero_ratio or {"faithful": "guide", "corrected": "old"}[variant]
    pools = {"rewarded": rewarded, "policy": policy, "everything": everything}
    first, second = _pair("weights", weights)
    both = {"pool": guide_or_unrewarded, "counted": guide_or_unrewarded, "weight": second}
    wrong = own
    if _choice("normaliser", normaliser, {"v001": False, "v000": True}):  # v000: sums, not means
        shaped, wrong = ((*part[:3], aggregate.total, part[4]) for part in (shaped, own))
    terms = (
        Term(*own, rows=rewarded, pool=_choice("pool_on", pool_on, pools), weight=first),
        Term(*shaped, rows=guide, behaviour="guide", **both),
        Term(*wrong, rows=unrewarded, behaviour=_choice("zero_ratio", zero_ratio, ("guide", "old")), **both),
    )
    return Method("mix_2", terms, **shared)


def _mixed_parts(clip=(0.2, 0.28), clip_form="min", shape_gamma=0.1, guide_ratio="token", **shared):
    """(P3's parts, P4's parts, options of all methods): what stands before the rows of a Term."""
    gate = _choice("clip_form", clip_form, {"min": gates.min_clip, "plain": gates.plain_clip})
    gamma = {"shape_gamma": validate.number("shape_gamma", shape_gamma, 0.0, open_low=True)}
    levels = {
        "token": (ratios.token_ratio, aggregate.token_mean),
        "sequence": (ratios.product_ratio, aggregate.sequence_mean),
    }
    ratio, mean = _choice("guide_ratio", guide_ratio, levels)
    own = advantages.z_score, ratios.token_ratio, gate, aggregate.token_mean, _clip(clip)
    return own, (advantages.z_score, ratio, gates.shaped, mean, gamma), shared


def _choice(name, value, known):
    """known[value], or value where `known` is a tuple."""
    if value not in known:
        raise ValueError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    return known[value] if isinstance(known, dict) else value


TABLE = {
    "reinforce": _reinforce,
    "rloo": _rloo,
    "grpo": _grpo,
    "dr_grpo": _dr_grpo,
    "dapo": _dapo,
    "gspo": _gspo,
    "sapo": _sapo,
    "sft": _sft,
    "dapo_sft": _dapo_sft,
    "mix_1": _mix_1,
    "mix_2": _mix_2,
}
SHARED = ("kl_coef", "kl", "mask_truncated")
MIXED = ("clip", "clip_form", "shape_gamma", "guide_ratio")


def options(name):
    """The names of a method's options."""
    if name not in TABLE:
        raise ValueError(f"method: expected one of {', '.join(TABLE)}, got {name!r}")
    own = [p.name for p in inspect.signature(TABLE[name]).parameters.values() if p.kind is not p.VAR_KEYWORD]
    return (*own, *(MIXED if name.startswith("mix") else ()), *SHARED)


def get(name, **chosen):
    """The method of that name with some options changed; an unknown name or option raises.

    | option         | of            | values, the default first                                            |
    | -------------- | ------------- | -------------------------------------------------------------------- |
    | kl_coef, kl    | all           | 0; reward_k1, loss_k1, loss_k2, loss_k3, exact: `Method`             |
    | mask_truncated | all           | False; True: truncated rows compare but are not summed               |
    | clip           | most          | (low, high): the ratio's band is 1 - low .. 1 + high                 |
    | max_length     | dr_grpo       | None, the width of the batch; or the constant T_max                  |
    | tau_pos, ..neg | sapo          | 1.0, 1.05                                                            |
    | sft_weight     | dapo_sft      | 1.0: of the imitation of the guide beside DAPO                       |
    | only_rewarded  | sft, dapo_sft | False; True: imitate only what earned a reward                       |
    | variant        | mix_1, mix_2  | faithful (as printed); corrected                                     |
    | weights        | mix_1, mix_2  | (.5, .5): of P3, and of P4 or P8                                     |
    | clip_form      | mix_1, mix_2  | min, as PPO; plain: clip(ratio) A                                    |
    | shape_gamma    | mix_1, mix_2  | .1: the constant of P4                                               |
    | guide_ratio    | mix_1, mix_2  | token (P4); sequence, as the paper's gradient displays have it       |
    | normaliser     | mix_1         | each part by its own tokens (P3, P4); joint: by all tokens           |
    | normaliser     | mix_2         | v001: P8 by the tokens of V and W; v000: sums                        |
    | pool_on        | mix_2         | U compares with: rewarded (printed), policy (corrected), everything  |
    | zero_ratio     | mix_2         | W's ratio is to: guide (printed), old (corrected)                    |
    """
    known = options(name)
    unknown = [option for option in chosen if option not in known]
    if unknown:
        raise ValueError(f"{name}: expected options among {', '.join(known)}, got {', '.join(unknown)}")
    return TABLE[name](**chosen)
