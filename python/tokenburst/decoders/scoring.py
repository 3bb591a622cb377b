"""The forward half of a diffusion step: hidden rows for the wanted positions, whatever is cached.

Which positions a forward computes is a boolean mask from the cache policy. All else is common: the
positions are packed, their keys and values overwrite their own rows of the KV cache, and each of
them sees every row that the model may see, fresh or not.
"""

from typing import Any

import torch
from torch import Tensor

from tokenburst.decoders.caches import CachePolicy, Moment
from tokenburst.decoders.common import whole
from tokenburst.decoders.shadows import Shadows, bitmask
from tokenburst.decoders.sparsedrun import SparsedRun
from tokenburst.decoders.sparserows import Fed
from tokenburst.models.attention import TokenContext
from tokenburst.models.cache import RowCache, cache_argument

# On a GPU widths come in few sizes, so that a step has few shapes.
GPU_WIDTH = 32


class Scorer:
    """Runs the model over what a cache policy wants computed.

    `plan` decides on the device, `width` is what the host has to know, `forward` computes:

        scorer.plan(x, wanted, bounds, before, step, active)
        width = scorer.width()                     # between steps: the only read
        hidden = scorer.forward(model, x, width)   # [B, W, hidden], row w predicts wanted[:, w]

    Args:
        lengths: [B] int32, tokens and masks of each row.
        length: positions of x.
        cache: None computes everything in every step.
        mask_id: the mask token.
        shift: 1 where the model's row i predicts position i + 1 (Dream), else 0.
        block_length: of a block-causal model, None where everything sees everything.
        prompt: [B] int32, tokens at the front of each row that the unguided half of guidance does
            not see; None = no guidance.
        attention: what computes it; None = dense attention.
        shadows: rows beside the tokens, without a cache; None = none.
    """

    def __init__(
        self,
        model: Any,
        lengths: Tensor,
        length: int,
        cache: CachePolicy | None,
        *,
        mask_id: int,
        shift: int = 0,
        block_length: int | None = None,
        prompt: Tensor | None = None,
        attention: SparsedRun | None = None,
        shadows: Shadows | None = None,
    ) -> None:
        self.attention, self.shadows = attention, shadows
        device, batch = lengths.device, len(lengths)
        self.prompt = prompt
        self.halves = 1 if prompt is None else 2  # guided rows, then unguided ones
        self.cache, self.mask_id, self.shift, self.block_length = (
            cache,
            mask_id,
            shift,
            block_length,
        )
        self.lengths, self.length, self.cuts = lengths, length, False
        self.place = torch.arange(length, device=device)[None]
        self.live = torch.arange(batch, device=device)  # rows that the model still runs on
        self.fed = self.place  # [B or 1, L] positions to compute, packed to the front
        self.count = lengths  # [B] int32, how many of them
        self.visible = lengths  # [B] int32, rows that are seen
        # [B] int32, blocks of the pattern of `attention` that hold them; None = no matter
        self.touched: Tensor | None = None
        self.slot = self.place  # [B, W] where the rows of the wanted positions end up
        if cache is not None:
            self.kv = RowCache(model.config, self.halves * batch, length, model.dtype, device)
            self.fresh = torch.ones(batch, 1, dtype=torch.bool, device=device)
            self.masked = torch.ones(batch, length, dtype=torch.bool, device=device)

    def cut(self, lengths: Tensor) -> None:
        """Rows end after so many positions [B] int32 from now on."""
        self.lengths = self.visible = lengths
        self.cuts = True

    def plan(
        self,
        x: Tensor,
        wanted: Tensor,
        bounds: Tensor,
        before: Tensor,
        step: Tensor,
        active: Tensor,
        chosen: Tensor | None = None,
    ) -> None:
        """Fix what the next forward computes.

        Args:
            x: [B, L] int64 tokens and masks.
            wanted: [B, W] int64 positions to be predicted, -1 = none.
            bounds: [B, 2] int64, first position of each row's current block and the one after it.
            before: [B] int64, first position of the block it was in before.
            step: [B] steps it has spent there.
            active: [B] bool, rows that are not done.
            chosen: [B, W] bool, wanted positions that the next step decides; None = unknown.
        """
        source = (wanted - self.shift).clamp(min=0)
        begin, end = bounds.unsqueeze(2).unbind(1)
        if self.block_length is not None:
            self.visible = end[:, 0].to(torch.int32)
        if self.shadows is not None:
            self.fed, self.count, self.slot = self.shadows.plan(x, wanted, self.lengths)
            self.visible = self.count
            return
        if self.cache is None:
            self.count, self.slot = self.visible, source
            return
        masks = (x == self.mask_id) & (self.place < self.visible[:, None])
        if chosen is not None:
            ahead = torch.nn.functional.pad(torch.zeros_like(masks), (0, 1))
            chosen = ahead.scatter(1, wanted.where(chosen, self.length), True)[:, :-1]
        moment = Moment(
            place=self.place,
            begin=begin,
            end=end,
            before=before[:, None],
            step=step[:, None],
            first=self.fresh,
            masked=self.masked,
            masks=masks,
            chosen=chosen,
        )
        feed = self.cache.feed(moment) | self.fresh
        if self.attention is not None:
            feed = feed | self.attention.taking()[:, None]
        feed = torch.nn.functional.pad(feed, (0, 1))
        feed = feed.scatter(1, source.where(wanted >= 0, self.length), True)[:, :-1]
        feed = feed & (self.place < self.visible[:, None]) & active[:, None]
        self.fed = (~feed).to(torch.int8).argsort(dim=1, stable=True)
        self.count = feed.sum(1, dtype=torch.int32)
        if self.attention is not None:
            self.touched = self.attention.touched(feed)
        rank = feed.cumsum(1) - 1
        self.slot = rank.gather(1, source).clamp(min=0)
        self.masked = torch.where(active[:, None], masks, self.masked)
        self.fresh = self.fresh & ~active[:, None]

    def width(self) -> int:
        """Positions per row of the next forward; 0 where no row has anything to compute."""
        if self.cache is None and self.shadows is None and not self.cuts:
            return self.length
        most = 0
        if len(self.count):
            asked = [self.count] if self.touched is None else [self.count, self.touched]
            most, *self.blocks = torch.stack(asked).amax(1).tolist()
        width = (
            whole(most) if self.count.device.type == "cpu" else -(-most // GPU_WIDTH) * GPU_WIDTH
        )
        return min(width, self.fed.shape[1])

    def forward(self, model: Any, x: Tensor, width: int) -> Tensor:
        """Hidden rows [B, W, hidden] from which the wanted positions are predicted."""
        x, count, visible, fed = (
            t[self.live] for t in (x, self.count, self.visible, self.fed.expand(len(x), -1))
        )
        fed = fed[:, :width]
        if self.prompt is not None:
            unguided = x.where(self.place >= self.prompt[self.live, None], self.mask_id)
            x, count, visible, fed = (
                torch.cat(pair)
                for pair in ((x, unguided), (count, count), (visible, visible), (fed, fed))
            )
        options, ancestors = {}, self._ancestors(fed, width)
        if self.cache is None and self.shadows is None:
            x = x[:, :width]
        if self.shadows is not None:
            lengths = self.lengths[self.live].repeat(self.halves)
            x = self.shadows.tokens(x, fed, lengths)
            ancestors = self.shadows.ancestors(fed, lengths, count)
        if self.cache is not None:
            live = self.place[:, :width] < count[:, None]
            x = x.gather(1, fed).where(live, 0)
            self.kv.place_at(fed.where(live, self.length))
            options = cache_argument(model.base_model, self.kv)
        if self.attention is not None:
            self.attention.begin(len(x), self._fed(fed, count, visible))
        hidden = model.base_model(
            input_ids=x,
            position_ids=fed,
            use_cache=self.cache is not None,
            token_context=TokenContext(
                kv_len=visible - count,
                n_nodes=count,
                ancestors=ancestors,
                causal=False,
                plan=self.attention,
            ),
            **options,
        ).last_hidden_state
        hidden, *unguided = (self._wanted(half) for half in hidden.chunk(self.halves))
        self.unguided = unguided[0] if unguided else None
        return hidden

    def _wanted(self, hidden: Tensor) -> Tensor:
        """[B, W, hidden] of the wanted positions, 0 in rows that the model did not run on."""
        row = torch.arange(len(self.live), device=hidden.device)[:, None]
        hidden = hidden[row, self.slot[self.live]]
        if len(self.live) == len(self.slot):
            return hidden
        out = hidden.new_zeros(len(self.slot), *hidden.shape[1:])
        return out.index_copy_(0, self.live, hidden)

    def shrink(self, active: Tensor) -> None:
        """Run the model on the active rows alone from now on; the host waits for their number."""
        stay = active[self.live].nonzero()[:, 0]
        if not len(stay):
            return  # done: a late flag is on its way
        rows = torch.cat([stay + half * len(self.live) for half in range(self.halves)])
        if self.cache is not None:
            self.kv.keep(rows)
        if self.attention is not None:
            self.attention.shrink(rows)
        self.live = self.live[stay]

    def logits(self, model: Any, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B * W, V] of the hidden rows of the last forward, and of its unguided half."""
        head = model.get_output_embeddings()
        logits = head(hidden.flatten(0, 1))
        unguided = None if self.unguided is None else head(self.unguided.flatten(0, 1))
        return logits, unguided

    def _fed(self, fed: Tensor, count: Tensor, visible: Tensor) -> Fed | None:
        """What `attention` has to know of a forward that computes some positions alone."""
        if self.cache is None or self.attention is None:
            return None
        return Fed.at(fed, count, visible, self.length, self.attention.block, *self.blocks)

    def _ancestors(self, fed: Tensor, width: int) -> Tensor | None:
        """Who sees whom where a forward spans several blocks of a block-causal model."""
        if self.block_length is None or (self.cache is not None and width <= self.block_length):
            return None
        block = fed // self.block_length
        return bitmask(block[:, None, :] <= block[:, :, None])
