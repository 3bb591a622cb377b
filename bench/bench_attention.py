"""Attention of a draft tree over a long cache."""

import torch
import torch.nn.functional as F

from bench_tree import NODES, template
from harness import Case, main, nbytes, short
from tokenburst import ops


def visibility(parent, kv_len):
    """[N, kv_len + N] bool: the prefix and the ancestors."""
    nodes = len(parent)
    sees = torch.eye(nodes, dtype=torch.bool, device=parent.device)
    for i, above in enumerate(parent.tolist()):
        if above >= 0:
            sees[i] |= sees[above]
    prefix = torch.ones(nodes, kv_len, dtype=torch.bool, device=parent.device)
    return torch.cat([prefix, sees], 1)


def case(
    nodes, kv_len, heads, kv_heads, dim, dtype, device, window=None, page=None, dense=False, batch=1
):
    """`dense`: against SDPA without a mask, over as many rows and keys."""
    total, group = kv_len + nodes, heads // kv_heads
    parent = template(1, device)[0, :nodes]
    mask = visibility(parent, kv_len)
    if window:  # the last keys of each path
        mask &= mask.cumsum(1) > (mask.sum(1) - window)[:, None]
    q = torch.randn(batch, heads, nodes, dim, device=device).to(dtype)
    shape = batch, kv_heads, total + 64, dim
    k, v = (torch.randn(shape, device=device).to(dtype) for _ in range(2))
    lengths, count = (torch.full((batch,), n, device=device) for n in (kv_len, nodes))
    ancestors = ops.tree_build(parent.expand(batch, -1), count).ancestors
    seen = k[:, :, :total], v[:, :, :total]
    folded_mask = mask.repeat(group, 1)
    caches, table = (k, v), None
    if page:
        width = -(-total // page)
        table = torch.randperm(width, device=device)
        caches = [torch.zeros(width, kv_heads, page, dim, dtype=dtype, device=device) for _ in "kv"]
        for pool, cache in zip(caches, seen, strict=True):
            rows = F.pad(cache[0], (0, 0, 0, width * page - total))
            pool[table] = rows.unflatten(1, (width, page)).transpose(0, 1)
        table = table.to(torch.int32)[None]

    def ours():
        return ops.attn_tree(
            q, *caches, lengths, ancestors=ancestors, window=window, page_table=table
        )

    def sdpa():
        return F.scaled_dot_product_attention(q, *seen, attn_mask=mask, enable_gqa=True)

    def folded():  # the query heads of a KV head as more rows of one head
        rows = q.reshape(batch, kv_heads, group * nodes, dim)
        out = F.scaled_dot_product_attention(rows, *seen, attn_mask=folded_mask)
        return out.reshape(batch, heads, nodes, dim)

    def unmasked_folded():
        rows = q.reshape(batch, kv_heads, group * nodes, dim)
        return F.scaled_dot_product_attention(rows, *seen)

    def check():
        exact = F.scaled_dot_product_attention(
            q.float(), *(t.float() for t in seen), attn_mask=mask, enable_gqa=True
        )
        error = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(ours().out.float(), exact, rtol=error, atol=error)

    masked = {
        "sdpa, bool mask, enable_gqa": sdpa,
        "sdpa, bool mask, heads folded into rows": folded,
    }
    if bool(mask.all()):  # plain decoding: nobody would make a mask
        masked |= {
            "sdpa, no mask, enable_gqa": lambda: F.scaled_dot_product_attention(
                q, *seen, enable_gqa=True
            ),
            "sdpa, no mask, heads folded into rows": unmasked_folded,
        }
    same_work = {"sdpa, unmasked, heads folded into rows": unmasked_folded}
    extra = f" window={window}" * bool(window) + f" page={page}" * bool(page)
    extra += f" B={batch}" * (batch > 1)
    return Case(
        "attn_tree, dense work" if dense else "attn_tree",
        f"N={nodes} S={kv_len} Hq={heads} Hkv={kv_heads} D={dim} {short(dtype)}{extra}",
        ours,
        same_work if dense else masked,
        check,
        moved=nbytes(q, q) + nbytes(*seen) * int(mask.any(0).sum()) // total,
        flops=4 * batch * heads * dim * int(mask.sum()),
        dtype=dtype,
    )


def cases(device):
    for dtype in (torch.float32, torch.bfloat16):
        yield case(NODES, 4096, 32, 8, 128, dtype, device)
        yield case(NODES, 4096, 32, 8, 128, dtype, device, window=1024)
        yield case(NODES, 4096, 32, 8, 128, dtype, device, page=64)
        for kv_heads in (8, 32):
            for kv_len in (256, 4096):
                yield case(NODES, kv_len, 32, kv_heads, 128, dtype, device, dense=True)
    yield case(NODES, 256, 8, 4, 64, torch.float32, device)
    yield case(16, 256, 8, 4, 64, torch.float32, device)
    yield case(1, 4096, 32, 8, 128, torch.bfloat16, device)


def more(device):
    for dim in (64, 128):
        for batch, kv_len in ((1, 4096), (1, 16384), (4, 4096), (4, 16384)):
            yield case(NODES, kv_len, 8, 4, dim, torch.float32, device, dense=True, batch=batch)


if __name__ == "__main__":
    main(cases, more)
