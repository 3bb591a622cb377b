"""Samples of the attention room. Rows of the cache that nobody may see are NaN."""

import torch

from samples import Sample
from samples.tree import random_tree

F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
# One unit in the last place of the output, and what 16-bit weights cost on tensor cores.
TOLERANCE = {F32: (2e-5, 1e-5), F16: (1e-3, 2**-10), BF16: (8e-3, 2**-7)}


def ancestor_bits(parents: list[int]) -> torch.Tensor:
    """[N, W] int32 masks of a tree given by parents."""
    nodes = len(parents)
    seen: list[int] = []
    for i, up in enumerate(parents):
        seen.append((seen[up] if up >= 0 else 0) | 1 << i)
    words = [[bits >> 32 * w & 0xFFFFFFFF for w in range((nodes + 31) // 32)] for bits in seen]
    return torch.tensor(words, dtype=torch.int64).reshape(nodes, -1).to(torch.int32)


def draw(g, dtype, *shape):
    return torch.randn(shape, generator=g).to(dtype)


def paged(caches, lengths, first, size):
    """The caches [B, H, S, D] in shuffled pages of `size` rows, and the table that finds them.

    Pages of rows that nobody sees do not exist: what stands for them is no page.
    """
    batch, heads, rows, dim = caches[0].shape
    width = -(-rows // size)
    pages = batch * width + 3
    g = torch.Generator().manual_seed(size)
    order = torch.randperm(pages, generator=g)[: batch * width].reshape(batch, width)
    table = order.to(torch.int32)
    pools = [torch.full((pages, heads, size, dim), float("nan"), dtype=c.dtype) for c in caches]
    for b in range(batch):
        for i in range(width):
            begin, end = i * size, min(rows, i * size + size)
            if end <= first[b] or begin >= lengths[b]:
                table[b, i] = (-1, pages, 2**31 - 1, -(2**31))[i % 4]
                continue
            for cache, pool in zip(caches, pools, strict=True):
                pool[order[b, i], :, : end - begin] = cache[b, :, begin:end]
    return pools, table


def attend(
    batch,
    heads,
    kv_heads,
    nodes,
    dim,
    kv,
    *,
    shape="random",
    dtype=F32,
    ragged=False,
    strided=False,
    scale=None,
    spare=3,
    wide=False,
    window=None,
    page=None,
):
    """`shape`: a tree of `random_tree`, or "causal" / "full" without ancestors."""

    def make(device):
        g = torch.Generator().manual_seed(nodes * 1000 + dim + kv)
        index = torch.int64 if wide else torch.int32
        lengths = torch.full((batch,), kv, dtype=index)
        count = torch.full((batch,), nodes, dtype=index)
        if ragged:
            lengths = torch.randint(0, kv + 1, (batch,), generator=g, dtype=index)
            count = torch.randint(0, nodes + 1, (batch,), generator=g, dtype=index)
        rows = kv + nodes + spare
        q = draw(g, dtype, batch, heads, nodes, dim)
        k, v = (draw(g, dtype, batch, kv_heads, rows, dim) for _ in range(2))
        first = [0] * batch
        for b in range(batch):
            end = int(lengths[b] + count[b])
            k[b, :, end:], v[b, :, end:], q[b, :, int(count[b]) :] = (float("nan"),) * 3
            if window is not None:
                first[b] = max(0, int(lengths[b]) - window + (shape != "full"))
                k[b, :, : first[b]], v[b, :, : first[b]] = (float("nan"),) * 2
        if strided:  # as projections and grown caches give them
            q = q.transpose(1, 2).contiguous().transpose(1, 2)
            k = torch.cat([k, k], 3).transpose(1, 2).contiguous().transpose(1, 2)[..., :dim]
            v = torch.cat([v, v], 2)[:, :, :rows]
        kwargs = {"causal": shape != "full", "scale": scale}
        if window is not None:
            kwargs["window"] = window
        if page is not None:
            ends = [int(n) for n in lengths + count]
            (k, v), table = paged((k, v), ends, first, page)
            kwargs["page_table"] = table.to(device)
        if ragged:
            kwargs["n_nodes"] = count.to(device)
        if shape not in ("causal", "full"):
            trees = [ancestor_bits(random_tree(nodes, g, shape)) for _ in range(batch)]
            words = (nodes + 31) // 32
            bits = torch.stack(trees) if trees else torch.zeros(0, nodes, words, dtype=torch.int32)
            kwargs["ancestors"] = bits.to(device)
        return tuple(t.to(device) for t in (q, k, v, lengths)), kwargs

    return make


def sample(name, *args, dtype=F32, opcheck=False, tolerance=None, **kwargs):
    atol, rtol = tolerance or TOLERANCE[dtype]
    return Sample(
        name,
        attend(*args, dtype=dtype, **kwargs),
        atol=atol,
        rtol=rtol,
        opcheck=opcheck,
        fields={1: (2e-5, 5e-6)},
    )


SAMPLES = {
    "attn_tree": [
        sample("one-token", 1, 4, 4, 1, 64, 1, opcheck=True),
        sample("empty-batch", 0, 4, 2, 5, 16, 3, opcheck=True),
        sample("no-nodes", 2, 2, 2, 0, 16, 3, shape="causal"),
        sample("no-prefix-chain", 2, 4, 1, 31, 24, 0, shape="causal"),
        sample("tiny-model", 3, 5, 1, 9, 32, 150, ragged=True, opcheck=True),
        sample("tile-less-one", 1, 4, 4, 33, 64, 63, shape="star"),
        sample("tile-exactly", 1, 4, 1, 32, 80, 64, shape="chain", strided=True),
        sample("tile-and-one", 2, 5, 1, 64, 40, 65, wide=True),
        sample("token-recycling-81", 1, 5, 1, 81, 128, 200, strided=True),
        sample("wide-128-ragged", 4, 2, 2, 128, 96, 65, ragged=True),
        sample("prefill-causal", 2, 2, 1, 200, 64, 0, shape="causal", ragged=True),
        sample("block-after-prefix", 2, 4, 1, 70, 64, 130, shape="full", strided=True),
        sample("bidirectional", 1, 2, 2, 129, 16, 0, shape="full"),
        sample("sharp-scores", 1, 2, 2, 12, 64, 100, scale=3.0),
        sample("fp16-tree", 2, 8, 2, 37, 64, 100, dtype=F16, ragged=True, opcheck=True),
        sample("bf16-tree", 2, 4, 4, 81, 128, 300, dtype=BF16, strided=True),
        sample("bf16-causal", 1, 5, 1, 50, 80, 20, dtype=BF16, shape="causal"),
        sample("fp16-full", 2, 3, 3, 33, 96, 64, dtype=F16, shape="full", ragged=True),
        sample("fp16-one-token-splits", 1, 8, 1, 1, 128, 515, dtype=F16),
        sample("bf16-two-warps", 2, 3, 1, 9, 80, 130, dtype=BF16, ragged=True, wide=True),
        sample("bf16-odd-dim", 1, 2, 1, 7, 72, 5, dtype=BF16),
        sample("window-tree", 2, 6, 2, 81, 40, 200, window=64, ragged=True),
        sample("window-inside-the-tree", 2, 4, 1, 40, 32, 9, window=5, shape="chain", opcheck=True),
        sample("window-of-one", 1, 2, 2, 9, 16, 70, window=1),
        sample("window-prefill", 2, 2, 1, 200, 24, 0, window=70, shape="causal", ragged=True),
        sample("window-block", 2, 2, 1, 70, 24, 130, window=33, shape="full", ragged=True),
        sample("window-wider-than-all", 1, 2, 1, 5, 16, 7, window=2**62, shape="causal"),
        sample("pages-of-16", 2, 4, 2, 81, 24, 130, page=16, ragged=True, opcheck=True),
        sample("pages-of-64-window", 2, 2, 1, 33, 40, 260, page=64, window=70, ragged=True),
        sample("pages-of-48-prefill", 2, 2, 2, 150, 16, 30, page=48, shape="causal", ragged=True),
        sample("pages-of-256-block", 2, 4, 1, 20, 16, 100, page=256, shape="full", window=30),
        sample("bf16-pages", 2, 4, 2, 40, 64, 200, page=16, dtype=BF16, ragged=True),
        sample("fp16-pages-window", 2, 4, 1, 20, 80, 300, page=32, window=90, dtype=F16),
        sample("bf16-pages-odd-dim", 1, 2, 1, 7, 72, 40, page=16, dtype=BF16, shape="causal"),
        sample("fp16-window-tree", 2, 8, 2, 37, 64, 500, window=130, dtype=F16, ragged=True),
        sample("bf16-window-chain", 1, 5, 1, 50, 80, 150, window=64, dtype=BF16, shape="causal"),
        sample("fp16-window-block", 2, 3, 3, 90, 96, 64, window=20, dtype=F16, shape="full"),
        sample("bf16-window-in-tree", 1, 4, 2, 70, 64, 3, window=9, dtype=BF16, shape="chain"),
    ]
}
