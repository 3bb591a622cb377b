"""Where a text will end, told before everything up to there is decided."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import Needs, Plan, Step, Unmasking, check_share


@dataclass(frozen=True)
class EndOfText:
    """Another policy, which stops at the end of the text: nothing behind it is computed any more.

    In each step the end is the leftmost proposed end token that a filter has accepted (`Learned`),
    else the one of all masks, later blocks included, that has the highest confidence. What stands
    behind it becomes end tokens, is not seen from then on and takes part in no further forward; the
    end itself is decided with its block. Ends before a given token are no ends.

    Args:
        policy: decodes; one that looks at the current block alone.
        eos: ids of end tokens; the first one fills what is dropped.
        threshold: confidence that an end has to reach where no filter has accepted it; 0 = any, as
            published, which may cut a text in its first step.

    Raises:
        ValueError: no ids, a threshold outside 0 .. 1, a policy that looks at all blocks or has
            shadow rows.

    Source: Learn2PD, "Learning to parallel decode" (end-of-text prediction).
    """

    policy: Unmasking
    eos: tuple[int, ...]
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_share("EndOfText: threshold", self.threshold, zero=True)
        if not self.eos or min(self.eos) < 0:
            raise ValueError(f"EndOfText: eos: expected token ids, got {self.eos}")
        if self.policy.needs.sequence or self.policy.needs.shadows:
            raise ValueError(
                "EndOfText: policy: expected one that looks at the current block alone, "
                f"got {self.policy}"
            )

    @property
    def needs(self) -> Needs:
        return replace(self.policy.needs, sequence=True, cuts=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.policy.most_steps(n_masks, n_blocks)

    def begin(self, plan: Plan) -> "_Ended":
        if max(self.eos) >= plan.vocab_size or plan.mask_id in self.eos:
            raise ValueError(
                f"EndOfText: eos: expected ids below {plan.vocab_size} other than the mask "
                f"{plan.mask_id}, got {self.eos}"
            )
        return _Ended(self, plan)


class _Ended:
    def __init__(self, policy: EndOfText, plan: Plan) -> None:
        self.policy, self.process = policy, policy.policy.begin(plan)
        device, length = plan.x.device, plan.x.shape[1]
        self.width = plan.places.shape[2]
        self.slot = torch.arange(self.width, device=device)
        self.place = torch.arange(length, device=device)
        full = torch.full((len(plan.x),), length, dtype=torch.int32, device=device)
        self.lengths = full if plan.lengths is None else plan.lengths.clone()
        given = (plan.x != plan.mask_id) & (self.place < self.lengths[:, None])
        self.given = torch.where(given, self.place, -1).amax(1)  # the last given token
        self.eos = torch.tensor(policy.eos, device=device)

    def select(self, step: Step) -> ops.Unmasked:
        index = step.block[:, None] * self.width + self.slot
        block = step.narrow(index)
        done = self.process.select(block)

        end = self.end(step, block, index)
        cut = step.active & (end > self.given) & (end + 1 < self.lengths)
        lengths = torch.where(cut, end + 1, self.lengths).to(torch.int32)
        dropped = (self.place >= lengths[:, None]) & (self.place < self.lengths[:, None])
        filled = (dropped & (step.x == step.mask_id)).sum(1, dtype=torch.int32)
        step.x.copy_(torch.where(dropped, self.eos[0], step.x))
        self.lengths = lengths

        found = step.x.gather(1, block.position.clamp(min=0))
        left = ((found == step.mask_id) & (block.position >= 0)).sum(1, dtype=torch.int32)
        return done._replace(
            committed=torch.zeros_like(step.masked).scatter(1, index, done.committed),
            n_committed=done.n_committed + filled,
            n_left=torch.where(cut, left, done.n_left),
        )

    def end(self, step: Step, block: Step, index: Tensor) -> Tensor:
        """[B] position of the end that this step predicts; the length of x where there is none."""
        none = len(self.place)
        proposed = torch.isin(step.stats.token, self.eos) & step.masked
        confidence = step.stats.confidence.where(proposed, -1.0)
        best = confidence.amax(1, keepdim=True)
        sure = proposed & (confidence == best) & (best >= self.policy.threshold)
        end = step.position.where(sure, none).amin(1)
        accepted = getattr(self.process, "accepted", None)
        if accepted is not None:
            first = block.position.where(proposed.gather(1, index) & accepted, none).amin(1)
            end = torch.where(first < none, first, end)
        return end
