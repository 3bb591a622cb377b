"""What an unmasking policy is: it sees a step of the decoder and writes tokens by the ops."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.unmasking.fine import in_log_odds

RANKINGS = ("confidence", "margin", "entropy", "random")


def check_ranking(name: str, ranking: str, allowed: tuple[str, ...] = RANKINGS) -> None:
    """ValueError unless the ranking is one of `allowed`."""
    if ranking not in allowed:
        raise ValueError(f"{name}: ranking: expected one of {', '.join(allowed)}, got {ranking!r}")


def check_count(name: str, value: object, least: int = 1) -> None:
    """ValueError unless value is an integer >= least."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name}: expected an integer >= {least}, got {value!r}")


def check_share(name: str, value: float, zero: bool = False) -> None:
    """ValueError unless value is a number in (0, 1], or in [0, 1] with `zero`."""
    if not (0 <= value <= 1) or (value == 0 and not zero):
        raise ValueError(f"{name}: expected {'>=' if zero else '>'} 0 and <= 1, got {value}")


@dataclass(frozen=True)
class Needs:
    """What a policy wants to see beyond the masked positions of the current block."""

    # Most likely ids of each position, with their logits; 0: not these, nor `lse` nor `logits_at`.
    k: int = 1
    decided: bool = False  # statistics of decided positions as well
    sequence: bool = False  # positions of all blocks, not of the current one
    hidden: bool = False  # the last hidden states
    tempered: bool = False  # statistics of the distribution that tokens are drawn from
    pauses: bool = False  # a step may commit nothing and the next one still may
    # With `decided`: decided positions are predicted by shadow rows, which do not see their token
    # and see each other ("together") or not ("apart").
    shadows: str = ""
    cuts: bool = False  # the process has `lengths` [B] int32; what stands behind them is dropped

    def __or__(self, other: "Needs") -> "Needs":
        mine, theirs = vars(self), vars(other)
        return Needs(**{name: max(mine[name], theirs[name]) for name in mine})


@dataclass(frozen=True)
class Plan:
    """A request, as far as a policy must know it before the first step."""

    x: Tensor  # [B, L] int64, as generation starts
    places: Tensor  # [B, blocks, W] int64, positions of the masks of each block, -1 = none
    n_blocks: Tensor  # [B] int64, blocks that hold a mask
    mask_id: int
    vocab_size: int
    model: Any
    lengths: Tensor | None = None  # [B] int32, tokens and masks of each row; None = all of x


@dataclass(frozen=True)
class Step:
    """One step of a batch, before anything is written. R = candidates per sequence.

    Sequences that are done take part with position -1 everywhere.
    """

    x: Tensor  # [B, L] int64, written in place
    position: Tensor  # [B, R] int64, -1 = none
    masked: Tensor  # [B, R] bool, positions that hold the mask
    current: Tensor  # [B, R] bool, positions of the current block
    active: Tensor  # [B] bool
    stats: ops.VocabStats  # [B, R] and [B, R, k]
    step: Tensor  # [B] int64, steps spent in the current block
    n_masks: Tensor  # [B] int64, masks that the current block had at its start
    block: Tensor  # [B] int64
    n_blocks: Tensor  # [B] int64
    rng: Tensor  # [B, 3] int64 (seed, sequence, step)
    mask_id: int
    logits_at: Callable[[Tensor], Tensor]  # ids [B, R, K] -> their logits, float32
    hidden: Tensor | None = None  # [B, R, D] where asked for
    log_odds: Tensor | None = None  # [B, R] of the tokens, where float32 confidences are too coarse

    def full(self, value: float) -> Tensor:
        """[B] of one value, as exact as the scores are."""
        dtype = torch.float32 if self.log_odds is None else torch.float64
        return torch.full_like(self.step, value, dtype=dtype)

    def score(self, ranking: str) -> dict[str, Any]:
        """The order of a ranking, as arguments of `ops.unmask_select_`."""
        if ranking == "random":
            return {"rng": self.rng}
        return {"score": getattr(self.stats, ranking), "lowest_first": ranking == "entropy"}

    def select(self, **rules: Any) -> ops.Unmasked:
        """`ops.unmask_select_` with what the step knows, where `rules` does not say otherwise."""
        rules = {"position": self.position, "token": self.stats.token} | rules
        if self.log_odds is not None and rules.get("score") is self.stats.confidence:
            place, token = rules["position"], rules["token"]
            open_ = self.x.gather(1, place.clamp(min=0)) == self.mask_id
            open_ = open_ & (place >= 0) & (token >= 0) & (token != self.mask_id)
            rules = in_log_odds(self.log_odds, open_, rules)
        if self.log_odds is not None:
            wide = {n: t for n, t in rules.items() if getattr(t, "dtype", None) == torch.float64}
            rules |= {name: value.float() for name, value in wide.items()}
        return ops.unmask_select_(self.x, mask_id=self.mask_id, **rules)

    def narrow(self, index: Tensor) -> "Step":
        """The same step with the candidates index [B, W] of each sequence alone."""

        def take(held: Tensor) -> Tensor:
            at = index if held.dim() == 2 else index[..., None].expand(-1, -1, held.shape[2])
            return held.gather(1, at)

        def logits_at(ids: Tensor) -> Tensor:
            at = index[..., None].expand_as(ids)
            wide = ids.new_full((*self.position.shape, ids.shape[2]), -1).scatter(1, at, ids)
            return self.logits_at(wide).gather(1, at)

        return replace(
            self,
            position=take(self.position),
            masked=take(self.masked),
            current=take(self.current),
            stats=ops.VocabStats(*map(take, self.stats)),
            logits_at=logits_at,
            hidden=None if self.hidden is None else take(self.hidden),
            log_odds=None if self.log_odds is None else take(self.log_odds),
        )

    def block_only(self) -> "Step":
        """The same step with the candidates of the current block alone."""
        return replace(self, position=self.position.where(self.current, -1))


def fallback(step: Step, first: ops.Unmasked, *, top_k: Tensor, **order: Any) -> ops.Unmasked:
    """Commits `top_k` [B] more tokens in the sequences where `first` committed none.

    Args:
        step: as before `first`.
        first: what has been committed.
        top_k: how many, where nothing was.
        order: ranking of the candidates.
    """
    short = torch.where(first.n_committed > 0, 0, top_k)
    more = step.select(top_k=short, **order)
    return more._replace(
        committed=first.committed | more.committed,
        n_committed=first.n_committed + more.n_committed,
    )


class Process(Protocol):
    """A policy at work on one batch: what it remembers lives here."""

    def select(self, step: Step) -> ops.Unmasked:
        """Write tokens into `step.x`.

        Returns:
            The counts of the step. `n_left` 0 lets a sequence go on to its next block with masks.
        """


class Unmasking(Protocol):
    """What the decoder asks of a policy."""

    @property
    def needs(self) -> Needs: ...

    def begin(self, plan: Plan) -> Process:
        """The policy at work on one batch.

        Raises:
            ValueError: it does not fit the request.
        """

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        """Upper bound of the steps spent in a block with `n_masks` masks.

        Raises:
            ValueError: the policy cannot be spread over so many blocks.
        """


class Rule:
    """A policy without memory: one ranking and rules that each take the best of it.

    Subclasses give `rules`, and `ranking` where it is not the confidence. `a | b` commits what
    either would: of prefixes of one order that is the longer one.
    """

    @property
    def needs(self) -> Needs:
        return Needs(k=0)

    @property
    def order(self) -> str:
        """Ranking of the candidates."""
        return getattr(self, "ranking", "confidence")

    def rules(self, step: Step) -> dict[str, Any]:
        """Rule arguments of `ops.unmask_select_`."""
        raise TypeError(f"{type(self).__name__}: expected a method rules")

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return n_masks

    def begin(self, plan: Plan) -> Process:
        for n_blocks in plan.n_blocks.unique().tolist():
            self.most_steps(1, max(1, n_blocks))  # refuses what does not divide
        return self

    def select(self, step: Step) -> ops.Unmasked:
        return step.select(**step.score(self.order), **self.rules(step))

    def foresee(self, step: Step) -> Tensor:
        """[B, R] bool: what `select` will commit, without statistics. The order is random."""
        token = torch.full_like(step.position, int(step.mask_id == 0))  # any but the mask
        return ops.unmask_select_(
            step.x.clone(),
            step.position,
            token,
            step.mask_id,
            **step.score(self.order),
            **self.rules(step),
        ).committed

    def __or__(self, other: "Rule") -> "Union":
        return Union((self, other))


@dataclass(frozen=True)
class Union(Rule):
    """Commits what any of several rules would.

    Args:
        members: rules of one ranking.

    Raises:
        ValueError: no rules, or rules that rank differently.
    """

    members: tuple[Rule, ...]

    def __post_init__(self) -> None:
        rankings = sorted({part.order for part in self.members})
        if len(rankings) != 1:
            raise ValueError(f"Union: expected rules of one ranking, got {rankings}")

    @property
    def order(self) -> str:
        return self.members[0].order

    @property
    def needs(self) -> Needs:
        needs = Needs(k=0)
        for part in self.members:
            needs = needs | part.needs
        return needs

    def rules(self, step: Step) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for part in self.members:
            for name, value in part.rules(step).items():
                if name in merged:
                    loosest = torch.minimum if self._looser_below(name) else torch.maximum
                    both = torch.is_tensor(value) and torch.is_tensor(merged[name])
                    value = loosest(value, merged[name]) if both else value or merged[name]
                merged[name] = value
        return merged

    def _looser_below(self, name: str) -> bool:
        return name == "threshold" and self.order != "entropy"

    def most_steps(self, n_masks: int, n_blocks: int) -> int:
        return min(part.most_steps(n_masks, n_blocks) for part in self.members)
