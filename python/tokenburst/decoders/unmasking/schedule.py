"""Fixed schedules: how many tokens a step commits, whatever the model says."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

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
        steps = self._steps(step)
        return {"top_k": step.n_masks // steps + (step.step < step.n_masks % steps)}

    def _steps(self, step: Step) -> Tensor:
        if self.steps is None:
            each = self.tokens_per_step or 1
            return (step.n_masks + each - 1) // each
        return self.steps // step.n_blocks

    def progress(self, step: Step) -> Tensor:
        return (step.step / (self._steps(step) - 1).clamp(min=1)).clamp(max=1).float()

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        if self.steps is None:
            return -(-n_masks // (self.tokens_per_step or 1))
        if self.steps % n_blocks:
            raise ValueError(
                f"LowConfidence: steps: expected a multiple of the {n_blocks} blocks, "
                f"got {self.steps}"
            )
        return min(self.steps // n_blocks, n_masks)


@dataclass(frozen=True)
class Ascending(Rule):
    """Twice as many tokens in every step: 1, 2, 4, ..., and what is left in the last one.

    A block of n masks takes floor(log2 n) steps, at least one.

    Args:
        ranking: "confidence", "margin", "entropy" or "random".

    Source: EOSER and ASS, arXiv 2509.23924 (ascending step-size scheduler).
    """

    ranking: str = "confidence"

    def __post_init__(self) -> None:
        check_ranking("Ascending", self.ranking)

    def rules(self, step: Step) -> dict[str, Any]:
        powers = 2 ** torch.arange(1, 63, device=step.x.device)
        steps = (step.n_masks[:, None] >= powers).sum(1)
        return {"top_k": 2 ** step.step.clamp(max=62), "commit_all": step.step + 1 >= steps}

    def progress(self, step: Step) -> Tensor:
        return ((2 ** (step.step + 1).clamp(max=62) - 1) / step.n_masks.clamp(min=1)).float()

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return max(1, n_masks.bit_length() - 1)


@dataclass(frozen=True)
class EosDamping(Rule):
    """Lowers the score of end tokens early on, less with every step: an early end is hard to undo.

    The confidence of a proposed end is multiplied by least + (most - least) t, where t goes from 0
    to 1 over the steps of a block.

    Args:
        rule: a schedule, `LowConfidence` or `Ascending`, that ranks by confidence.
        eos: ids of end tokens.
        least: factor at the first step; published with `Ascending`: 0.01.
        most: factor at the last step.

    Raises:
        ValueError: no ids, factors outside 0 <= least <= most, another rule or ranking.

    Source: EOSER and ASS, arXiv 2509.23924 (EOS early rejection).
    """

    rule: LowConfidence | Ascending
    eos: tuple[int, ...]
    least: float = 0.4
    most: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.rule, LowConfidence | Ascending) or self.order != "confidence":
            raise ValueError("EosDamping: rule: expected LowConfidence or Ascending by confidence")
        if not self.eos or min(self.eos) < 0:
            raise ValueError(f"EosDamping: eos: expected token ids, got {self.eos}")
        if not 0 <= self.least <= self.most < math.inf:
            raise ValueError(
                f"EosDamping: expected 0 <= least <= most, got {self.least} and {self.most}"
            )

    @property
    def order(self) -> str:
        return self.rule.ranking

    def rules(self, step: Step) -> dict[str, Any]:
        damping = self.least + (self.most - self.least) * self.rule.progress(step)
        damped = torch.cat([step.step.new_full((1,), e) for e in self.eos])
        return {"damped": damped, "damping": damping} | self.rule.rules(step)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.rule.most_steps(n_masks, n_blocks)
