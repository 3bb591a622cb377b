"""Policies: which proposals of a masked diffusion model to believe in a step."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

RANKINGS = ("confidence", "margin", "entropy", "random")


def check_ranking(name: str, ranking: str, allowed: tuple[str, ...] = RANKINGS) -> None:
    """ValueError unless the ranking is one of `allowed`."""
    if ranking not in allowed:
        raise ValueError(f"{name}: ranking: expected one of {', '.join(allowed)}, got {ranking!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """ValueError unless value is an integer >= least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")


class Unmasking(Protocol):
    """What a policy must offer; `rules` is all that the decoder knows of it."""

    @property
    def ranking(self) -> str:
        """Order of the candidates: "confidence", "margin", "entropy" or "random"."""

    def rules(self, step: Tensor, n_masks: Tensor, n_blocks: int) -> dict[str, Any]:
        """Rule arguments of `ops.unmask_select_` for one step.

        Args:
            step: [B] int64, steps that each row has spent in its current block.
            n_masks: [B] int64, masks which that block had at its start.
            n_blocks: blocks of each row.
        """

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        """Upper bound of the steps spent in a block with `n_masks` masks.

        Raises:
            ValueError: the policy cannot be spread over so many blocks.
        """


@dataclass(frozen=True)
class LowConfidence:
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

    def rules(self, step: Tensor, n_masks: Tensor, n_blocks: int) -> dict[str, Any]:
        if self.steps is None:
            return {"top_k": torch.full_like(step, self.tokens_per_step or 1)}
        steps = self.steps // n_blocks
        return {"top_k": n_masks // steps + (step < n_masks % steps)}

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
class Threshold:
    """Every proposal the model is sure of, at least one per step.

    Args:
        threshold: commits candidates whose confidence (or margin) is at least this; with "entropy"
            those whose entropy in nats is at most this.
        ranking: "confidence", "margin" or "entropy".

    Raises:
        ValueError: a threshold that is not positive, or above 1 (except for "entropy"); a ranking
            that has no threshold.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.3 (parallel decoding by confidence).
    """

    threshold: float = 0.9
    ranking: str = "confidence"

    def __post_init__(self) -> None:
        check_ranking("Threshold", self.ranking, RANKINGS[:3])
        most = math.inf if self.ranking == "entropy" else 1.0
        if not 0 < self.threshold <= most:
            expected = "> 0" if self.ranking == "entropy" else "> 0 and <= 1"
            raise ValueError(f"Threshold: threshold: expected {expected}, got {self.threshold}")

    def rules(self, step: Tensor, n_masks: Tensor, n_blocks: int) -> dict[str, Any]:
        bound = torch.full_like(step, self.threshold, dtype=torch.float32)
        return {"threshold": bound, "min_one": True}

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks
