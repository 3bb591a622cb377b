"""KV caches of diffusion decoding: which positions a step computes, the others stay as they were.

A bidirectional model changes the keys and values of every token whenever any token changes, so a
cache is an approximation, and its whole definition is the set of positions that each forward
recomputes. In the first forward of a row that is all of them.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from tokenburst.decoders.unmasking.policy import Rule, check_count

__all__ = [
    "BlockCausalCache",
    "CachePolicy",
    "DelayedCache",
    "DualCache",
    "FreeCache",
    "GreedyCache",
    "Moment",
    "PrefixCache",
]


@dataclass(frozen=True)
class Moment:
    """Where each of B rows stands before a forward; everything broadcasts to [B, L]."""

    place: Tensor  # [1, L] int64, 0 .. L - 1
    begin: Tensor  # [B, 1] int64, first position of the current block
    end: Tensor  # [B, 1] int64, position after its last one
    before: Tensor  # [B, 1] int64, first position of the block that the row was in before
    step: Tensor  # [B, 1] int64, forwards already spent in the block
    first: Tensor  # [B, 1] bool: the row has had no forward yet
    masked: Tensor  # [B, L] bool: was a mask in the forward before; all True at the first
    masks: Tensor  # [B, L] bool: is one now
    chosen: Tensor | None = None  # [B, L] bool: will be decided by this forward, if that is known


class CachePolicy(Protocol):
    """What a cache must offer."""

    def feed(self, moment: Moment) -> Tensor:
        """[B, L] bool, positions to compute now. The rows that predict are added to them."""


def _check_refresh(name: str, refresh: int | None) -> None:
    if refresh is not None:
        check_count(f"{name}: refresh", refresh)


def _whole(step: Tensor, warmup: int, refresh: int | None) -> Tensor:
    """[B, 1] bool: steps that compute everything."""
    full = step < warmup
    return full if refresh is None else full | (step % refresh == 0)


@dataclass(frozen=True)
class PrefixCache:
    """Keeps what stands before the current block; the block and all after it are computed.

    Everything is computed once at the start of each block.

    Args:
        refresh: compute everything in every so-manieth step of a block, too; 1 caches nothing.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.2 (prefix KV cache).
    """

    refresh: int | None = None

    def __post_init__(self) -> None:
        _check_refresh("PrefixCache", self.refresh)

    def feed(self, moment: Moment) -> Tensor:
        return (moment.place >= moment.begin) | _whole(moment.step, 1, self.refresh)


@dataclass(frozen=True)
class DualCache:
    """Keeps what stands before and after the current block; only the block is computed.

    Everything is computed once at the start of each block.

    Args:
        vicinity: positions on either side of the block that are computed with it.
        refresh: compute everything in every so-manieth step of a block, too; 1 caches nothing.
        warmup: first steps of a block that compute everything.

    Source: Wu et al., Fast-dLLM, arXiv 2505.22618, section 3.2 (DualCache); Ma et al., dInfer,
        arXiv 2510.08666 (vicinity refresh, warm-up).
    """

    vicinity: int = 0
    refresh: int | None = None
    warmup: int = 1

    def __post_init__(self) -> None:
        check_count("DualCache: vicinity", self.vicinity, least=0)
        _check_refresh("DualCache", self.refresh)
        check_count("DualCache: warmup", self.warmup)

    def feed(self, moment: Moment) -> Tensor:
        near = moment.place >= moment.begin - self.vicinity
        near = near & (moment.place < moment.end + self.vicinity)
        return near | _whole(moment.step, self.warmup, self.refresh)


@dataclass(frozen=True)
class DelayedCache:
    """Keeps a token once it has been computed as a token: one step after it was decided.

    Masks, and tokens decided in the step before, are computed; the first two steps of a block
    compute everything.

    Args:
        refresh: compute everything in every so-manieth step of a block, too; 1 caches nothing.

    Source: Ma et al., dKV-Cache, arXiv 2505.15781, section 3 (dKV-Cache-Decode).
    """

    refresh: int | None = 8

    def __post_init__(self) -> None:
        _check_refresh("DelayedCache", self.refresh)

    def feed(self, moment: Moment) -> Tensor:
        return moment.masked | _whole(moment.step, 2, self.refresh)


@dataclass(frozen=True)
class GreedyCache:
    """Computes next to nothing: what this step decides, what the last one did, and a few masks.

    It has to be known before the forward which masks it decides, so the order must be random
    (`LowConfidence(ranking="random")`). Everything is computed at the start of each block.

    Args:
        window: masks computed with each mask that is decided: the nearest ones, left before right.
        refresh: compute everything in every so-manieth step of a block, too; 1 caches nothing.

    Source: Ma et al., dKV-Cache, arXiv 2505.15781, section 3 (dKV-Cache-Greedy), and the published
        code. Where a step decides several masks, the code lets each of them find masks that no
        other one has found; here they may share.
    """

    window: int = 4
    refresh: int | None = 2

    foresees = True  # needs `Moment.chosen`

    def __post_init__(self) -> None:
        check_count("GreedyCache: window", self.window, least=0)
        _check_refresh("GreedyCache", self.refresh)

    def feed(self, moment: Moment) -> Tensor:
        assert moment.chosen is not None  # asked for
        fed = moment.chosen | (moment.masked & ~moment.masks)
        if self.window:
            fed = fed | nearest(moment.chosen, moment.masks & ~moment.chosen, self.window)
        return fed | _whole(moment.step, 1, self.refresh)


def nearest(of: Tensor, among: Tensor, count: int) -> Tensor:
    """[B, L] bool: of `among` the `count` positions nearest to each one of `of`, left first.

    Args:
        of, among: [B, L] bool, disjoint.
        count: at least 1.
    """
    length = of.shape[1]
    place = torch.arange(length, device=of.device)[None, :, None]
    order = (~among).to(torch.int8).argsort(dim=1, stable=True)
    rank = among.cumsum(1)[..., None] + torch.arange(-count, count, device=of.device)
    there = (rank >= 0) & (rank < among.sum(1)[:, None, None]) & of[..., None]
    near = order.gather(1, rank.clamp(0, length - 1).flatten(1)).view_as(rank)
    distance = (2 * (near - place).abs() + (near > place)).where(there, 2 * length)
    best = distance.topk(count, dim=2, largest=False)
    near = near.gather(2, best.indices).where(best.values < 2 * length, length)
    found = torch.nn.functional.pad(torch.zeros_like(of), (0, 1))
    return found.scatter(1, near.flatten(1), True)[:, :-1]


@dataclass(frozen=True)
class FreeCache:
    """Keeps what the current block has passed, as it was then, and never refreshes it.

    Args:
        window: positions from the start of the block that are computed; None = all to the end.

    Source: Hu et al., FlashDLM, arXiv 2505.21467, section 4 (FreeCache).
    """

    window: int | None = None

    def __post_init__(self) -> None:
        if self.window is not None:
            check_count("FreeCache: window", self.window)

    def feed(self, moment: Moment) -> Tensor:
        active = moment.place >= moment.begin
        if self.window is not None:
            active = active & (moment.place < moment.begin + self.window)
        return active


@dataclass(frozen=True)
class BlockCausalCache:
    """Exact: a finished block of a block-causal model never changes again.

    The first step of a block also computes the tokens of the block before it, which are final by
    then; no forward is spent on storing them.

    Source: Cheng et al., SDAR, arXiv 2510.06303 (block-wise autoregression with a KV cache).
    """

    def feed(self, moment: Moment) -> Tensor:
        return moment.place >= torch.where(moment.step == 0, moment.before, moment.begin)


def check_cache(
    cache: CachePolicy | None, config: Any, causal_block: int | None, unmasking: Any
) -> None:
    """ValueError unless a model of this configuration can be decoded with the cache."""
    if cache is None:
        return
    if isinstance(cache, BlockCausalCache) != (causal_block is not None):
        kind = "bidirectional" if causal_block is None else "block-causal"
        raise ValueError(f"DiffusionDecoder: cache: {cache} is not for a {kind} model")
    if getattr(config, "sliding_window", None):
        raise ValueError(f"DiffusionDecoder: cache: expected None for sliding windows, got {cache}")
    random = isinstance(unmasking, Rule) and unmasking.order == "random"
    if isinstance(cache, GreedyCache) and not random:
        raise ValueError(
            "DiffusionDecoder: cache: GreedyCache has to know before a forward what it decides: "
            f"expected an order that is random, got {unmasking}"
        )
