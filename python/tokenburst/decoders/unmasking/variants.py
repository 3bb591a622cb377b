"""Rules as some published codes vary them."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import Needs, Plan, Rule, Step


@dataclass(frozen=True)
class FirstAlone:
    """The first step of a block commits its first mask, whatever its score, and nothing else.

    For parity with Fast-dLLM's block caches on Dream: they compute the block without the row before
    it, from which its first position is predicted, so that token has to come from the full forward
    at the start of the block. Our caches compute that row and do not need it.

    Args:
        rule: of the further steps.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, the published code for Dream.
    """

    rule: Rule

    @property
    def needs(self) -> Needs:
        return self.rule.needs

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return 1 + self.rule.most_steps(max(0, n_masks - 1), n_blocks)

    def begin(self, plan: Plan) -> "FirstAlone":
        self.rule.begin(plan)
        return self

    def select(self, step: Step) -> ops.Unmasked:
        fresh = step.step == 0
        here = step.masked & step.current
        leftmost = step.position.where(here, step.x.shape[1]).amin(1)
        alone = here & (step.position == leftmost[:, None]) & fresh[:, None]
        rest = step.position.where(step.current & ~fresh[:, None], -1)
        order: dict[str, Any] = {"score": step.position.float(), "lowest_first": True}
        first = step.select(
            position=step.position.where(alone, -1), commit_all=torch.ones_like(fresh), **order
        )
        later = replace(
            step, position=rest, step=(step.step - 1).clamp(min=0), n_masks=step.n_masks - 1
        )
        more = self.rule.select(later)
        committed = first.n_committed + more.n_committed
        return more._replace(
            committed=first.committed | more.committed,
            n_committed=committed,
            n_left=here.sum(1, dtype=torch.int32) - committed,
        )


@dataclass(frozen=True)
class Tempered(Rule):
    """A rule on the probabilities that tokens are drawn with, after temperature, top-p and top-k.

    Other rules take the model's own. At temperature 0 there is no difference.

    Args:
        rule: any rule without memory.

    Source: SDAR, arXiv 2510.06303, and Fast-dLLM on Dream, the published codes.
    """

    rule: Rule

    @property
    def needs(self) -> Needs:
        return self.rule.needs | Needs(k=0, tempered=True)

    @property
    def order(self) -> str:
        return self.rule.order

    def rules(self, step: Step) -> dict[str, Any]:
        return self.rule.rules(step)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.rule.most_steps(n_masks, n_blocks)
