"""Every root-to-leaf path of a tree equals causal decoding of that path, bit for bit."""

import pytest
import torch

import tokenburst as tb
from agreement import assert_same
from samples import Sample
from samples.attention import ancestor_bits, draw, paged
from samples.tree import random_tree
from tokenburst import ops, ref


def parents_of(shape, nodes):
    if shape == "binary":
        return [(i - 1) // 2 if i else -1 for i in range(nodes)]
    if shape == "token recycling":
        return list(tb.TEMPLATES["2.2.2"].parent[:nodes])
    return random_tree(nodes, torch.Generator().manual_seed(nodes), shape)


def paths_of(parents):
    """From the root to each leaf; of many leaves the first, the last and some between."""
    leaves = [i for i in range(len(parents)) if i not in parents]
    paths = []
    for leaf in {leaves[0], leaves[-1], *leaves[:: max(1, len(leaves) // 4)]}:
        path = [leaf]
        while parents[path[0]] >= 0:
            path.insert(0, parents[path[0]])
        paths.append(path)
    return paths


@pytest.mark.parametrize("nodes", [1, 2, 31, 32, 33, 64, 81, 127, 128])
@pytest.mark.parametrize("shape", ["chain", "star", "binary", "random", "token recycling"])
def test_paths(shape, nodes):
    parents = parents_of(shape, nodes)
    nodes, kvs = len(parents), [0, 1, 127, 128, 129] + [4096] * (nodes == 81)
    g = torch.Generator().manual_seed(nodes)
    close = Sample("close", lambda device: ((), {}), atol=8e-6, rtol=8e-6)
    bits = ancestor_bits(parents)[None]
    for kv in kvs:
        q = draw(g, torch.float32, 1, 4, nodes, 8)
        k, v = (draw(g, torch.float32, 1, 2, kv + nodes, 8) for _ in range(2))
        lengths = torch.tensor([kv])
        for window in (None, 40):
            tree = ops.attn_tree(q, k, v, lengths, ancestors=bits, window=window)
            want = ref.attention.attn_tree(q, k, v, lengths, ancestors=bits, window=window)
            assert_same("attn_tree", close, tree, want)
            first = max(0, kv - window + 1) if window else 0
            poisoned = [t.clone() for t in (k, v)]
            for t in poisoned:
                t[:, :, :first] = float("nan")
            pools, table = paged(poisoned, [kv + nodes], [first], 16)
            got = ops.attn_tree(q, *pools, lengths, ancestors=bits, window=window, page_table=table)
            assert torch.equal(got.out, tree.out) and torch.equal(got.lse, tree.lse)
            for path in paths_of(parents):
                rows = [*range(kv), *(kv + i for i in path)]
                chain = ops.attn_tree(
                    q[:, :, path], k[:, :, rows], v[:, :, rows], lengths, window=window
                )
                assert torch.equal(chain.out, tree.out[:, :, path])
                assert torch.equal(chain.lse, tree.lse[:, :, path])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(3, 3, 24), (7, 1, 128), (8, 2, 96)])
def test_few_rows_are_rows_of_many(dtype, heads, kv_heads, dim):
    """Plain decoding goes its own way through the keys; each row has the bits it has in a block."""
    nodes = 40
    g = torch.Generator().manual_seed(dim)
    q = draw(g, dtype, 1, heads, nodes, dim)
    k, v = (draw(g, dtype, 1, kv_heads, 203 + nodes, dim) for _ in range(2))
    pools, table = paged([k, v], [203 + nodes], [0], 16)
    for window in (None, 70):
        many = ops.attn_tree(q, k, v, torch.tensor([203]), window=window)
        for first, count in ((0, 1), (5, 2), (21, 3), (36, 4)):
            some, lengths = q[:, :, first : first + count], torch.tensor([203 + first])
            few = ops.attn_tree(some, k, v, lengths, window=window)
            assert torch.equal(few.out, many.out[:, :, first : first + count])
            assert torch.equal(few.lse, many.lse[:, :, first : first + count])
            page = ops.attn_tree(some, *pools, lengths, window=window, page_table=table)
            assert torch.equal(page.out, few.out) and torch.equal(page.lse, few.lse)
