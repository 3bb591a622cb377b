"""Dream's orders over a linear time, and Dimple's confident decoding on top of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import (
    Needs,
    Plan,
    Step,
    check_count,
    check_ranking,
    check_share,
    fallback,
)

ORDERS = {"maskgit_plus": "confidence", "topk_margin": "margin", "entropy": "entropy"}


def times(steps: int, eps: float) -> Tensor:
    """[steps + 1] float64 from 1 to eps."""
    return torch.linspace(1.0, eps, steps + 1, dtype=torch.float64)


def dream_schedule(n_masks: int, steps: int, eps: float = 1e-3) -> list[int]:
    """Tokens that Dream commits in each of its steps, zeros included."""
    t, left, counts = times(steps, eps).tolist(), n_masks, []
    for i in range(steps):
        n = int(left * (1 - t[i + 1] / t[i])) if i < steps - 1 else left
        counts.append(n)
        left -= n
    return counts


@dataclass(frozen=True)
class Dream:
    """Dream's decoding: a share of the masks that follows a linear time, the best ones first.

    Scores are those of the distribution that is drawn from, tempered and filtered. Where the
    schedule commits nothing the published loop spends a forward on the same sequence; here such
    steps are left out.

    Args:
        steps: of a whole generation, divided evenly among the blocks.
        order: "origin" (each mask with the probability of the step), "maskgit_plus" (confidence),
            "topk_margin" or "entropy".
        noise: alg_temp, draws masks at random with weights exp(score / noise); 0 takes the best.
        eps: where time ends.

    Raises:
        ValueError: a count below 1, an unknown order, a negative noise, eps outside 0 .. 1.

    Source: Ye et al., Dream, arXiv 2508.15487; Gong et al., DiffuCoder, arXiv 2506.20639 uses
        "entropy" with temperature 0.3 and top_p 0.95.
    """

    steps: int = 512
    order: str = "entropy"
    noise: float = 0.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_count("Dream: steps", self.steps)
        check_ranking("Dream", self.order, ("origin", *ORDERS))
        check_share("Dream: eps", self.eps)
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"Dream: noise: expected a number >= 0, got {self.noise}")

    @property
    def needs(self) -> Needs:
        return Needs(k=0, tempered=True, pauses=self.order == "origin")

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        if self.steps % n_blocks:
            raise ValueError(
                f"Dream: steps: expected a multiple of the {n_blocks} blocks, got {self.steps}"
            )
        each = self.steps // n_blocks
        return each if self.order == "origin" else min(each, n_masks)

    def begin(self, plan: Plan) -> "_Dreamer":
        for n_blocks in plan.n_blocks.unique().tolist():
            self.most_steps(1, n_blocks)
        return _Dreamer(self, plan)


def scores(step: Step, order: str, noise: float) -> dict[str, Any]:
    """The order of the candidates, with noise where there is any."""
    ranks = step.score(ORDERS[order])
    return ranks | ({"rng": step.rng, "noise": step.full(noise)} if noise > 0 else {})


class _Dreamer:
    def __init__(self, policy: Dream, plan: Plan) -> None:
        self.policy = policy
        device = plan.x.device
        self.times = times(policy.steps, policy.eps).to(device)
        if policy.order == "origin":
            return
        # One schedule for every number of masks and of blocks that occurs, without its zeros.
        pairs = torch.stack(
            [(plan.places >= 0).sum(2), plan.n_blocks[:, None].expand(plan.places.shape[:2])]
        )
        kinds = pairs.flatten(1).unique(dim=1).T.tolist()
        self.width = plan.places.shape[2] + 1
        self.kind = torch.zeros(self.width * (plan.places.shape[1] + 1), dtype=torch.int64)
        tables = []
        for number, (n, n_blocks) in enumerate(kinds):
            counts = dream_schedule(n, policy.steps // n_blocks, policy.eps)
            tables.append([count for count in counts if count > 0])
            self.kind[n + n_blocks * self.width] = number
        longest = max([1, *map(len, tables)])
        padded = [counts + [0] * (longest - len(counts)) for counts in tables or [[]]]
        self.table, self.kind = torch.tensor(padded, device=device), self.kind.to(device)

    def select(self, step: Step) -> ops.Unmasked:
        policy = self.policy
        if policy.order == "origin":
            each = policy.steps // step.n_blocks
            t, s = (1 - (step.step + n) / each * (1 - policy.eps) for n in (0, 1))
            share = torch.where(step.step + 1 < each, 1 - s / t, 1.0).float()
            return step.select(rng=step.rng, reveal=share)
        kind = self.kind[step.n_masks + step.n_blocks * self.width]
        count = self.table[kind, step.step.clamp(max=self.table.shape[1] - 1)]
        return step.select(**scores(step, policy.order, policy.noise), top_k=count)


@dataclass(frozen=True)
class Dimple:
    """Confident decoding: all masks whose best id exceeds a threshold, else what a schedule says.

    Where nothing is that sure, time moves on to the first step at which Dream's schedule would
    commit a token.

    Args:
        threshold: of the probability of the most likely id, before temperature and filters.
        steps: most steps, divided evenly among the blocks; the last one commits everything.
        order: of the fallback, see `Dream`; "origin" is a random order, "autoregressive" goes from
            the left.
        noise: see `Dream`.
        eps: where time ends.

    Raises:
        ValueError: a threshold outside 0 .. 1, a count below 1, an unknown order, a negative noise.

    Source: Yu et al., Dimple, arXiv 2505.16990. Rows of a batch do not influence each other here.
    """

    threshold: float = 0.95
    steps: int = 512
    order: str = "entropy"
    noise: float = 0.0
    eps: float = 1e-3

    def __post_init__(self) -> None:
        check_share("Dimple: threshold", self.threshold)
        check_ranking("Dimple", self.order, ("origin", "autoregressive", *ORDERS))
        Dream(self.steps, noise=self.noise, eps=self.eps)

    @property
    def needs(self) -> Needs:
        return Needs(tempered=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return min(n_masks, Dream(self.steps).most_steps(n_masks, n_blocks))

    def begin(self, plan: Plan) -> "_Confident":
        Dream(self.steps).begin(plan)
        return _Confident(self)


class _Confident:
    def __init__(self, policy: Dimple) -> None:
        self.policy = policy

    def select(self, step: Step) -> ops.Unmasked:
        policy = self.policy
        best = torch.exp(step.stats.values[..., 0] - step.stats.lse)
        each = policy.steps // step.n_blocks
        over = step.step + 1 >= each
        masks = step.masked.sum(1)
        sure = step.select(
            score=best, threshold=step.full(policy.threshold), strict=True, commit_all=over
        )
        if policy.order == "origin":
            ranks: dict[str, Any] = {"rng": step.rng}
        elif policy.order == "autoregressive":
            ranks = {"score": step.position.float(), "lowest_first": True}
        else:
            ranks = scores(step, policy.order, policy.noise)
        return fallback(step, sure, top_k=self._count(step, masks, each), **ranks)

    def _count(self, step: Step, masks: Tensor, each: Tensor) -> Tensor:
        """Tokens of the first time from now on, below the share of masks, that has any."""
        u = torch.arange(self.policy.steps, device=masks.device)
        ratio = masks / step.n_masks.clamp(min=1)
        begin, end = (1 - (u + n) / each[:, None] * (1 - self.policy.eps) for n in (0, 1))
        n = (masks[:, None] * (1 - end / ratio[:, None].clamp(min=1e-9))).floor().long()
        ok = (begin < ratio[:, None]) & (u > step.step[:, None]) & (u < each[:, None]) & (n >= 1)
        first = torch.where(ok, n, 0).gather(1, ok.int().argmax(1, keepdim=True))[:, 0]
        return torch.where(ok.any(1), first, 1)
