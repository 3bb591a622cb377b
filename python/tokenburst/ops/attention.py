"""Attention of many new tokens at once. Equivalent plain torch: `tokenburst.ref.attention`."""

from typing import NamedTuple

import torch
from torch import Tensor


class Attended(NamedTuple):
    """What the queries gathered."""

    out: Tensor  # [B, Hq, N, D], dtype of q; in memory [B, N, Hq, D]
    lse: Tensor  # [B, Hq, N] float32: natural log of the sum of exp(scaled scores)


def attn_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bits: Tensor,
    block: int,
    *,
    kv_len: Tensor | None = None,
    scale: float | None = None,
) -> Attended:
    """Attention in which each block of queries sees the blocks of keys that a bitmask selects.

    The pattern is per sequence and query head; `tokenburst.BlockPattern` makes and holds one.
    Queries of block i of head h attend to all keys of kv block j if bit j % 32 of
    bits[b, h, i, j // 32] is set. Query head h reads KV head h // (Hq / Hkv). What no query of a
    head selects is never read. A result depends on its query, on what that selects and on nothing
    else: on no other sequence, head or query, on no thread count. Equivalent to
    `tokenburst.ref.attention.attn_sparse`.

    Args:
        q: [B, Hq, Lq, D] float32, float16 or bfloat16; D a multiple of 8 up to 256 (16-bit tensors
            on a GPU meet tensor cores at 64, 80, 96, 128 and 256).
        k: [B, Hkv, Lk, D], dtype of q; Hq is a multiple of Hkv.
        v: [B, Hkv, Lk, D], dtype of q. These three may have any strides as long as the last
            dimension is contiguous.
        bits: [B or 1, Hq or 1, ceil(Lq / block), ceil(ceil(Lk / block) / 32)] int32. Bits from the
            last kv block on are ignored.
        block: 32, 64 or 128 queries, and as many keys.
        kv_len: [B] int32 or int64, keys of each sequence, the others are padding (default Lk).
        scale: of the scores, default 1 / sqrt(D).

    Returns:
        `Attended` with out [B, Hq, Lq, D] and lse [B, Hq, Lq]; a query that sees nothing has out 0
        and lse -inf.

    Raises:
        RuntimeError: wrong dtype, shape, strides, device, head dim or block, head counts that do
            not divide, a pattern of other lengths; on the CPU also a kv_len out of range. On a GPU
            that is clamped.

    Source: Wang et al., SparseD, arXiv 2509.24014 (head-specific block patterns); Dao,
        FlashAttention-2, arXiv 2307.08691 (online softmax in tiles).
    """
    return Attended(*_attn_sparse(q, k, v, bits, block, kv_len=kv_len, scale=scale))


_attn_sparse = torch.ops.tokenburst.attn_sparse.default


@torch.library.register_fake("tokenburst::attn_sparse")
def _(q, k, v, bits, block, *, kv_len=None, scale=None):
    batch, heads, length, dim = q.shape
    out = q.new_empty((batch, length, heads, dim)).transpose(1, 2)
    return out, q.new_empty((batch, heads, length), dtype=torch.float32)


def attn_tree(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    kv_len: Tensor,
    *,
    ancestors: Tensor | None = None,
    n_nodes: Tensor | None = None,
    page_table: Tensor | None = None,
    causal: bool = True,
    window: int | None = None,
    scale: float | None = None,
) -> Attended:
    """Attention of the N newest tokens (draft tree, chain or block) over a key/value cache.

    Sequence b sees its first kv_len[b] cache rows; node j of the newest tokens lies in row
    kv_len[b] + j and is seen as `ancestors` says, else by all nodes i >= j (`causal`), else by all
    nodes. Query head h reads KV head h // (Hq / Hkv). On the CPU the result of a query depends, bit
    for bit, only on its row of q and its visible keys and values in the order of their rows: the
    same for a token decoded alone, in a chain or in a tree, in any batch. Equivalent to
    `tokenburst.ref.attention.attn_tree`.

    Args:
        q: [B, Hq, N, D] float32, float16 or bfloat16; D a multiple of 8 up to 256 (16-bit
            tensors on a GPU meet tensor cores at 64, 80, 96 and 128).
        k_cache: [B, Hkv, S, D], dtype of q; Hq is a multiple of Hkv. Pages with `page_table`.
        v_cache: [B, Hkv, S, D], dtype of q. These three may have any strides as long as the last
            dimension is contiguous.
        kv_len: [B] int32 or int64, committed rows of the cache, all visible.
        ancestors: [B, N, ceil(N / 32)] int32, bit j % 32 of word j // 32 of node i is set when node
            i sees node j; a node that sees itself has its own bit set.
        n_nodes: [B] int32 or int64, real nodes (default N); the others are padding, which sees
            nothing and whose cache rows are not read.
        page_table: [B, P] int32; the caches are then [pages, Hkv, page size, D], pages of a
            multiple of 16 rows, and row r of sequence b is row r % (page size) of page
            page_table[b, r // (page size)]; S is P * (page size). Sequences may share pages.
            Entries of rows that nobody sees may hold anything.
        causal: without `ancestors`: a chain (prefill, plain decoding), or all nodes see each other.
        window: at least 1; of the keys it sees otherwise, a query at position p keeps those at
            positions above p - window: itself and the window - 1 before it. Row r < kv_len[b]
            stands at position r, a node at kv_len[b] plus the number of other nodes it sees, which
            is its depth. Where all nodes see each other, rows are positions and a window opens to
            both sides: |p - r| <= window. Keys outside are never used.
        scale: of the scores, default 1 / sqrt(D).

    Returns:
        `Attended` with out and lse; a row that sees nothing has out 0 and lse -inf.

    Raises:
        RuntimeError: wrong dtype, shape, strides, device or head dim; on the CPU also lengths that
            are negative or leave no room for the nodes in the cache, and pages that do not exist.
            On a GPU lengths are clamped and rows of impossible pages are not seen.

    Source: Miao et al., SpecInfer, arXiv 2305.09781 (tree attention); Dao, FlashAttention-2, arXiv
        2307.08691 (online softmax in tiles); Hong et al., FlashDecoding++, arXiv 2311.01282 (split
        keys); Beltagy et al., Longformer, arXiv 2004.05150, and transformers (sliding windows);
        Kwon et al., PagedAttention, arXiv 2309.06180 (pages).
    """
    return Attended(
        *_attn_tree(
            q,
            k_cache,
            v_cache,
            kv_len,
            ancestors=ancestors,
            n_nodes=n_nodes,
            page_table=page_table,
            causal=causal,
            window=window,
            scale=scale,
        )
    )


_attn_tree = torch.ops.tokenburst.attn_tree.default


@torch.library.register_fake("tokenburst::attn_tree")
def _(
    q,
    k_cache,
    v_cache,
    kv_len,
    *,
    ancestors=None,
    n_nodes=None,
    page_table=None,
    causal=True,
    window=None,
    scale=None,
):
    batch, heads, nodes, dim = q.shape
    out = q.new_empty((batch, nodes, heads, dim)).transpose(1, 2)
    return out, q.new_empty((batch, heads, nodes), dtype=torch.float32)
