"""Fixed schedules: how many tokens a step commits, whatever the model says."""

from dataclasses import dataclass
from typing import Any

import torch

from tokenburst.decoders.unmasking.policy import Rule, Step, check_count, check_ranking


@dataclass(frozen=True)
class LowConfidence(Rule):
    """A fixed schedule: each step commits its share of the block's masks, the best ones first.

    Args:
        steps: forwards of a whole generation, divided evenly among the blocks; a block of n masks
            with S steps commits n // S tokens per step, one more in the first n mod S. More steps
            than masks are not spent.
        ranking: "confidence", "margin", "entropy" (lowest first) or "random".
        tokens_per_step: the schedule by tokens instead: so many per forward. Without either, one.

    Raises:
        ValueError: a count below 1, both counts, an unknown ranking.

    Source: Nie et al., LLaDA, arXiv 2502.09992, section 2.4 (low-confidence and random remasking).
    """

    steps: int | None = None
    ranking: str = "confidence"
    tokens_per_step: int | None = None

    def __post_init__(self) -> None:
        check_ranking("LowConfidence", self.ranking)
        for name in ("steps", "tokens_per_step"):
            if getattr(self, name) is not None:
                check_count(f"LowConfidence: {name}", getattr(self, name))
        if self.steps is not None and self.tokens_per_step is not None:
            raise ValueError("LowConfidence: expected steps or tokens_per_step, got both")

    def rules(self, step: Step) -> dict[str, Any]:
        if self.steps is None:
            return {"top_k": torch.full_like(step.step, self.tokens_per_step or 1)}
        steps = self.steps // step.n_blocks
        return {"top_k": step.n_masks // steps + (step.step < step.n_masks % steps)}

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        if self.steps is None:
            return -(-n_masks // (self.tokens_per_step or 1))
        if self.steps % n_blocks:
            raise ValueError(
                f"LowConfidence: steps: expected a multiple of the {n_blocks} blocks, "
                f"got {self.steps}"
            )
        return min(self.steps // n_blocks, n_masks)
