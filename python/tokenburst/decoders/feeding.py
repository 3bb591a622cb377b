"""Which positions the forwards over a cache compute, packed to the front of each row."""

import torch
from torch import Tensor

from tokenburst.decoders.caches import CachePolicy, Moment
from tokenburst.decoders.sparsedrun import SparsedRun


class Feeding:
    """What a cache policy wants computed, with the rows that predict.

    Args:
        cache: decides.
        lengths: [B] int32, tokens and masks of each row.
        length: positions of a row.
        mask_id: the mask token.
        attention: takes its pattern from whole rows; None = dense.
    """

    def __init__(
        self,
        cache: CachePolicy,
        lengths: Tensor,
        length: int,
        mask_id: int,
        attention: SparsedRun | None,
    ) -> None:
        self.cache, self.mask_id, self.length, self.attention = cache, mask_id, length, attention
        batch, device = len(lengths), lengths.device
        self.place = torch.arange(length, device=device)[None]
        # Of the forward before: rows that have had none, and positions that held a mask.
        self.fresh = torch.ones(batch, 1, dtype=torch.bool, device=device)
        self.masked = torch.ones(batch, length, dtype=torch.bool, device=device)
        self.masks = self.masked
        self.fed = self.place.expand(batch, -1)  # [B, L] positions to compute come first
        self.count = lengths  # [B] int32, how many of them
        self.after = lengths  # [B] int32, how many the step after will want in the same block
        self.touched = lengths  # [B] int32, blocks of the pattern of `attention` that hold them

    def plan(
        self,
        x: Tensor,
        source: Tensor,
        seen: Tensor,
        visible: Tensor,
        bounds: Tensor,
        before: Tensor,
        step: Tensor,
        active: Tensor,
        chosen: Tensor | None,
        ahead: bool,
    ) -> Tensor:
        """Fix what the next forward computes.

        Args:
            x: [B, L] int64 tokens and masks.
            source: [B, W] int64 positions whose rows predict, where `seen` [B, W].
            seen: see `source`.
            visible: [B] int32, positions that are seen.
            bounds: [B, 2] int64, first position of each row's current block and the one after it.
            before: [B] int64, first position of the block it was in before.
            step: [B] steps it has spent there.
            active: [B] bool, rows that are not done.
            chosen: [B, L] bool, positions that the next step decides; None = unknown.
            ahead: foretell `after`.

        Returns:
            [B, W] where the rows of `source` end up.
        """
        inside = self.place < visible[:, None]
        self.masks = (x == self.mask_id) & inside
        inside = inside & active[:, None]
        begin, end = bounds.unsqueeze(2).unbind(1)

        def wanted(step: Tensor, masked: Tensor, first: Tensor) -> Tensor:
            moment = Moment(
                place=self.place,
                begin=begin,
                end=end,
                before=before[:, None],
                step=step[:, None],
                first=first,
                masked=masked,
                masks=self.masks,
                chosen=chosen,
            )
            return (self.cache.feed(moment) | first) & inside

        feed = wanted(step, self.masked, self.fresh)
        if self.attention is not None:
            feed = feed | (self.attention.taking()[:, None] & inside)
        feed = torch.nn.functional.pad(feed, (0, 1))  # a column for what is not seen
        feed = feed.scatter(1, source.where(seen, self.length), True)[:, :-1] & inside
        self.fed = (~feed).to(torch.int8).argsort(dim=1, stable=True)
        self.count = feed.sum(1, dtype=torch.int32)
        if self.attention is not None:
            self.touched = self.attention.touched(feed)
        if ahead:
            later = wanted(step + 1, self.masks, torch.zeros_like(self.fresh))
            self.after = later.sum(1, dtype=torch.int32)
        return (feed.cumsum(1) - 1).gather(1, source).clamp(min=0)

    def ran(self, active: Tensor) -> None:
        """These rows, [B] bool, have had the forward that was planned."""
        self.masked = torch.where(active[:, None], self.masks, self.masked)
        self.fresh = self.fresh & ~active[:, None]
