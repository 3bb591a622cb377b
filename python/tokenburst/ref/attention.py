"""Attention in plain torch, one sequence at a time."""

import torch
from torch import Tensor


def attn_sparse(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bits: Tensor,
    block: int,
    *,
    kv_len: Tensor | None = None,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention in float64 over the selected keys; see `tokenburst.ops.attn_sparse`."""
    batch, heads, length, dim = q.shape
    group = heads // k.shape[1]
    scale = dim**-0.5 if scale is None else scale
    out = torch.zeros(batch, length, heads, dim, dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.full((batch, heads, length), -torch.inf, device=q.device)
    bits = bits.expand(batch, heads, -1, -1)
    for b in range(batch):
        keys = torch.arange(k.shape[2] if kv_len is None else int(kv_len[b]), device=q.device)
        j = keys // block
        for h in range(heads):
            for i in range(bits.shape[2]):
                rows = slice(i * block, (i + 1) * block)
                seen = keys[(bits[b, h, i][j // 32] >> (j % 32) & 1).bool()]
                scores = q[b, h, rows].double() @ k[b, h // group, seen].double().mT * scale
                total = scores.logsumexp(-1)
                weights = (scores - total[:, None]).exp()
                out[b, h, rows] = (weights @ v[b, h // group, seen].double()).to(q.dtype)
                lse[b, h, rows] = total.float()
    return out, lse


def visible_nodes(
    ancestors: Tensor | None, count: int, causal: bool, device: torch.device
) -> Tensor:
    """[count, count] bool: which node (row) sees which node (column); `ancestors` is [N, W]."""
    if ancestors is not None:
        j = torch.arange(count, device=device)
        return (ancestors[:count, j // 32] >> (j % 32) & 1).bool()
    full = torch.ones(count, count, dtype=torch.bool, device=device)
    return full.tril() if causal else full


def rows_of(cache: Tensor, b: int, page_table: Tensor | None) -> Tensor:
    """[H, S, D]: the rows of sequence b; those of impossible pages hold anything."""
    if page_table is None:
        return cache[b]
    if not len(cache):
        return cache.new_zeros(cache.shape[1], page_table.shape[1] * cache.shape[2], cache.shape[3])
    pages = cache[page_table[b].long().clamp(0, len(cache) - 1)]  # [P, H, page size, D]
    return pages.transpose(0, 1).flatten(1, 2)


def within(mask: Tensor, prefix: int, window: int, both_sides: bool) -> Tensor:
    """[count, prefix + count] bool: which rows of the cache lie in the window of which node."""
    count, rows = mask.shape
    if both_sides:
        distance = torch.arange(rows) - torch.arange(prefix, prefix + count)[:, None]
        return (distance.abs() <= window).to(mask.device)
    others = mask[:, prefix:].sum(1) - mask[:, prefix:].diagonal().long()
    position = mask.cumsum(1) - 1  # of a visible key; on a path that is its rank
    return position > (prefix + others - window)[:, None]


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
) -> tuple[Tensor, Tensor]:
    """Softmax attention in float64 under a dense mask; see `tokenburst.ops.attn_tree`."""
    batch, heads, nodes, dim = q.shape
    group = heads // k_cache.shape[1]
    scale = dim**-0.5 if scale is None else scale
    out = torch.zeros(batch, nodes, heads, dim, dtype=q.dtype, device=q.device).transpose(1, 2)
    lse = torch.full((batch, heads, nodes), -torch.inf, device=q.device)
    for b in range(batch):
        prefix = int(kv_len[b])
        count = nodes if n_nodes is None else int(n_nodes[b])
        mask = torch.ones(count, prefix + count, dtype=torch.bool, device=q.device)
        tree = None if ancestors is None else ancestors[b]
        mask[:, prefix:] = visible_nodes(tree, count, causal, q.device)
        if window is not None:
            mask &= within(mask, prefix, window, both_sides=tree is None and not causal)
        if page_table is not None:
            page = page_table[b].long().repeat_interleave(k_cache.shape[2])[: prefix + count]
            mask &= (page >= 0) & (page < k_cache.shape[0])
        used = mask.any(0)  # rows that nobody sees may hold anything
        mask = mask[:, used]
        keys, values = (
            rows_of(cache, b, page_table)[:, : prefix + count][:, used]
            .double()
            .repeat_interleave(group, 0)
            for cache in (k_cache, v_cache)
        )
        scores = q[b, :, :count].double() @ keys.transpose(1, 2) * scale
        scores = scores.masked_fill(~mask, -torch.inf)
        total = scores.logsumexp(-1)
        weights = (scores - total.nan_to_num(neginf=0.0)[..., None]).exp()
        out[b, :, :count] = (weights @ values).to(q.dtype)
        lse[b, :, :count] = total.float()
    return out, lse
