"""A bold draft, and a check of what was written by rows that do not see it."""

from dataclasses import dataclass

import torch

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import Needs, Plan, Step, check_count, check_share
from tokenburst.decoders.unmasking.remask import net


@dataclass(frozen=True)
class Wino:
    """Wide in, narrow out: drafts boldly, and checks earlier tokens by what hides them.

    Each step commits what exceeds `threshold`, at most min(max(least, int(share n)), most) of n
    masks of the block and at least the best one. Where that is more than one token, tokens of the
    block from earlier steps become masks again if the model, not seeing them, gives them less than
    `threshold_back`: the least likely first, fewer than the step before committed. So a block of n
    masks ends within n steps.

    Args:
        threshold: of a commitment, exceeded.
        threshold_back: probability that an earlier token has to keep.
        share: of the masks that a step may commit.
        least: that it may commit at least.
        most: that it may commit at most.
        apart: shadows do not see each other, so a token is judged by the other tokens alone; as
            published they do.

    Raises:
        ValueError: parameters out of range; least > most.

    Source: WINO, arXiv 2507.18578, and decoding.py of its published code.
    """

    threshold: float = 0.6
    threshold_back: float = 0.9
    share: float = 0.7
    least: int = 5
    most: int = 20
    apart: bool = False

    def __post_init__(self) -> None:
        for name in ("threshold", "threshold_back", "share"):
            check_share(f"Wino: {name}", getattr(self, name))
        check_count("Wino: least", self.least)
        check_count("Wino: most", self.most, self.least)

    @property
    def needs(self) -> Needs:
        shadows = "apart" if self.apart else "together"
        return Needs(k=1, decided=True, pauses=True, shadows=shadows)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> "_Narrowing":
        return _Narrowing(self, plan)


class _Narrowing:
    def __init__(self, policy: Wino, plan: Plan) -> None:
        self.policy = policy
        # Committed in the step before; before the first one nothing can be taken back.
        self.last = torch.ones_like(plan.n_blocks, dtype=torch.int32)

    def select(self, step: Step) -> ops.Unmasked:
        policy, stats = self.policy, step.stats
        present = step.x.gather(1, step.position.clamp(min=0))
        known = step.position.where(~step.masked, -1)
        kept = (step.logits_at(present[..., None])[..., 0] - stats.lse).exp()
        room = (step.masked.sum(1).double() * policy.share + 1e-9).floor().long()
        done = step.select(
            score=stats.confidence,
            threshold=step.full(policy.threshold),
            strict=True,
            min_one=True,
            most=room.clamp(policy.least, policy.most),
        )
        bold = done.n_committed > 1
        back = ops.unmask_remask_(
            step.x,
            known,
            step.mask_id,
            score=kept,
            threshold=step.full(policy.threshold_back).float(),
            most=torch.where(bold, self.last - 1, 0).clamp(min=0),
        )
        self.last = done.n_committed
        return net(done, back, done.n_left + back.n_remasked)
