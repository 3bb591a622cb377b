"""Policies that remember earlier steps: credit, stability, spans."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.policy import (
    Needs,
    Plan,
    Rule,
    Step,
    check_count,
    check_share,
    fallback,
)
from tokenburst.decoders.unmasking.threshold import Threshold


@dataclass(frozen=True)
class Credit:
    """Adds to the logits what earlier steps kept saying: ids that stay on top commit sooner.

    Each step the credit C of every id falls by the factor `decay`, then the best id of a position
    gains its probability to the power `power`; the rule sees softmax(l + gain ln(1 + C)). At most
    one id per step and position has credit, so it is kept as a list, which gives what a tensor
    [B, L, V] would. Proposals are greedy.

    Args:
        rule: decides, by confidence.
        gain: alpha.
        power: gamma.
        decay: beta.
        slots: ids remembered per position; exact as long as no position has had more best ids
            within a block, then the one with the least credit is forgotten.

    Raises:
        ValueError: parameters out of range, a rule by another ranking.

    Source: CreditDecoding, arXiv 2510.06133; defaults of dInfer.
    """

    rule: Rule = Threshold()  # noqa: RUF009 (frozen)
    gain: float = 0.7
    power: float = 0.2
    decay: float = 0.8
    slots: int = 16

    def __post_init__(self) -> None:
        check_count("Credit: slots", self.slots)
        check_share("Credit: decay", self.decay, zero=True)
        for name in ("gain", "power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(
                    f"Credit: {name}: expected a number >= 0, got {getattr(self, name)}"
                )
        if self.rule.order != "confidence":
            raise ValueError(f"Credit: rule: expected one by confidence, got {self.rule.order}")

    @property
    def needs(self) -> Needs:
        return self.rule.needs | Needs(k=1)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.rule.most_steps(n_masks, n_blocks)

    def begin(self, plan: Plan) -> "_Creditor":
        self.rule.begin(plan)
        batch, _, width = plan.places.shape
        return _Creditor(self, (batch, width, self.slots), plan.x.device)


class _Creditor:
    def __init__(self, policy: Credit, shape: tuple[int, ...], device: torch.device) -> None:
        self.policy = policy
        self.ids = torch.full(shape, -1, device=device)
        self.credit = torch.zeros(shape, device=device)

    def update(self, best: Tensor, p: Tensor, fresh: Tensor) -> None:
        """Credit to the best ids [B, R] of probability p; `fresh` [B] rows begin a block."""
        self.ids = self.ids.where(~fresh[:, None, None], -1)
        self.credit = torch.where(fresh[:, None, None], 0.0, self.credit * self.policy.decay)
        known = (self.ids == best[..., None]) & (best >= 0)[..., None]
        worst = torch.where(self.ids < 0, -1.0, self.credit).argmin(2)
        slot = torch.where(known.any(2), known.int().argmax(2), worst)[..., None]
        had = torch.where(known.any(2), self.credit.gather(2, slot)[..., 0], 0.0)
        self.ids = self.ids.scatter(2, slot, best[..., None])
        self.credit = self.credit.scatter(2, slot, (had + p**self.policy.power)[..., None])

    def fuse(self, logits: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
        """Best id and its confidence [B, R] from the logits of the remembered ids and the lse."""
        share = (logits - lse[..., None]).exp().nan_to_num(0.0)
        raised = self.policy.gain * self.credit.log1p()
        more = (share * raised.expm1()).sum(2).log1p()
        fused = torch.where(self.ids >= 0, logits + raised, -torch.inf)
        top = fused.amax(2)
        tied = torch.where(fused == top[..., None], self.ids, torch.iinfo(torch.int64).max)
        token = torch.where(top > -torch.inf, tied.amin(2), -1)
        return token, (top - lse - more).exp().nan_to_num(0.0)

    def select(self, step: Step) -> ops.Unmasked:
        stats = step.stats
        best = stats.ids[..., 0]
        self.update(best, (stats.values[..., 0] - stats.lse).exp().nan_to_num(0.0), step.step == 0)
        token, confidence = self.fuse(step.logits_at(self.ids), stats.lse)
        fused = stats._replace(token=token, confidence=confidence)
        return self.policy.rule.select(replace(step, stats=fused, log_odds=None))


@dataclass(frozen=True)
class Stable:
    """KLASS: commits what is sure and has stopped changing, else the best of a schedule.

    Stable is a position whose distribution moved by less than `divergence` in each of the last
    `history` steps, as KL(p now, p before). Of the distribution before only the `k` most likely ids
    and the rest as one are kept, so what is compared is a lower bound of the divergence over all
    ids, and a step needs no second tensor of logits.

    Args:
        threshold: of the confidence, exceeded.
        divergence: in nats.
        history: steps.
        top_k: tokens where nothing is sure and stable.
        k: ids that are compared.
        ahead: follow the blocks to come, too, as the published code does: a position may then be
            stable from its block's second step on. Every step reads the logits of all masks.

    Raises:
        ValueError: parameters out of range.

    Source: KLASS, arXiv 2511.05664, which keeps the probabilities of all ids.
    """

    threshold: float = 0.9
    divergence: float = 0.01
    history: int = 2
    top_k: int = 1
    k: int = 8
    ahead: bool = False

    def __post_init__(self) -> None:
        check_share("Stable: threshold", self.threshold)
        for name in ("history", "top_k", "k"):
            check_count(f"Stable: {name}", getattr(self, name))
        if not 0 < self.divergence < math.inf:
            raise ValueError(f"Stable: divergence: expected a number > 0, got {self.divergence}")

    @property
    def needs(self) -> Needs:
        return Needs(k=self.k, sequence=self.ahead)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> "_Steady":
        return _Steady(self, plan)


class _Steady:
    def __init__(self, policy: Stable, plan: Plan) -> None:
        batch, n_blocks, width = plan.places.shape
        width *= n_blocks if policy.ahead else 1
        device, k = plan.x.device, min(policy.k, plan.vocab_size)
        self.policy = policy
        self.ids = torch.full((batch, width, k), -1, device=device)
        self.p = torch.zeros(batch, width, k, device=device)
        self.streak = torch.zeros(batch, width, dtype=torch.int64, device=device)

    def moved(self, now: Tensor) -> Tensor:
        """KL over the remembered ids and the rest as one id; [B, R]."""
        tiny = 1e-12
        pairs = (now, self.p), (1 - now.sum(2, keepdim=True), 1 - self.p.sum(2, keepdim=True))
        parts = [
            torch.xlogy(a.clamp(min=0), a.clamp(min=tiny) / b.clamp(min=tiny)) for a, b in pairs
        ]
        return torch.cat(parts, 2).sum(2)

    def select(self, step: Step) -> ops.Unmasked:
        stats = step.stats
        now = (step.logits_at(self.ids) - stats.lse[..., None]).exp().nan_to_num(0.0)
        policy, later = self.policy, step.step[:, None]
        followed = (self.ids[..., 0] >= 0) & (policy.ahead | (later > 0))
        calm = (self.moved(now) < policy.divergence) & followed
        self.streak = torch.where(calm, self.streak + 1, 0)
        self.ids = stats.ids
        self.p = (stats.values - stats.lse[..., None]).exp().nan_to_num(0.0)
        stable = (self.streak >= policy.history) & (later >= policy.history - 1)
        here = step.block_only()
        order = {"score": stats.confidence}
        bound, token = step.full(policy.threshold), stats.token.where(stable, -1)
        sure = here.select(token=token, threshold=bound, strict=True, **order)
        return fallback(here, sure, top_k=torch.full_like(step.step, policy.top_k), **order)


@dataclass(frozen=True)
class SlowFast:
    """Explores slowly until it is clear how far the text can be told, then fills that span fast.

    Slow steps commit one token and predict the span: up to the last mask whose confidence exceeds
    `hint`. When the last `agree` predictions lie within `spread` of their mean, or after
    `slow_steps`, fast steps commit what exceeds `threshold` inside the span, at least one token,
    until it has no mask.

    Args:
        threshold: of fast steps.
        hint: confidence that counts for the span.
        agree: predictions compared.
        spread: largest variance of these.
        slow_steps: most slow steps in a row.

    Raises:
        ValueError: parameters out of range.

    Source: Slow-Fast Sampling, sampling_utils of the published code (hint 0.3 for LLaDA, 0.1 for
        Dream).
    """

    threshold: float = 0.9
    hint: float = 0.3
    agree: int = 2
    spread: float = 1.0
    slow_steps: int = 6

    def __post_init__(self) -> None:
        check_share("SlowFast: threshold", self.threshold)
        check_share("SlowFast: hint", self.hint)
        check_count("SlowFast: agree", self.agree, 2)
        check_count("SlowFast: slow_steps", self.slow_steps)
        if not 0 <= self.spread < math.inf:
            raise ValueError(f"SlowFast: spread: expected a number >= 0, got {self.spread}")

    @property
    def needs(self) -> Needs:
        return Needs(k=0)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> "_Explorer":
        return _Explorer(self, plan)


class _Explorer:
    def __init__(self, policy: SlowFast, plan: Plan) -> None:
        self.policy = policy
        device = plan.x.device
        self.index = torch.arange(plan.places.shape[2], device=device)
        self.end = torch.full_like(plan.n_blocks, -1)  # last index of the span, -1: slow phase
        self.ends = torch.zeros(len(plan.x), policy.agree, device=device)
        self.count = torch.zeros_like(plan.n_blocks)

    def select(self, step: Step) -> ops.Unmasked:
        policy, score = self.policy, step.stats.confidence
        fresh = step.step == 0
        self.end, self.count = torch.where(fresh, -1, self.end), torch.where(fresh, 0, self.count)
        inside = self.index <= self.end[:, None]
        fast = (step.masked & inside).any(1)
        hinted = step.masked & (score > policy.hint)
        first = torch.where(step.masked, self.index, len(self.index)).amin(1)
        last = torch.where(hinted, self.index, -1).amax(1)
        last = torch.where(last < 0, first, last)

        position = step.position.where(inside | ~fast[:, None], -1)
        bound = torch.where(fast, policy.threshold, torch.inf)
        done = step.select(position=position, score=score, threshold=bound, strict=True)
        one = torch.ones_like(step.step)
        done = fallback(step, done, top_k=one, score=score, position=position)

        pushed = torch.cat([self.ends[:, 1:], last[:, None].float()], 1)
        self.ends = torch.where(fast[:, None], self.ends, pushed)
        self.count = torch.where(fast, 0, self.count + 1)
        settled = (self.count >= policy.agree) & (self.ends.var(1, unbiased=False) <= policy.spread)
        starts = ~fast & (settled | (self.count >= policy.slow_steps))
        self.end = torch.where(starts, last, torch.where(fast, self.end, -1))
        self.count = torch.where(starts, 0, self.count)
        left = step.masked.sum(1, dtype=torch.int32) - done.n_committed
        return done._replace(n_left=left)
