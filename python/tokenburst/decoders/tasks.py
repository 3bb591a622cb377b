"""What is to be decided: sequences packed to the left, their masks cut into blocks."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from tokenburst.decoders.common import ROW_GROUP, whole
from tokenburst.decoders.unmasking.policy import check_count

PerRow: TypeAlias = int | Tensor


@dataclass(frozen=True)
class Prompts:
    """Checked input of a generation; tensors on the model's device."""

    given: Tensor  # [B, P] int64, as the caller padded it
    packed: Tensor  # [B, P] int64, real tokens first, 0 after them
    lengths: Tensor  # [B] int32
    real: Tensor  # [B, P] bool, of `packed`


@dataclass(frozen=True)
class Task:
    """Packed sequences and where their masks are; tensors on the model's device."""

    x: Tensor  # [B, L] int64, real tokens and masks first, 0 after them; filled in place
    lengths: Tensor  # [B] int32
    places: Tensor  # [B, blocks, W] int64, positions of each block, -1 = none
    n_masks: int  # most masks of any block
    layout: Callable[[Tensor], Tensor]  # x as the caller sees it
    mask_id: int
    eos: Tensor | None  # [E] int64
    prompt: Tensor  # [B] int32, tokens that guidance hides
    block_length: int | None = None  # of a block-causal model
    most: Tensor | None = None  # [B] int32, tokens wanted where blocks hold more

    def bounds(self) -> Tensor:
        """[B, blocks, 2] int64: first position of each block and the one after its last."""
        begin = self.places.where(self.places >= 0, self.x.shape[1]).amin(2)
        end = self.places.amax(2) + 1
        if self.block_length is not None:
            begin = begin // self.block_length * self.block_length
            end = -(-end // self.block_length) * self.block_length
            end = end.minimum(self.lengths[:, None].long())
        return torch.stack([begin, end], 2)


def per_row(name: str, value: PerRow, batch: int, device: torch.device) -> Tensor:
    """[B] int64 of a count >= 1, given once or for each row.

    Raises:
        ValueError: neither an integer nor B of them, or a count below 1.
    """
    if not isinstance(value, Tensor):
        check_count(name, value)
        return torch.full((batch,), value, dtype=torch.int64, device=device)
    if value.shape != (batch,) or value.is_floating_point() or value.dtype == torch.bool:
        raise ValueError(
            f"{name}: expected an integer or {batch} of them, "
            f"got {value.dtype} {tuple(value.shape)}"
        )
    if batch and int(value.min()) < 1:
        raise ValueError(f"{name}: expected integers >= 1, got {value.tolist()}")
    return value.to(device, torch.int64)


def _check_causal(op: str, block_length: PerRow | None, causal_block: int | None) -> None:
    if causal_block is None or block_length is None:
        return
    if isinstance(block_length, Tensor) or block_length != causal_block:
        raise ValueError(
            f"{op}: block_length: expected None or {causal_block}, the model's, got {block_length}"
        )


def to_generate(
    prompts: Prompts,
    gen_length: PerRow,
    block_length: PerRow | None,
    *,
    causal_block: int | None,
    mask_id: int,
    eos: Tensor | None,
    pad: int,
) -> Task:
    """Masks after each prompt, block after block.

    Args:
        prompts: B of them.
        gen_length: tokens to append, an integer or [B].
        block_length: of the blocks, an integer or [B]; None = one block.
        causal_block: block length of a block-causal model. Its blocks begin at multiples of it: the
            first one holds the end of the prompt, the last one is filled up with masks whose tokens
            are dropped.
        mask_id: the mask token.
        eos: [E] ids that end a row.
        pad: id after the end.

    Raises:
        ValueError: lengths that are no counts or do not fit.
    """
    batch, device = len(prompts.given), prompts.given.device
    wanted = per_row("generate: gen_length", gen_length, batch, device)
    _check_causal("generate", block_length, causal_block)
    size = wanted
    if block_length is not None:
        size = per_row("generate: block_length", block_length, batch, device)
    if causal_block is not None:
        size = torch.full_like(wanted, causal_block)
    elif bool((wanted % size).any()):
        row = int((wanted % size > 0).int().argmax())
        raise ValueError(
            f"generate: gen_length: expected a multiple of block_length {int(size[row])}, "
            f"got {int(wanted[row])}"
        )
    start = prompts.lengths.long()
    origin, end = start, start + wanted
    if causal_block is not None:
        origin, end = start // size * size, -(-end // size) * size

    most = max(1, int((-(-(end - origin) // size)).max())) if batch else 1
    width = int(size.max()) if batch else 1
    offset = torch.arange(whole(width), device=device)
    first = origin[:, None] + torch.arange(most, device=device) * size[:, None]
    places = first[:, :, None] + offset
    inside = (offset < size[:, None, None]) & (places < end[:, None, None])
    places = places.where(inside & (places >= start[:, None, None]), -1)

    longest = int(end.max()) if batch else prompts.given.shape[1]
    place = torch.arange(whole(max(longest, prompts.given.shape[1])), device=device)
    x = torch.nn.functional.pad(prompts.packed, (0, len(place) - prompts.packed.shape[1]))
    x = torch.where(place < start[:, None], x, mask_id).where(place < end[:, None], 0)
    tail_length = gen_length if isinstance(gen_length, int) else int(gen_length.max())
    slot = torch.arange(tail_length, device=device)
    new = (start[:, None] + slot).clamp(max=len(place) - 1)

    def layout(x: Tensor) -> Tensor:
        tail = x.gather(1, new).where(slot < wanted[:, None], pad)
        if eos is not None:
            is_end = torch.isin(tail, eos).to(torch.int32)
            tail = torch.where(is_end.cumsum(1) - is_end > 0, pad, tail)
        return torch.cat([prompts.given, tail], 1)

    return Task(
        x=x,
        lengths=end.to(torch.int32),
        places=places,
        n_masks=width,
        layout=layout,
        mask_id=mask_id,
        eos=eos,
        prompt=prompts.lengths,
        block_length=causal_block,
        most=None if causal_block is None else wanted.to(torch.int32),
    )


def to_infill(
    prompts: Prompts,
    attention_mask: Tensor | None,
    block_length: PerRow | None,
    *,
    causal_block: int | None,
    mask_id: int,
) -> Task:
    """The masks in the given sequences, so many of them a block, or a block-causal model's blocks.

    Args:
        prompts: B of them.
        attention_mask: [B, P] as given.
        block_length: masks of a block, an integer or [B]; None = all of them.
        causal_block: block length of a block-causal model.
        mask_id: the mask token.

    Raises:
        ValueError: lengths that are no counts, or not the model's.
    """
    _check_causal("infill", block_length, causal_block)
    given, packed = prompts.given, prompts.packed
    pad = 0, whole(packed.shape[1]) - packed.shape[1]
    x = torch.nn.functional.pad(packed, pad)
    masked = torch.nn.functional.pad((packed == mask_id) & prompts.real, pad)
    if causal_block is None:
        size = count = masked.sum(1)
        if block_length is not None:
            size = per_row("infill: block_length", block_length, len(x), x.device).minimum(count)
        size = size.clamp(min=1)[:, None, None]
        n_masks = int(size.minimum(count[:, None, None]).max()) if len(x) else 0
        most = max(1, int((-(-count // size[:, 0, 0])).max())) if len(x) else 1
        order = (~masked).to(torch.int8).argsort(dim=1, stable=True)
        width = min(max(whole(n_masks), ROW_GROUP), order.shape[1])
        offset = torch.arange(width, device=x.device)
        slot = torch.arange(most, device=x.device)[:, None] * size + offset
        inside = (offset < size) & (slot < count[:, None, None])
        found = order.gather(1, slot.clamp(max=order.shape[1] - 1).flatten(1))
        places = found.view(slot.shape).where(inside, -1)
    else:
        n_masks = causal_block
        place = torch.arange(x.shape[1], device=x.device).where(masked, -1)
        place = torch.nn.functional.pad(place, (0, -place.shape[1] % causal_block), value=-1)
        places = place.unflatten(1, (-1, causal_block))
        places = torch.nn.functional.pad(places, (0, -causal_block % ROW_GROUP), value=-1)
    outside = torch.zeros_like(given, dtype=torch.int8)
    if attention_mask is not None:
        outside = (attention_mask.to(x.device) == 0).to(torch.int8)
    home = outside.argsort(dim=1, stable=True)  # where pack_prompts took each token from

    def layout(x: Tensor) -> Tensor:
        filled = given.scatter(1, home, x[:, : given.shape[1]])
        return torch.where((given == mask_id) & (outside == 0), filled, given)

    return Task(
        x=x,
        lengths=prompts.lengths,
        places=places,
        n_masks=n_masks,
        layout=layout,
        mask_id=mask_id,
        eos=None,
        prompt=prompts.lengths,
        block_length=causal_block,
    )
