"""Shadow rows: what the model says of a position without seeing the token that stands there.

A forward gets further rows after the tokens of each sequence, a mask each, at the position of some
token. A shadow sees all tokens except the one it stands for; no token sees a shadow.
"""

from typing import Any

import torch
from torch import Tensor


class Shadows:
    """The shadow rows of one batch.

    Args:
        room: most shadows of a sequence.
        together: every position of the current block has a shadow and they see each other (WINO as
            published), else the decided ones have, and each sees itself alone.
        mask_id: the mask token.
    """

    def __init__(self, room: int, together: bool, mask_id: int) -> None:
        self.room, self.together, self.mask_id = room, together, mask_id

    def plan(self, x: Tensor, wanted: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where the rows of the next forward stand.

        Args:
            x: [B, L] int64 tokens and masks.
            wanted: [B, W] int64 positions to be predicted, -1 = none; W <= room.
            lengths: [B] int32 tokens and masks of each row.

        Returns:
            Positions [B, L + room] int64 of all rows: the tokens, the shadows, padding; their
            number [B] int32 without the padding; and the rows [B, W] that predict `wanted`, a
            shadow's where something is decided.
        """
        own = wanted.clamp(min=0)
        decided = (wanted >= 0) & (x.gather(1, own) != self.mask_id)
        shadowed = wanted >= 0 if self.together else decided
        shadow = lengths[:, None] + shadowed.cumsum(1) - 1
        width = x.shape[1] + self.room
        fed = torch.arange(width, device=x.device).clamp(max=x.shape[1] - 1).expand(len(x), -1)
        fed = torch.nn.functional.pad(fed, (0, 1))  # a column for what has no shadow
        fed = fed.scatter(1, shadow.where(shadowed, width), own)[:, :-1]
        count = lengths + shadowed.sum(1, dtype=torch.int32)
        return fed, count, torch.where(decided, shadow, own)

    def tokens(self, x: Tensor, fed: Tensor, lengths: Tensor) -> Tensor:
        """[B, N] int64 tokens at the positions `fed` [B, N], masks from row lengths [B] on."""
        row = torch.arange(fed.shape[1], device=x.device)
        return x.gather(1, fed).where(row < lengths[:, None], self.mask_id)

    def ancestors(self, fed: Tensor, lengths: Tensor, count: Tensor) -> Tensor:
        """[B, N, ceil(N / 32)] int32: which rows each row sees (see `ops.attn_tree`)."""
        row = torch.arange(fed.shape[1], device=fed.device)
        is_shadow = row >= lengths[:, None]
        tokens = bitmask(~is_shadow)[:, None]
        words = tokens.shape[2]
        own = bitmask(is_shadow & (row < count[:, None]))[:, None]
        if not self.together:
            own = one_bit(row, words)
        return torch.where(is_shadow[..., None], tokens & ~one_bit(fed, words) | own, tokens)


def bitmask(seen: Tensor) -> Tensor:
    """[..., N] bool as [..., ceil(N / 32)] int32 words."""
    bits = torch.nn.functional.pad(seen, (0, -seen.shape[-1] % 32)).unflatten(-1, (-1, 32))
    return (bits.to(torch.int64) << torch.arange(32, device=seen.device)).sum(-1).to(torch.int32)


def one_bit(index: Tensor, words: int) -> Tensor:
    """[..., words] int32 with the bits `index` [...] set."""
    bit = torch.ones_like(index, dtype=torch.int32) << (index % 32).to(torch.int32)
    word = torch.arange(words, device=index.device)
    return bit[..., None].where(index[..., None] // 32 == word, 0)


def check_shadows(wanted: str, cache: Any, attention: Any, shifted: bool, causal: bool) -> None:
    """ValueError where shadows are wanted beside what cannot have them."""
    others = {
        "cache": cache,
        "attention": attention,
        "shifted": shifted or None,
        "model": "a block-causal one" if causal else None,
    }
    for name, value in others.items():
        if wanted and value is not None:
            raise ValueError(
                f"DiffusionDecoder: unmasking: shadow rows are for dense forwards of a "
                f"bidirectional, unshifted model, got {name} {value}"
            )
