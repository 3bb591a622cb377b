"""Rules of block diffusion models: a threshold over a schedule, and the editing of tokens."""

from dataclasses import dataclass, replace

import torch

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import (
    Needs,
    Plan,
    Rule,
    Step,
    check_count,
    check_share,
)
from tokenburst.decoders.unmasking.schedule import LowConfidence
from tokenburst.decoders.unmasking.threshold import Threshold


def sdar_dynamic(threshold: float = 0.85, steps: int | None = None) -> Rule:
    """SDAR's dynamic rule: what exceeds the threshold, at least the schedule's share.

    Args:
        threshold: of the confidence.
        steps: of a whole generation, see `LowConfidence`; None = at least one token per step.

    Source: SDAR, generate.py of the published code (low_confidence_dynamic).
    """
    return Threshold(threshold, strict=True) | LowConfidence(steps)


def llada2(threshold: float = 0.95, steps: int | None = None) -> Rule:
    """LLaDA2's rule, the same with a threshold of 0.95.

    Args:
        threshold: of the confidence.
        steps: of a whole generation, see `LowConfidence`; None = at least one token per step.

    Source: LLaDA2.0 sampler.
    """
    return sdar_dynamic(threshold, steps)


@dataclass(frozen=True)
class Editing:
    """A rule that may also replace decided tokens of the block, and does so after it is filled.

    A token other than the present one replaces it where its confidence exceeds `threshold`. A block
    without masks gets further steps until one of them replaces nothing.

    Args:
        rule: fills the masks, by confidence.
        threshold: of a replacement.
        post_steps: most steps after a block is filled.

    Raises:
        ValueError: a threshold outside 0 .. 1, a negative count, a rule by another ranking.

    Source: LLaDA2.1 sampler (token to token editing).
    """

    rule: Rule = llada2()  # noqa: RUF009 (frozen)
    threshold: float = 0.9
    post_steps: int = 16

    def __post_init__(self) -> None:
        check_share("Editing: threshold", self.threshold, zero=True)
        check_count("Editing: post_steps", self.post_steps, 0)
        if self.rule.order != "confidence":
            raise ValueError(f"Editing: rule: expected one by confidence, got {self.rule.order}")

    @property
    def needs(self) -> Needs:
        return replace(self.rule.needs, decided=True, pauses=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.rule.most_steps(n_masks, n_blocks) + self.post_steps

    def begin(self, plan: Plan) -> "_Editor":
        self.rule.begin(plan)
        return _Editor(self, plan)


class _Editor:
    def __init__(self, policy: Editing, plan: Plan) -> None:
        self.policy = policy
        self.filled = torch.zeros_like(plan.n_blocks)  # steps since the block has no mask

    def select(self, step: Step) -> ops.Unmasked:
        score = step.score("confidence")
        rules = self.policy.rule.rules(step) | {"strict": True}
        done = step.select(**score, **rules, edit=step.full(self.policy.threshold))
        filled = torch.where(step.step == 0, 0, self.filled)
        idle = (done.n_committed == 0) & (done.n_edited == 0)
        over = (done.n_left == 0) & (idle | (filled >= self.policy.post_steps))
        self.filled = filled + (done.n_left == 0)
        return done._replace(n_left=torch.where(over, 0, done.n_left.clamp(min=1)))
