"""The block pattern of SparseD. Equivalent plain torch: `tokenburst.ref.sparsed`."""

from typing import NamedTuple

import torch
from torch import Tensor


class BlockMass(NamedTuple):
    """Attention that each block of queries pays to each block of keys, summed over both."""

    prefix: Tensor  # [B, Hq, n, n] float32: softmax over all keys
    generation: Tensor  # [B, Hq, n, n] float32: softmax over the generated part's keys


def attn_block_mass(
    q: Tensor,
    k: Tensor,
    block: int,
    *,
    prompt_len: Tensor | None = None,
    kv_len: Tensor | None = None,
    scale: float | None = None,
) -> BlockMass:
    """Sums of attention over blocks of queries and keys, in two softmaxes; no attention is stored.

    The generated part of a sequence starts at its first block that lies entirely behind the
    prompt, or is the last block if none does: block min(ceil(prompt_len / block), blocks - 1).
    Query head h reads KV head h // (Hq / Hkv). Equivalent to
    `tokenburst.ref.sparsed.attn_block_mass`.

    Args:
        q: [B, Hq, L, D] float32, float16 or bfloat16; D a multiple of 8 up to 256 (16-bit tensors
            on a GPU meet tensor cores at 64, 80, 96 and 128).
        k: [B, Hkv, L, D], dtype of q; Hq is a multiple of Hkv. Both may have any strides as long as
            the last dimension is contiguous.
        block: 32, 64 or 128 rows; n = ceil(L / block).
        prompt_len: [B] int32 or int64, tokens of the prompt (default 0: all is generated).
        kv_len: [B] int32 or int64, real tokens (default L). The others are padding: they ask for
            nothing, get nothing and are not read.
        scale: of the scores, default 1 / sqrt(D); the published code for LLaDA takes
            1 / sqrt(Hq) here.

    Returns:
        `BlockMass`. A row of `prefix` sums to the real queries of the block; `generation` is 0 for
        keys of the prompt. A query whose scores hold no number counts as padding.

    Raises:
        RuntimeError: wrong dtype, shape, strides, device, head dim or block; on the CPU also
            lengths that do not hold 0 <= prompt_len <= kv_len <= L. On a GPU they are clamped.

    Source: Wang et al., SparseD, arXiv 2509.24014 (the two-part pattern, here by sums in place of
        means of zero-padded blocks, which rank alike); Dao, FlashAttention-2, arXiv 2307.08691
        (softmax in tiles).
    """
    return BlockMass(
        *_attn_block_mass(q, k, block, prompt_len=prompt_len, kv_len=kv_len, scale=scale)
    )


_attn_block_mass = torch.ops.tokenburst.attn_block_mass.default


@torch.library.register_fake("tokenburst::attn_block_mass")
def _(q, k, block, *, prompt_len=None, kv_len=None, scale=None):
    batch, heads, length, _ = q.shape
    n = (length + block - 1) // block
    shape = batch, heads, n, n
    return q.new_empty(shape, dtype=torch.float32), q.new_empty(shape, dtype=torch.float32)


def attn_select_blocks(
    prefix_mass: Tensor,
    generation_mass: Tensor,
    length: int,
    block: int,
    keep: float,
    *,
    prompt_len: Tensor | None = None,
    kv_len: Tensor | None = None,
) -> Tensor:
    """The blocks of keys with the largest masses, as bits of a `BlockPattern`.

    Of a sequence's m blocks, int(m * keep) + 1 (at most m) are taken by `prefix_mass`, and those of
    the generated part then dropped; of its g generated blocks, int(g * keep) + 1 (at most g) are
    taken by `generation_mass`. Of equal masses the lower index wins; a mass that is negative or NaN
    counts as 0. Equivalent to `tokenburst.ref.sparsed.attn_select_blocks`.

    Args:
        prefix_mass: [B, H, n, n] float32 of `attn_block_mass`.
        generation_mass: [B, H, n, n] float32 of the same.
        length: L, rows of queries and keys.
        block: 32, 64 or 128; n = ceil(L / block).
        keep: share of the blocks, 0 to 1; at 1 every block is kept, where the published code fails.
        prompt_len: [B], see `attn_block_mass`.
        kv_len: [B], see `attn_block_mass`.

    Returns:
        [B, H, n, ceil(n / 32)] int32, bit j % 32 of word j // 32 of row i: query block i keeps key
        block j. Rows that are padding keep nothing.

    Raises:
        RuntimeError: wrong dtype, shape, device, block or ratio; on the CPU also lengths as in
            `attn_block_mass`.

    Source: Wang et al., SparseD, arXiv 2509.24014.
    """
    return _attn_select_blocks(
        prefix_mass, generation_mass, length, block, keep, prompt_len=prompt_len, kv_len=kv_len
    )


_attn_select_blocks = torch.ops.tokenburst.attn_select_blocks.default


@torch.library.register_fake("tokenburst::attn_select_blocks")
def _(prefix_mass, generation_mass, length, block, keep, *, prompt_len=None, kv_len=None):
    n = (length + block - 1) // block
    return prefix_mass.new_empty((*prefix_mass.shape[:2], n, (n + 31) // 32), dtype=torch.int32)
