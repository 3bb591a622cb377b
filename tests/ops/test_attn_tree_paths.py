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
