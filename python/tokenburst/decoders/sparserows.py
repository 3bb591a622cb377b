"""Queries of some positions under a pattern that has a row for each block of all positions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst.patterns import blocks_of


@dataclass(frozen=True)
class Fed:
    """The positions that a forward computes beside the keys of all, of any number of rows.

    `ops.attn_sparse` takes whole blocks of queries, so a query goes to its place within the block
    of its position; blocks of which nothing is computed are left out.
    """

    seen: Tensor  # [rows] int32: keys that are seen
    blocks: Tensor  # [rows, M] int64: which blocks are computed, then n, one past the last
    slot: Tensor  # [rows, W] int64: where the queries go among M * block, padding behind them
    length: int  # of the keys
    block: int

    @classmethod
    def at(
        cls, position: Tensor, count: Tensor, seen: Tensor, length: int, block: int, most: int
    ) -> "Fed":
        """The first count[i] of position [rows, W], 0 .. length - 1, in at most `most` blocks."""
        n = blocks_of(length, block)
        order = torch.arange(max(n, position.shape[1]), device=position.device)
        real = order[: position.shape[1]] < count[:, None]
        home = (position // block).where(real, n)
        some = torch.zeros(len(home), n + 1, dtype=torch.bool, device=home.device)
        some = some.scatter(1, home, True)[:, :n]
        blocks = (~some).to(torch.int8).argsort(dim=1, stable=True)
        blocks = blocks.where(order[:n] < some.sum(1, keepdim=True), n)[:, :most]
        rank = (some.cumsum(1) - 1).gather(1, home.clamp(max=n - 1))
        slot = (rank * block + position % block).where(real, most * block)
        return cls(seen, blocks, slot, length, block)

    def of(self, rows: Tensor) -> "Fed":
        """Of these rows, [n] int64, alone."""
        mine = self.seen[rows], self.blocks[rows], self.slot[rows]
        return Fed(*mine, self.length, self.block)

    def pattern(self, bits: Tensor) -> Tensor:
        """[rows, H, M, words] int32: the computed blocks' rows of bits [rows, H, n, words]."""
        padded = torch.nn.functional.pad(bits, (0, 0, 0, 1))
        _, heads, _, words = bits.shape
        return padded.gather(2, self.blocks[:, None, :, None].expand(-1, heads, -1, words))

    def spread(self, q: Tensor) -> Tensor:
        """[rows, H, M * block, D]: queries [rows, H, W, D] at their slots, zeros between them."""
        rows, heads, _, dim = q.shape
        out = q.new_zeros(rows, self.blocks.shape[1] * self.block + 1, heads, dim)
        out[self._row(), self.slot] = q.transpose(1, 2)
        return out[:, :-1].transpose(1, 2)

    def collect(self, out: Tensor) -> Tensor:
        """[rows, H, W, D] of out [rows, H, M * block, D]; anything at padding."""
        slot = self.slot.clamp(max=out.shape[2] - 1)
        return out.transpose(1, 2)[self._row(), slot].transpose(1, 2)

    def _row(self) -> Tensor:
        return torch.arange(len(self.slot), device=self.slot.device)[:, None]
