"""Which blocks of keys a block of queries attends to: one bit per pair of blocks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

BLOCKS = (32, 64, 128)  # the sizes that `tokenburst.ops.attn_sparse` takes


def blocks_of(length: int, block: int) -> int:
    """Blocks that cover `length` positions, the last one perhaps in part."""
    return -(-length // block)


def pack_bits(flags: Tensor) -> Tensor:
    """[..., n] bool as [..., ceil(n / 32)] int32; bit j % 32 of word j // 32 is flag j."""
    words = blocks_of(flags.shape[-1], 32)
    padded = torch.nn.functional.pad(flags, (0, 32 * words - flags.shape[-1]))
    bit = torch.ones((), dtype=torch.int32, device=flags.device) << torch.arange(
        32, dtype=torch.int32, device=flags.device
    )
    lanes = padded.unflatten(-1, (words, 32))
    return torch.where(lanes, bit, 0).sum(-1, dtype=torch.int32)


def unpack_bits(bits: Tensor, n: int) -> Tensor:
    """[..., n] bool, the flags of `pack_bits`."""
    j = torch.arange(n, device=bits.device)
    return (bits[..., j // 32] >> (j % 32) & 1).bool()


@dataclass(frozen=True, eq=False)
class BlockPattern:
    """Block-sparse attention pattern of a sequence's heads, stored as a bitmask.

    Query block i (queries i * block and on) of head h attends to all keys of kv block j if bit
    j % 32 of bits[b, h, i, j // 32] is set; bits from the last kv block on mean nothing. 64k
    tokens, 32 heads and blocks of 128 take 1 MB. Nothing of size q_length x kv_length is ever made.

    Args:
        bits: [B or 1, Hq or 1, ceil(q_length / block), ceil(ceil(kv_length / block) / 32)] int32;
            a 1 stands for every sequence or head.
        block: 32, 64 or 128.
        q_length: queries.
        kv_length: keys.

    Raises:
        ValueError: another block, negative lengths, bits of another dtype or geometry.
    """

    bits: Tensor
    block: int
    q_length: int
    kv_length: int

    def __post_init__(self) -> None:
        _check_geometry("BlockPattern", self.block, self.q_length, self.kv_length)
        want = (self.q_blocks, blocks_of(self.kv_blocks, 32))
        shape = tuple(self.bits.shape)
        if self.bits.dtype != torch.int32 or len(shape) != 4 or shape[2:] != want:
            raise ValueError(
                f"BlockPattern: bits: expected int32 [B, H, {want[0]}, {want[1]}] for "
                f"{self.q_length} queries and {self.kv_length} keys in blocks of {self.block}, "
                f"got {self.bits.dtype} {list(shape)}"
            )

    @property
    def q_blocks(self) -> int:
        return blocks_of(self.q_length, self.block)

    @property
    def kv_blocks(self) -> int:
        return blocks_of(self.kv_length, self.block)

    @property
    def nbytes(self) -> int:
        """Memory of the bitmask."""
        return self.bits.numel() * self.bits.element_size()

    @property
    def density(self) -> float:
        """Selected pairs of blocks among all pairs; waits for the device."""
        flags = self.to_bool()
        return float(flags.sum()) / flags.numel() if flags.numel() else 0.0

    def to_bool(self) -> Tensor:
        """[B or 1, Hq or 1, q_blocks, kv_blocks] bool."""
        return unpack_bits(self.bits, self.kv_blocks)

    def to(self, device: torch.device | str) -> "BlockPattern":
        return BlockPattern(self.bits.to(device), self.block, self.q_length, self.kv_length)

    @classmethod
    def from_bool(
        cls,
        flags: Tensor,
        block: int,
        *,
        q_length: int | None = None,
        kv_length: int | None = None,
    ) -> "BlockPattern":
        """From flags [B or 1, Hq or 1, nq, nk]; the lengths default to whole blocks."""
        if flags.dtype != torch.bool or flags.dim() != 4:
            raise ValueError(
                "BlockPattern.from_bool: flags: expected bool [B, H, nq, nk], "
                f"got {flags.dtype} {list(flags.shape)}"
            )
        nq, nk = flags.shape[2:]
        q_length = nq * block if q_length is None else q_length
        kv_length = nk * block if kv_length is None else kv_length
        _check_geometry("BlockPattern.from_bool", block, q_length, kv_length)
        want = [blocks_of(q_length, block), blocks_of(kv_length, block)]
        if [nq, nk] != want:
            raise ValueError(
                f"BlockPattern.from_bool: flags: expected {want[0]} x {want[1]} blocks of {block} "
                f"for {q_length} queries and {kv_length} keys, got {nq} x {nk}"
            )
        return cls(pack_bits(flags), block, q_length, kv_length)

    @classmethod
    def from_lists(
        cls, counts: Tensor, indices: Tensor, block: int, q_length: int, kv_length: int
    ) -> "BlockPattern":
        """From lists: query block i attends to the kv blocks indices[b, h, i, :counts[b, h, i]].

        Args:
            counts: [B or 1, Hq or 1, nq] integers.
            indices: [B or 1, Hq or 1, nq, K] integers, K >= any count.
            block: 32, 64 or 128.
            q_length: queries, nq = ceil(q_length / block).
            kv_length: keys.

        Raises:
            ValueError: wrong geometry; on the CPU also counts and indices out of range, and a block
                that is listed twice. On a GPU what is out of range is left out instead.
        """
        name = "BlockPattern.from_lists"
        _check_geometry(name, block, q_length, kv_length)
        nq, nk = blocks_of(q_length, block), blocks_of(kv_length, block)
        if counts.dim() != 3 or counts.shape[2] != nq or counts.is_floating_point():
            raise ValueError(
                f"{name}: counts: expected integers [B, H, {nq}], "
                f"got {counts.dtype} {list(counts.shape)}"
            )
        if indices.shape[:-1] != counts.shape or indices.is_floating_point():
            raise ValueError(
                f"{name}: indices: expected integers [{', '.join(map(str, counts.shape))}, K], "
                f"got {indices.dtype} {list(indices.shape)}"
            )
        listed = torch.arange(indices.shape[-1], device=counts.device) < counts[..., None]
        if counts.device.type == "cpu":
            _check_lists(name, counts, indices, listed, nk)
        valid = listed & (indices >= 0) & (indices < nk)
        flags = torch.zeros(*counts.shape, nk + 1, dtype=torch.bool, device=counts.device)
        flags.scatter_(3, torch.where(valid, indices, nk).long(), True)
        return cls(pack_bits(flags[..., :nk]), block, q_length, kv_length)

    @classmethod
    def from_block_mask(cls, mask: "BlockMask") -> "BlockPattern":
        """From a FlexAttention mask of whole blocks.

        Raises:
            ValueError: blocks that are not square or not of 32, 64 or 128, and blocks that a
                `mask_mod` cuts (partial blocks): a pattern knows only whole ones.
        """
        from torch.nn.attention.flex_attention import noop_mask

        name = "BlockPattern.from_block_mask"
        q_block, block = mask.BLOCK_SIZE
        if q_block != block:
            raise ValueError(f"{name}: expected square blocks, got {q_block} x {block}")
        lengths = (block, *mask.seq_lengths)
        _check_geometry(name, *lengths)
        parts = [(mask.kv_num_blocks, mask.kv_indices)]
        if mask.mask_mod is not noop_mask:
            partial = int(mask.kv_num_blocks.sum())
            if partial:
                raise ValueError(
                    f"{name}: expected whole blocks only, got {partial} partial ones that "
                    "mask_mod cuts: make the mask of whole blocks with BlockMask.from_kv_blocks "
                    "(the last blocks of lengths that the block does not divide count as partial)"
                )
            parts = []
        if mask.full_kv_num_blocks is not None:
            parts.append((mask.full_kv_num_blocks, mask.full_kv_indices))
        if not parts:
            return cls(torch.zeros_like(cls.dense(*lengths[1:], block=block).bits), *lengths)
        patterns = [cls.from_lists(*part, *lengths) for part in parts]
        bits = patterns[0].bits | patterns[-1].bits
        return cls(bits, *lengths)

    @classmethod
    def dense(
        cls,
        q_length: int,
        kv_length: int,
        *,
        block: int = 128,
        device: torch.device | str | None = None,
    ) -> "BlockPattern":
        """Every pair of blocks."""
        _check_geometry("BlockPattern.dense", block, q_length, kv_length)
        shape = (1, 1, blocks_of(q_length, block), blocks_of(kv_length, block))
        flags = torch.ones(shape, dtype=torch.bool, device=device)
        return cls(pack_bits(flags), block, q_length, kv_length)

    @classmethod
    def sink_and_window(
        cls,
        q_length: int,
        kv_length: int,
        *,
        sink: int,
        window: int,
        block: int = 64,
        causal: bool = False,
        device: torch.device | str | None = None,
    ) -> "BlockPattern":
        """The first `sink` keys, and the keys less than `window` positions away from the query.

        Every block that holds such a key for one of its queries is selected whole, so a query sees
        at least what it asks for. The last query stands at the last key.

        Args:
            q_length: queries, at most kv_length.
            kv_length: keys.
            sink: first keys that all see, 0 for none.
            window: 1 is the query's own position; to both sides, or backwards if `causal`.
            block: 32, 64 or 128.
            causal: leaves out the blocks that lie entirely after a query block. Within a block that
                holds its diagonal, queries still see the keys after them.
            device: of the bitmask.

        Source: Han et al., LM-Infinite, arXiv 2308.16137 (the Lambda-shaped mask); Xiao et al.,
            attention sinks, arXiv 2309.17453.
        """
        name = "BlockPattern.sink_and_window"
        first, last, key = _positions(name, q_length, kv_length, block, device)
        if sink < 0 or window < 0:
            raise ValueError(f"{name}: expected sink and window >= 0, got {sink} and {window}")
        near = (key + block - 1 > first - window) & (key < last + (1 if causal else window))
        flags = (key < sink) | (near & (window > 0))
        if causal:
            flags &= key <= last
        return cls(pack_bits(flags[None, None]), block, q_length, kv_length)

    @classmethod
    def block_causal(
        cls,
        q_length: int,
        kv_length: int,
        *,
        block: int = 64,
        span: int | None = None,
        device: torch.device | str | None = None,
    ) -> "BlockPattern":
        """Spans of tokens that see each other and all spans before them, as in block diffusion.

        Args:
            q_length: queries; the last one stands at the last key.
            kv_length: keys; kv_length - q_length is a multiple of `block`.
            block: 32, 64 or 128.
            span: tokens that are generated together, a multiple of `block` (the default).
            device: of the bitmask.

        Source: Arriola et al., block diffusion, arXiv 2503.09573.
        """
        name = "BlockPattern.block_causal"
        first, _, key = _positions(name, q_length, kv_length, block, device)
        span = block if span is None else span
        if span <= 0 or span % block:
            raise ValueError(f"{name}: span: expected a multiple of the block {block}, got {span}")
        if (kv_length - q_length) % block:
            raise ValueError(
                f"{name}: expected kv_length - q_length to be a multiple of the block {block}, "
                f"got {kv_length} - {q_length}"
            )
        flags = key // span <= first // span
        return cls(pack_bits(flags[None, None]), block, q_length, kv_length)


def _check_geometry(name: str, block: int, q_length: int, kv_length: int) -> None:
    if block not in BLOCKS:
        raise ValueError(f"{name}: block: expected one of {BLOCKS}, got {block}")
    if q_length < 0 or kv_length < 0:
        raise ValueError(f"{name}: expected lengths >= 0, got {q_length} and {kv_length}")


def _check_lists(name: str, counts: Tensor, indices: Tensor, listed: Tensor, nk: int) -> None:
    bad = (counts < 0) | (counts > indices.shape[-1])
    if bad.any():
        raise ValueError(
            f"{name}: counts: expected 0 to {indices.shape[-1]}, got {int(counts[bad][0])}"
        )
    bad = listed & ((indices < 0) | (indices >= nk))
    if bad.any():
        raise ValueError(
            f"{name}: indices: expected 0 to {nk - 1} ({nk} kv blocks), got {int(indices[bad][0])}"
        )
    ordered = torch.where(listed, indices, -1).sort(-1).values
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    if twice.any():
        b, h, i, _ = twice.nonzero()[0].tolist()
        raise ValueError(
            f"{name}: indices: expected each kv block once in a list, got "
            f"{int(ordered[..., 1:][twice][0])} twice in list [{b}, {h}, {i}]"
        )


def _positions(
    name: str, q_length: int, kv_length: int, block: int, device: torch.device | str | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Key positions of each query block's first [nq, 1] and last query, of a kv block's first key.

    The last one is [nk].
    """
    _check_geometry(name, block, q_length, kv_length)
    if q_length > kv_length:
        raise ValueError(f"{name}: q_length: expected at most the {kv_length} keys, got {q_length}")
    first = torch.arange(0, q_length, block, device=device)[:, None]
    last = (first + block - 1).clamp(max=q_length - 1)
    offset = kv_length - q_length
    return first + offset, last + offset, torch.arange(0, kv_length, block, device=device)
