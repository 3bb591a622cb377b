"""Policies that take tokens back: what was committed early and looks doubtful becomes a mask."""

import math
from dataclasses import dataclass

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
)

CURVES = ("linear", "cosine", "square")


def curve(name: str, t: Tensor) -> Tensor:
    """Share of masks that is left at time t in 0 .. 1."""
    if name == "cosine":
        return torch.cos(t * math.pi / 2)
    return 1 - t if name == "linear" else 1 - t * t


def divided(name: str, steps: int, n_blocks: int) -> int:
    """Steps of each block; ValueError where they do not divide."""
    if steps % n_blocks:
        raise ValueError(
            f"{name}: steps: expected a multiple of the {n_blocks} blocks, got {steps}"
        )
    return steps // n_blocks


def net(done: ops.Unmasked, back: ops.Remasked, left: Tensor, tokens_each: int = 1) -> ops.Unmasked:
    """Counts of a step that committed and then took back."""
    returned = back.n_remasked * tokens_each
    return done._replace(n_committed=done.n_committed - returned, n_left=left)


@dataclass(frozen=True)
class RunningConfidence:
    """Running confidence remasking: fill every mask, then take back the least certain tokens.

    Of a block with n masks, step j of S leaves n curve((j + 1) / S) masks: the tokens of the whole
    generation whose confidence, when they were written, was lowest. Tokens of earlier blocks can be
    among them and are predicted anew.

    Args:
        steps: of a whole generation, divided evenly among the blocks.
        curve: "linear", "cosine" or "square".
        ranking: "confidence" or "margin", of the distribution that is drawn from.
        running: what a position that is written again has: its "last" confidence, as in the
            published code, or the "most" it ever had, as the paper draws it.

    Raises:
        ValueError: a count below 1, an unknown curve, ranking or running.

    Source: MDPO, arXiv 2508.13148 (RCR); curves after MaskGIT, arXiv 2202.04200.
    """

    steps: int = 64
    curve: str = "cosine"
    ranking: str = "confidence"
    running: str = "last"

    def __post_init__(self) -> None:
        if self.running not in ("last", "most"):
            raise ValueError(
                f"RunningConfidence: running: expected last or most, got {self.running!r}"
            )
        check_count("RunningConfidence: steps", self.steps)
        check_ranking("RunningConfidence", self.ranking, ("confidence", "margin"))
        if self.curve not in CURVES:
            raise ValueError(
                f"RunningConfidence: curve: expected one of {', '.join(CURVES)}, got {self.curve!r}"
            )

    @property
    def needs(self) -> Needs:
        return Needs(k=0, sequence=True, tempered=True, pauses=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return divided("RunningConfidence", self.steps, n_blocks)

    def begin(self, plan: Plan) -> "_Running":
        for n_blocks in plan.n_blocks.unique().tolist():
            self.most_steps(1, n_blocks)
        return _Running(self, plan)


class _Running:
    def __init__(self, policy: RunningConfidence, plan: Plan) -> None:
        self.policy = policy
        self.number = torch.arange(plan.places.shape[1], device=plan.x.device)
        self.width = plan.places.shape[2]
        shape = plan.places.flatten(1).shape
        self.score = torch.full(shape, torch.nan, device=plan.x.device)  # NaN: never written

    def select(self, step: Step) -> ops.Unmasked:
        begun = (self.number <= step.block[:, None]).repeat_interleave(self.width, 1)
        position = step.position.where(begun, -1)
        score = getattr(step.stats, self.policy.ranking)
        all_ = torch.ones_like(step.active)
        done = step.select(score=score, position=position, commit_all=all_)
        kept = torch.fmax(score, self.score) if self.policy.running == "most" else score
        self.score = torch.where(done.committed, kept, self.score)
        each = self.policy.steps // step.n_blocks
        t = (step.step + 1) / each
        keep = (step.n_masks * curve(self.policy.curve, t.double()) + 1e-9).floor().long()
        keep = torch.where(t >= 1, 0, keep)
        back = ops.unmask_remask_(
            step.x,
            position,
            step.mask_id,
            score=self.score,
            top_k=torch.where(step.active, keep, 0),
        )
        return net(done, back, done.n_left + back.n_remasked)


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


@dataclass(frozen=True)
class ReMDM:
    """Remasking diffusion: masks are revealed by chance, tokens go back by chance.

    Time falls from 1 to 0 in the steps of a block. With alpha(t) = 1 - t, a decided token becomes a
    mask again with probability sigma, at most sigma_max = min(1, (1 - alpha(s)) / alpha(t)), and a
    mask is revealed with (alpha(s) - (1 - sigma) alpha(t)) / (1 - alpha(t)).

    Args:
        steps: of a whole generation, divided evenly among the blocks.
        mode: "cap" (sigma = min(eta, sigma_max)), "rescale" (eta sigma_max), "conf" (sigma_max
            times the softmax over decided tokens of minus their probability when written) or
            "loop": alpha rises to `alpha` until t = `on` and from there on after t = `off`, both
            without taking anything back; in between it stays while sigma = eta.
        eta: see `mode`; published are 0.008 for cap, 0.015 for rescale, 0.02 for loop.
        on, off, alpha: see "loop", where eta alpha <= 1 - alpha.

    Raises:
        ValueError: a count below 1, an unknown mode, numbers outside 0 .. 1, on <= off, an eta that
            takes back more than there are masks.

    Source: Wang et al., ReMDM, arXiv 2503.00307, and diffusion.py of its published code.
    """

    steps: int = 128
    mode: str = "cap"
    eta: float = 0.008
    on: float = 0.55
    off: float = 0.05
    alpha: float = 0.9

    def __post_init__(self) -> None:
        check_count("ReMDM: steps", self.steps)
        check_share("ReMDM: eta", self.eta, zero=True)
        if self.mode not in ("cap", "rescale", "conf", "loop"):
            raise ValueError(
                f"ReMDM: mode: expected one of cap, rescale, conf, loop, got {self.mode!r}"
            )
        if not 0 < self.off < self.on < 1 or not 0 < self.alpha < 1:
            raise ValueError(
                "ReMDM: on: expected 0 < off < on < 1 and 0 < alpha < 1, "
                f"got {self.off}, {self.on} and {self.alpha}"
            )
        if self.mode == "loop" and self.eta * self.alpha > 1 - self.alpha:
            raise ValueError(
                f"ReMDM: eta: expected at most {(1 - self.alpha) / self.alpha:.4g} where "
                f"alpha = {self.alpha}, got {self.eta}"
            )

    @property
    def needs(self) -> Needs:
        return Needs(k=0, pauses=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return divided("ReMDM", self.steps, n_blocks)

    def begin(self, plan: Plan) -> "_Returning":
        for n_blocks in plan.n_blocks.unique().tolist():
            self.most_steps(1, n_blocks)
        return _Returning(self, plan)


class _Returning:
    def __init__(self, policy: ReMDM, plan: Plan) -> None:
        self.policy = policy
        batch, _, width = plan.places.shape
        self.written = torch.zeros(batch, width, device=plan.x.device)

    def loop(self, step: Tensor, each: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha(t), alpha(s) and sigma of "loop", [B, 1]; its formula is that of the phase of t."""
        policy, t = self.policy, 1 - step / each
        rises, ends = t > policy.on + 1e-9, t <= policy.off + 1e-9
        shares = []
        for time in (t, t - 1 / each):
            first = (1 - time) * (policy.alpha / (1 - policy.on))
            last = 1 - time * ((1 - policy.alpha) / policy.off)
            share = torch.where(rises, first, torch.where(ends, last, policy.alpha))
            shares.append(share.clamp(max=1))
        over = step + 1 >= each
        shares[1] = torch.where(over, 1.0, shares[1])
        return *shares, torch.where(rises | ends | over, 0.0, policy.eta)

    def select(self, step: Step) -> ops.Unmasked:
        each = self.policy.steps // step.n_blocks
        now, then = (((step.step + n) / each).clamp(max=1)[:, None] for n in (0, 1))  # alpha
        most = ((1 - then) / now.clamp(min=1e-9)).clamp(max=1)
        decided = (step.position >= 0) & ~step.masked
        sigma = (most * self.policy.eta).expand_as(self.written)
        revealed = sigma
        if self.policy.mode == "cap":
            sigma = revealed = most.clamp(max=self.policy.eta).expand_as(self.written)
        elif self.policy.mode == "conf":
            sigma = most * (-self.written).masked_fill(~decided, -torch.inf).softmax(1).nan_to_num()
            revealed = torch.zeros_like(sigma)
        elif self.policy.mode == "loop":
            now, then, back = self.loop(step.step.double()[:, None], each[:, None])
            sigma = revealed = back.expand_as(self.written)
        reveal = (then - (1 - revealed) * now) / (1 - now).clamp(min=1e-9)
        reveal = torch.where(then >= 1, 1.0, reveal)[:, 0]
        done = step.select(score=step.stats.confidence, rng=step.rng, reveal=reveal.float())
        self.written = torch.where(done.committed, step.stats.confidence, self.written)
        back = ops.unmask_remask_(
            step.x,
            step.position.where(decided, -1),
            step.mask_id,
            score=self.written,
            probability=sigma.float().contiguous(),
            rng=step.rng,
        )
        # Where everything is decided, later steps may still take something back.
        left = done.n_left + back.n_remasked
        revises = (self.policy.mode == "conf") | (self.policy.eta > 0)
        until = 1 - self.policy.off if self.policy.mode == "loop" else 1.0
        revises = revises & ((step.step + 1) / each < until) & step.active
        return net(done, back, torch.where(revises, left.clamp(min=1), left))


@dataclass(frozen=True)
class SpanMasking:
    """MAGNeT's decoding: fill everything, then mask the least certain spans again.

    Spans are consecutive positions of a block. Once a span survives a step it is fixed. Before step
    j of S, max(1, int(cos(pi / 2 j / (S - 1)) n)) of n spans are masks; a span is as good as its
    best token.

    Args:
        steps: per block.
        span: positions, a divisor of the block.

    Raises:
        ValueError: a count below 1; masks of a block that are no whole number of spans.

    Source: Ziv et al., MAGNeT, arXiv 2401.04577 (non-overlapping spans, max score).
    """

    steps: int = 20
    span: int = 3

    def __post_init__(self) -> None:
        check_count("SpanMasking: steps", self.steps)
        check_count("SpanMasking: span", self.span)

    @property
    def needs(self) -> Needs:
        return Needs(k=0, tempered=True, pauses=True)

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return self.steps

    def begin(self, plan: Plan) -> "_Spans":
        odd = (plan.places >= 0).sum(2) % self.span
        if bool((odd != 0).any()):
            raise ValueError(
                f"SpanMasking: span: expected a divisor of the masks of a block, got {self.span}"
            )
        return _Spans(self)


class _Spans:
    def __init__(self, policy: SpanMasking) -> None:
        self.policy = policy

    def select(self, step: Step) -> ops.Unmasked:
        span, last = self.policy.span, self.policy.steps - 1
        done = step.select(score=step.stats.confidence, commit_all=torch.ones_like(step.active))
        room = -step.position.shape[1] % span
        pad = torch.nn.functional.pad
        first = pad(step.position, (0, room), value=-1)[:, ::span]
        fresh = pad(step.masked, (0, room)).unflatten(1, (-1, span)).all(2)
        best = pad(step.stats.confidence, (0, room)).unflatten(1, (-1, span)).amax(2)
        share = torch.cos((step.step + 1).double() / max(1, last) * (math.pi / 2))
        count = (step.n_masks // span * share + 1e-9).floor().long().clamp(min=1)
        count = torch.where((step.step < last) & step.active, count, 0)
        back = ops.unmask_remask_(
            step.x, first.where(fresh, -1), step.mask_id, score=best, span=span, top_k=count
        )
        return net(done, back, done.n_left + back.n_remasked * span, span)
