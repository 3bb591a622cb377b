"""The patterns of a SparseD generation: who is dense, whose turn it is, and what is kept."""

from dataclasses import dataclass

import torch
from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.sparserows import Fed
from tokenburst.patterns import unpack_bits


@dataclass(frozen=True)
class SparseStats:
    """What a generation's patterns were; those of all layers together."""

    nbytes: int  # of the bitmasks
    density: float  # selected pairs of blocks among all pairs of real ones
    forwards: int  # with a sparse row in the batch


class SparsedRun:
    """Patterns of one generation, on the device, and the step that it has come to.

    Args:
        prompt_len: [B] int32, tokens before the first mask of each row.
        turn: of each row the last dense step, in which its pattern is taken.
        block, keep, pattern_scale: see `SparseD`.
    """

    def __init__(
        self,
        prompt_len: Tensor,
        turn: list[int],
        *,
        block: int,
        keep: float,
        pattern_scale: str | float,
    ) -> None:
        self.prompt_len, self.turn = prompt_len, turn
        self.turns = torch.tensor(turn, dtype=torch.int64, device=prompt_len.device)
        self.fed: Fed | None = None
        self.block, self.keep, self.pattern_scale = block, keep, pattern_scale
        self.step, self.forwards = -1, 0
        self.bits: dict[int, Tensor] = {}  # by layer, [rows, Hq, n, ceil(n / 32)] int32
        self.nbytes = 0
        self.selected: list[Tensor] = []  # pairs of blocks, by pattern taken
        self.pairs: list[Tensor] = []
        self._indices: dict[tuple[int, ...], Tensor] = {}

    def taking(self) -> Tensor:
        """[B] bool: rows of the batch whose pattern the next forward takes.

        That takes queries of all positions, whatever a cache would have computed.
        """
        return self.turns == self.step + 1

    def touched(self, feed: Tensor) -> Tensor:
        """[B] int32: blocks that hold a position of feed [B, L] bool."""
        whole = torch.nn.functional.pad(feed, (0, -feed.shape[1] % self.block))
        return whole.unflatten(1, (-1, self.block)).any(2).sum(1, dtype=torch.int32)

    def begin(self, rows: int, fed: Fed | None = None) -> None:
        """A forward of so many rows begins; beyond B, row i stands for row i % B (guidance).

        Args:
            rows: of the forward.
            fed: which positions it computes beside the keys of a cache; None = all, without one.
        """
        self.fed = fed
        copies = rows // max(1, len(self.turn))
        self.turn, self.prompt_len = self.turn * copies, self.prompt_len.repeat(copies)
        self.step += 1
        self.due = self._rows([turn == self.step for turn in self.turn])
        self.dense = self._rows([turn >= self.step for turn in self.turn])
        self.sparse = self._rows([turn < self.step for turn in self.turn])
        self.forwards += self.sparse is None or len(self.sparse) > 0

    def shrink(self, rows: Tensor, places: list[int]) -> None:
        """Forwards hold these rows alone from now on, told on the device and on the host."""
        self.turn = [self.turn[i] for i in places]
        self.prompt_len = self.prompt_len[rows]
        self.bits = {layer: bits[rows] for layer, bits in self.bits.items()}

    def _rows(self, flags: list[bool]) -> Tensor | None:
        """Indices of the rows that have a flag; None where all have."""
        if all(flags):
            return None
        found = tuple(i for i, flag in enumerate(flags) if flag)
        if found not in self._indices:
            device = self.prompt_len.device
            self._indices[found] = torch.tensor(found, dtype=torch.int64, device=device)
        return self._indices[found]

    def attend(
        self, layer: int, q: Tensor, k: Tensor, v: Tensor, count: Tensor, scale: float | None
    ) -> Tensor:
        """[rows, Hq, W, D] attention of W tokens, count [rows] of them real, in one layer."""
        if self.fed is not None:
            k, v = (t[:, :, : self.fed.length] for t in (k, v))  # without the row of padding
        if self.due is None or len(self.due):
            self._take(layer, q, k, count, scale)
        if self.dense is None:
            return _dense(q, k, v, count, self.fed, scale)
        bits = self.bits[layer]
        if self.sparse is None:
            return self._sparse(q, k, v, count, self.fed, bits, scale)
        out = torch.empty_like(q)
        for rows in (self.dense, self.sparse):
            fed = self.fed.of(rows) if self.fed else None
            part = q[rows], k[rows], v[rows], count[rows], fed
            few = rows is self.sparse
            mine = self._sparse(*part, bits[rows], scale) if few else _dense(*part, scale)
            out.index_copy_(0, rows, mine)
        return out

    def _take(self, layer: int, q: Tensor, k: Tensor, count: Tensor, scale: float | None) -> None:
        """The patterns of the rows whose turn it is."""
        rows, length = len(q), k.shape[2]
        prompt = self.prompt_len
        if q.shape[2] < length:  # everything of the rows whose turn it is, which are shorter
            q = torch.nn.functional.pad(q, (0, 0, 0, length - q.shape[2]))
        if self.due is not None:
            q, k, count, prompt = (t[self.due] for t in (q, k, count, prompt))
        if self.pattern_scale != "attention":
            llada = self.pattern_scale == "llada"
            scale = q.shape[1] ** -0.5 if llada else float(self.pattern_scale)
        # A row that is done computes nothing: a pattern of nothing.
        parts = {"prompt_len": prompt.minimum(count), "kv_len": count}
        masses = ops.attn_block_mass(q, k, self.block, scale=scale, **parts)
        bits = ops.attn_select_blocks(*masses, length, self.block, self.keep, **parts)
        self.nbytes += bits.numel() * bits.element_size()
        self.selected.append(unpack_bits(bits, bits.shape[2]).sum())
        self.pairs.append((-(-count.long() // self.block)).square().sum() * bits.shape[1])
        if self.due is None:
            self.bits[layer] = bits
            return
        if layer not in self.bits:
            self.bits[layer] = bits.new_zeros(rows, *bits.shape[1:])
        self.bits[layer].index_copy_(0, self.due, bits)

    def _sparse(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        count: Tensor,
        fed: Fed | None,
        bits: Tensor,
        scale: float | None,
    ) -> Tensor:
        if fed is None:
            return ops.attn_sparse(q, k, v, bits, self.block, kv_len=count, scale=scale).out
        seen = {"kv_len": fed.seen, "scale": scale}
        out = ops.attn_sparse(fed.spread(q), k, v, fed.pattern(bits), self.block, **seen).out
        return fed.collect(out)

    def stats(self) -> SparseStats:
        """Of the patterns so far; waits for the device."""
        selected, pairs = (int(sum(counts)) for counts in (self.selected, self.pairs))
        return SparseStats(self.nbytes, selected / max(1, pairs), self.forwards)


def _dense(
    q: Tensor, k: Tensor, v: Tensor, count: Tensor, fed: Fed | None, scale: float | None
) -> Tensor:
    kept = torch.zeros_like(count) if fed is None else fed.seen - count
    return ops.attn_tree(q, k, v, kept, n_nodes=count, causal=False, scale=scale).out
