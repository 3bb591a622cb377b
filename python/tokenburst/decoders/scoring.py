"""The forward half of a diffusion step: hidden rows for the wanted positions, whatever is cached.

Which positions a forward computes is a boolean mask from the cache policy. All else is common: the
positions are packed, their keys and values overwrite their own rows of the KV cache, and each of
them sees every row that the model may see, fresh or not.
"""

from typing import Any

import torch
from torch import Tensor

from tokenburst.decoders.caches import CachePolicy
from tokenburst.decoders.common import ROW_GROUP, whole
from tokenburst.decoders.feeding import Feeding
from tokenburst.decoders.shadows import Shadows, bitmask
from tokenburst.decoders.sparsedrun import SparsedRun
from tokenburst.decoders.sparserows import Fed
from tokenburst.models.attention import TokenContext
from tokenburst.models.cache import RowCache, cache_argument

# On a GPU widths come in few sizes, so that a step has few shapes.
GPU_WIDTH = 32


class Scorer:
    """Runs the model over what a cache policy wants computed.

    `plan` decides on the device how many positions of each row that is; `forward` computes as many
    as the host has chosen, and `fits` tells which rows that is enough for:

        scorer.plan(x, position, seen, ...)
        width = scorer.width(...)                      # from `asked`, read late
        hidden = scorer.forward(model, x, width)       # [B, W, hidden], row w predicts position w

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
        self.mask_id, self.shift, self.block_length = mask_id, shift, block_length
        self.lengths, self.length, self.prompt, self.cuts = lengths, length, prompt, False
        self.halves = 1 if prompt is None else 2  # guided rows, then unguided ones
        device, batch = lengths.device, len(lengths)
        self.place = torch.arange(length, device=device)[None]
        self.zero = lengths.new_zeros(self.halves * batch)
        self.rows = torch.arange(batch, device=device)[:, None]
        self.live: Tensor | None = None  # rows that the model still runs on; None = all
        self.fed = self.place  # [B or 1, L] positions to compute, packed to the front
        self.count = lengths  # [B] int32, how many of them
        self.visible = lengths  # [B] int32, rows that are seen
        self.slot = self.place  # [B, W] where the rows of the wanted positions end up
        self.cache = cache
        self.late = False  # `asked` is read late: rows may find no room
        self.feeding: Feeding | None = None
        if cache is not None:
            self.feeding = Feeding(cache, lengths, length, mask_id, attention)
            self.kv = RowCache(model.config, self.halves * batch, length, model.dtype, device)

    @property
    def bounded(self) -> bool:
        """Whether `plan` wants to know of blocks."""
        return self.feeding is not None or self.block_length is not None

    def cut(self, lengths: Tensor) -> None:
        """Rows end after so many positions [B] int32 from now on."""
        self.lengths = self.visible = lengths
        self.cuts = True

    def plan(
        self,
        x: Tensor,
        position: Tensor,
        own: Tensor,
        seen: Tensor,
        active: Tensor,
        step: Tensor,
        bounds: Tensor | None,
        before: Tensor | None,
        chosen: Tensor | None = None,
    ) -> None:
        """Fix what the next forward computes.

        Args:
            x: [B, L] int64 tokens and masks.
            position: [B, W] int64, -1 = none.
            own: the same, 0 = none.
            seen: [B, W] bool, positions to be predicted.
            active: [B] bool, rows that are not done.
            step: [B] steps a row has spent in its block.
            bounds: [B, 2] int64, first position of each row's current block and the one after it.
            before: [B] int64, first position of the block it was in before; these two as `bounded`.
            chosen: [B, W] bool, positions that the next step decides; None = unknown.
        """
        source = (own - self.shift).clamp(min=0) if self.shift else own
        if self.block_length is not None:
            assert bounds is not None  # asked for
            self.visible = bounds[:, 1].to(torch.int32)
        if self.shadows is not None:
            wanted = position.where(seen, -1)
            self.fed, self.count, self.slot = self.shadows.plan(x, wanted, self.lengths)
            self.visible = self.count
            return
        feeding = self.feeding
        if feeding is None:
            self.count, self.slot = self.visible, source
            return
        assert bounds is not None and before is not None
        if chosen is not None:
            decided = torch.nn.functional.pad(torch.zeros_like(x, dtype=torch.bool), (0, 1))
            decided = decided.scatter(1, position.where(chosen, self.length), True)
            chosen = decided[:, :-1]
        visible, ahead = self.visible, self.late
        self.slot = feeding.plan(
            x, source, seen, visible, bounds, before, step, active, chosen, ahead
        )
        self.fed, self.count = feeding.fed, feeding.count

    def asked(self) -> list[Tensor]:
        """What `width` has to know of the plan, each [B] int32."""
        if self.feeding is None:
            return [self.count] if self.cuts else []
        if self.attention is not None:
            return [] if self.late else [self.count, self.feeding.touched]
        return [self.count, self.feeding.after] if self.late else [self.count]

    def width(self, told: list[list[int]], last: int | None = None) -> int:
        """Positions per row of the next forward.

        Args:
            told: `asked` on the host. Empty where that has not arrived yet.
            last: width of the forward that `told` was the plan of; None where that is the next one.
        """
        widest = self.fed.shape[1]
        if self.attention is not None and self.feeding is not None:
            blocks = -(-self.length // self.attention.block)
            self.touched = max(told[1], default=0) if told else blocks
        if not told:
            return widest
        most = max(told[0])
        if last is not None and most <= last and len(told) > 1:
            most = max(told[1])  # every row had room, and goes on
        on_cpu = self.count.device.type == "cpu"
        width = max(ROW_GROUP, whole(most)) if on_cpu else -(-most // GPU_WIDTH) * GPU_WIDTH
        return min(max(width, 1), widest)

    def fits(self, width: int) -> Tensor:
        """[B] bool: rows for which a forward of this width has room; the others sit it out."""
        fits = self.count <= width
        self.count, self.slot = self.count.where(fits, 0), self.slot.where(fits[:, None], 0)
        return fits

    def forward(self, model: Any, x: Tensor, width: int, active: Tensor) -> Tensor:
        """Hidden rows [B, W, hidden] from which the wanted positions are predicted.

        Args:
            model: of the architecture that `models.attention` is installed in.
            x: [B, L] int64 tokens and masks.
            width: positions per row.
            active: [B] bool, rows that take part.
        """
        count, visible, fed = self.count, self.visible, self.fed[:, :width]
        own = self.feeding is not None or self.shadows is not None or self.block_length is not None
        if own:  # else all rows are alike
            fed = fed.expand(len(x), -1)
        if self.live is not None:
            x, count, visible = x[self.live], count[self.live], visible[self.live]
            fed = fed[self.live] if own else fed
        if self.prompt is not None:
            prompt = self.prompt if self.live is None else self.prompt[self.live]
            x = torch.cat([x, x.where(self.place >= prompt[:, None], self.mask_id)])
            count, visible = count.repeat(2), visible.repeat(2)
            fed = fed.repeat(2, 1) if own else fed
        options, ancestors = {}, self._ancestors(fed, width)
        kept = visible - count if self.feeding is not None else self.zero[: len(count)]
        if self.shadows is not None:
            lengths = self.lengths if self.live is None else self.lengths[self.live]
            lengths = lengths.repeat(self.halves)
            x = self.shadows.tokens(x, fed, lengths)
            ancestors = self.shadows.ancestors(fed, lengths, count)
        elif self.feeding is not None:
            real = self.place[:, :width] < count[:, None]
            x = x.gather(1, fed).where(real, 0)
            self.kv.place_at(fed.where(real, self.length))
            options = cache_argument(model.base_model, self.kv)
        else:
            x = x[:, :width]
        if self.attention is not None:
            self.attention.begin(len(x), self._fed(fed, count, visible))
        hidden = model.base_model(
            input_ids=x,
            position_ids=fed,
            use_cache=self.feeding is not None,
            token_context=TokenContext(
                kv_len=kept, n_nodes=count, ancestors=ancestors, causal=False, plan=self.attention
            ),
            **options,
        ).last_hidden_state
        if self.feeding is not None:
            self.feeding.ran(active)
        hidden, *unguided = (self._wanted(half) for half in hidden.chunk(self.halves))
        self.unguided = unguided[0] if unguided else None
        return hidden

    def _wanted(self, hidden: Tensor) -> Tensor:
        """[B, W, hidden] of the wanted positions, 0 in rows that the model did not run on."""
        if self.live is None:
            return hidden[self.rows, self.slot]
        hidden = hidden[self.rows[: len(self.live)], self.slot[self.live]]
        out = hidden.new_zeros(len(self.slot), *hidden.shape[1:])
        return out.index_copy_(0, self.live, hidden)

    def shrink(self, stay: list[int]) -> None:
        """Run the model on some of its rows alone from now on: those at these places."""
        batch, device = len(self.rows) if self.live is None else len(self.live), self.place.device
        on_gpu = device.type == "cuda"
        kept = torch.tensor(stay, pin_memory=on_gpu).to(device, non_blocking=True)
        rows = torch.cat([kept + half * batch for half in range(self.halves)])
        if self.feeding is not None:
            self.kv.keep(rows)
        if self.attention is not None:
            places = [i + half * batch for half in range(self.halves) for i in stay]
            self.attention.shrink(rows, places)
        self.live = kept if self.live is None else self.live[kept]

    def logits(self, model: Any, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B * W, V] of the hidden rows of the last forward, and of its unguided half."""
        head = model.get_output_embeddings()
        logits = head(hidden.flatten(0, 1))
        unguided = None if self.unguided is None else head(self.unguided.flatten(0, 1))
        return logits, unguided

    def _fed(self, fed: Tensor, count: Tensor, visible: Tensor) -> Fed | None:
        """What `attention` has to know of a forward that computes some positions alone."""
        if self.feeding is None or self.attention is None:
            return None
        return Fed.at(fed, count, visible, self.length, self.attention.block, self.touched)

    def _ancestors(self, fed: Tensor, width: int) -> Tensor | None:
        """Who sees whom where a forward spans several blocks of a block-causal model."""
        if self.block_length is None or (self.feeding is not None and width <= self.block_length):
            return None
        block = fed // self.block_length
        return bitmask(block[:, None, :] <= block[:, :, None])
