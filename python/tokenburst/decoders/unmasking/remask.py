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
