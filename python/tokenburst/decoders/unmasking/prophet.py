"""Early commit: stop asking once the answer is settled."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import Needs, Plan, Rule, Step
from tokenburst.decoders.unmasking.schedule import LowConfidence


@dataclass(frozen=True)
class Prophet:
    """Decodes by a rule until the answer positions are settled, then commits all masks at once.

    They are settled when the mean over them of the gap between the best and the second logit
    reaches a bound, which falls as more of the sequence is decided.

    Args:
        rule: decodes until then.
        answer: where the answer stands: the last so many positions, or offsets into the generated
            positions; None = the current block.
        bounds: (share of decided tokens, bound) in ascending order; the bound holds below that
            share, the last one up to the end.

    Raises:
        ValueError: no answer positions, offsets outside the sequence, bounds out of order.

    Source: Prophet, arXiv 2508.19982. Here progress is the share of decided tokens, which for a
        schedule with equal steps is the share of steps.
    """

    rule: Rule = LowConfidence()  # noqa: RUF009 (frozen)
    answer: int | Sequence[int] | None = None
    bounds: tuple[tuple[float, float], ...] = ((0.33, 7.5), (0.67, 5.0), (1.0, 2.5))

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.bounds]
        if not shares or shares != sorted(shares):
            raise ValueError(f"Prophet: bounds: expected ascending shares, got {shares}")
        offsets = [self.answer - 1] if isinstance(self.answer, int) else self.answer
        if offsets is not None and (len(offsets) == 0 or min(offsets) < 0):
            raise ValueError(
                f"Prophet: answer: expected a count >= 1 or offsets >= 0, got {self.answer}"
            )

    @property
    def needs(self) -> Needs:
        needs = self.rule.needs
        return replace(needs, k=max(2, needs.k), decided=True, sequence=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.rule.most_steps(n_masks, n_blocks)

    def begin(self, plan: Plan) -> "_Watch":
        self.rule.begin(plan)
        return _Watch(self, plan)


class _Watch:
    def __init__(self, policy: Prophet, plan: Plan) -> None:
        self.policy = policy
        real = plan.places.flatten(1) >= 0
        self.total = real.sum(1).clamp(min=1)
        self.answer: Tensor | None = None  # [B, R]
        if policy.answer is None:
            return
        index = real.cumsum(1) - 1
        if isinstance(policy.answer, int):
            self.answer = real & (index >= self.total[:, None] - policy.answer)
            return
        if len(real) and max(policy.answer) >= int(self.total.min()):
            raise ValueError(
                f"Prophet: answer: expected offsets below {int(self.total.min())}, "
                f"got {max(policy.answer)}"
            )
        offsets = torch.tensor(list(policy.answer), device=real.device)
        self.answer = real & torch.isin(index, offsets)

    def select(self, step: Step) -> ops.Unmasked:
        values = step.stats.values
        here = (step.current if self.answer is None else self.answer) & (step.position >= 0)
        gap = torch.where(here, values[..., 0] - values[..., 1], 0.0).nan_to_num(0.0)
        mean = gap.sum(1) / here.sum(1).clamp(min=1)
        share = 1.0 - step.masked.sum(1) / self.total
        bound = step.full(self.policy.bounds[-1][1])
        for below, value in reversed(self.policy.bounds[:-1]):
            bound = torch.where(share < below, value, bound)
        settled = step.active & here.any(1) & (mean >= bound)
        rule = self.policy.rule
        return step.select(
            **step.score(rule.order),
            **rule.rules(step),
            position=step.position.where(step.current | settled[:, None], -1),
            commit_all=settled,
        )
