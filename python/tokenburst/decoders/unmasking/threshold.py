"""Rules that commit as much as the model is sure of, at least one token per step."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from tokenburst.decoders.unmasking.fine import within_factor
from tokenburst.decoders.unmasking.policy import RANKINGS, Rule, Step, check_count, check_ranking


@dataclass(frozen=True)
class Threshold(Rule):
    """Every proposal the model is sure of, at least one per step.

    Args:
        threshold: commits candidates whose confidence (or margin) is at least this; with "entropy"
            those whose entropy in nats is at most this.
        ranking: "confidence", "margin" or "entropy".
        strict: equal to the threshold is not enough (Dimple, SDAR, LLaDA2); Fast-dLLM takes it.
        slack: what is within this of the best score is committed as well; None = only the best.
            dInfer has 1e-5, so that equal proposals go together.

    Raises:
        ValueError: a threshold that is not positive, or above 1 (except for "entropy"); a ranking
            that has no threshold; a slack that is negative or beside "entropy".

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.3 (parallel decoding by confidence);
        dParallel, arXiv 2509.26488 (entropy); dInfer, arXiv 2510.08666 (slack).
    """

    threshold: float = 0.9
    ranking: str = "confidence"
    strict: bool = False
    slack: float | None = None

    def __post_init__(self) -> None:
        check_ranking("Threshold", self.ranking, RANKINGS[:3])
        most = math.inf if self.ranking == "entropy" else 1.0
        if not 0 < self.threshold <= most:
            expected = "> 0" if self.ranking == "entropy" else "> 0 and <= 1"
            raise ValueError(f"Threshold: threshold: expected {expected}, got {self.threshold}")
        if self.slack is not None and not (0 <= self.slack < 1 and self.ranking != "entropy"):
            raise ValueError(
                "Threshold: slack: expected a number >= 0 and < 1, not by entropy, "
                f"got {self.slack} by {self.ranking}"
            )

    def rules(self, step: Step) -> dict[str, Any]:
        bound = step.full(self.threshold)
        if self.slack is not None:
            score = getattr(step.stats, self.ranking)
            best = score.masked_fill(~(step.masked & step.current), 0.0).amax(1)
            bound = bound.minimum((best - self.slack).clamp(min=0.0))
        return {"threshold": bound, "min_one": True, "strict": self.strict}


@dataclass(frozen=True)
class Factor(Rule):
    """As many proposals as can be wrong together: r of them while the r-th confidence is at least
    1 - factor / (r + 1), at least one per step.

    Args:
        factor: 1 is the condition under which parallel and sequential greedy decoding provably
            agree; more is bolder.
        last_too: where the last mask alone misses its bound it is committed all the same, as the
            published code does.

    Raises:
        ValueError: a factor that is not positive.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.3 and theorem 1; `last_too` as in
        dInfer, arXiv 2510.08666.
    """

    factor: float = 1.0
    last_too: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.factor < math.inf:
            raise ValueError(f"Factor: factor: expected a number > 0, got {self.factor}")

    def rules(self, step: Step) -> dict[str, Any]:
        factor = step.full(self.factor)
        if not self.last_too:
            return {"factor": factor, "min_one": True}
        open_ = step.masked & step.current & (step.stats.token >= 0)
        odds = step.log_odds is not None
        score = step.log_odds if step.log_odds is not None else step.stats.confidence
        count, masks = within_factor(score, factor, open_, odds), open_.sum(1)
        return {"top_k": torch.where(count == masks - 1, masks, count), "min_one": True}


@dataclass(frozen=True)
class EntropyBudget(Rule):
    """Proposals of low entropy until their joint uncertainty would exceed a budget.

    Takes them by ascending entropy; the longest prefix whose entropies without the last one sum up
    to at most `budget`, so at least one.

    Args:
        budget: in nats.

    Raises:
        ValueError: a budget that is negative.

    Source: Ben-Hamu et al., EB-sampler, arXiv 2505.24857.
    """

    budget: float = 0.1
    ranking = "entropy"

    def __post_init__(self) -> None:
        if not 0 <= self.budget < math.inf:
            raise ValueError(f"EntropyBudget: budget: expected a number >= 0, got {self.budget}")

    def rules(self, step: Step) -> dict[str, Any]:
        return {"budget": step.full(self.budget), "min_one": True}


@dataclass(frozen=True)
class LocalLeap(Rule):
    """A threshold that is lower in the neighbourhood of proposals that pass it.

    Args:
        threshold: confidence that makes a proposal an anchor of this step, and commits it.
        near: confidence that is enough within `reach` positions of an anchor.
        reach: positions to either side.

    Raises:
        ValueError: thresholds outside 0 < near <= threshold <= 1, a reach below 1.

    Source: LocalLeap, generate.py of the published code.
    """

    threshold: float = 0.9
    near: float = 0.75
    reach: int = 4

    def __post_init__(self) -> None:
        check_count("LocalLeap: reach", self.reach)
        if not 0 < self.near <= self.threshold <= 1:
            raise ValueError(
                "LocalLeap: near: expected 0 < near <= threshold <= 1, "
                f"got near {self.near}, threshold {self.threshold}"
            )

    def rules(self, step: Step) -> dict[str, Any]:
        return {
            "threshold": step.full(self.threshold),
            "near": step.full(self.near),
            "reach": self.reach,
            "min_one": True,
        }
