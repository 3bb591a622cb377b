"""Rules on the log odds of confidences, which tell apart what is 1 in float32."""

from typing import Any

import torch
from torch import Tensor


def log_odds(p: Tensor) -> Tensor:
    """float64 log(p / (1 - p)) of probabilities; what lies outside 0 .. 1 counts as its end."""
    return torch.logit(p.double().clamp(0, 1))


def within_factor(score: Tensor, factor: Tensor, open_: Tensor, odds: bool = True) -> Tensor:
    """[B] ranks 1 .. r of scores [B, R] whose confidences reach 1 - factor / (rank + 1).

    Scores are log odds, or with `odds` False confidences in float32, as are their bounds then.
    """
    ranked = score.where(open_, -torch.inf).sort(1, descending=True).values
    rank = torch.arange(1, score.shape[1] + 1, device=score.device)
    bound = 1 - (factor.double() if odds else factor.float())[:, None] / (rank + 1)
    passes = (ranked >= (log_odds(bound) if odds else bound)) & (rank <= open_.sum(1, keepdim=True))
    return passes.int().cumprod(1).sum(1)


def scaled(score: Tensor, factor: Tensor) -> Tensor:
    """Log odds of `factor` times the confidence."""
    odds, factor = score.double(), factor.double()
    rest = (1 - factor) + factor * torch.sigmoid(-odds)  # 1 - factor * confidence
    scaled = factor.log() + torch.nn.functional.logsigmoid(odds) - rest.clamp(min=0).log()
    return scaled.float()


def in_log_odds(odds: Tensor, open_: Tensor, rules: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `ops.unmask_select_` on confidences, as the same rules on their log odds.

    Args:
        odds: [B, R] float32.
        open_: [B, R] bool, candidates that can be committed.
        rules: with the confidence as score.
    """
    if "noise" in rules:
        return rules  # weights are of the confidences themselves
    rules = dict(rules)
    damped, damping = rules.pop("damped", None), rules.pop("damping", None)
    if damped is not None and damping is not None:
        hit = torch.isin(rules["token"], damped)
        odds = torch.where(hit, scaled(odds, damping[:, None]), odds)
    rules["score"] = odds
    for name in ("threshold", "near", "edit"):
        if name in rules:
            rules[name] = log_odds(rules[name])
    if "factor" in rules:
        count = within_factor(odds, rules.pop("factor"), open_)
        rules["top_k"] = torch.maximum(count, rules["top_k"]) if "top_k" in rules else count
    return rules
