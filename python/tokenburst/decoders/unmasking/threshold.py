"""Rules that commit as much as the model is sure of, at least one token per step."""

import math
from dataclasses import dataclass
from typing import Any

from tokenburst.decoders.unmasking.policy import RANKINGS, Rule, Step, check_ranking


@dataclass(frozen=True)
class Threshold(Rule):
    """Every proposal the model is sure of, at least one per step.

    Args:
        threshold: commits candidates whose confidence (or margin) is at least this; with "entropy"
            those whose entropy in nats is at most this.
        ranking: "confidence", "margin" or "entropy".

    Raises:
        ValueError: a threshold that is not positive, or above 1 (except for "entropy"); a ranking
            that has no threshold.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.3 (parallel decoding by confidence);
        dParallel, arXiv 2509.26488 (entropy).
    """

    threshold: float = 0.9
    ranking: str = "confidence"

    def __post_init__(self) -> None:
        check_ranking("Threshold", self.ranking, RANKINGS[:3])
        most = math.inf if self.ranking == "entropy" else 1.0
        if not 0 < self.threshold <= most:
            expected = "> 0" if self.ranking == "entropy" else "> 0 and <= 1"
            raise ValueError(f"Threshold: threshold: expected {expected}, got {self.threshold}")

    def rules(self, step: Step) -> dict[str, Any]:
        return {"threshold": step.full(self.threshold), "min_one": True}
