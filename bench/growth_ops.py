"""Each op as a function of one size: what `growth.py` times."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from tokenburst import BlockPattern, ops

Call = Callable[[], object]


class Series(NamedTuple):
    """A size that grows while all others stay."""

    op: str
    axis: str
    others: str  # what stays
    exponent: int  # of the size in the work that has to be done
    sizes: tuple[int, ...]
    make: Callable[[int], Call]


def parents(nodes: int, batch: int, device) -> torch.Tensor:
    """[B, N] trees of four children per node."""
    column = torch.tensor([-1] + [(i - 1) // 4 for i in range(1, nodes)], device=device)
    return column.repeat(batch, 1)


def stats(rows, vocab, device):
    logits = torch.randn(rows, vocab, device=device).bfloat16()
    return lambda: ops.vocab_stats(logits, 8)


def draws(rows, vocab, device):
    logits = torch.randn(rows, vocab, device=device).bfloat16()
    heat, rng = torch.ones(rows, device=device), torch.arange(4, device=device).repeat(rows, 1)
    return lambda: ops.vocab_sample(logits, 8, heat, rng)


def nucleus(rows, vocab, device):
    logits = torch.randn(rows, vocab, device=device).bfloat16() * 3
    heat, rng = torch.ones(rows, device=device), torch.arange(4, device=device).repeat(rows, 1)
    p = torch.full((rows,), 0.9, device=device)
    return lambda: ops.vocab_filter(logits, temperature=heat, rng=rng, top_p=p)


def tree_attention(batch, nodes, context, device):
    q = torch.randn(batch, 32, nodes, 128, device=device).bfloat16()
    caches = [
        torch.randn(batch, 8, context + nodes, 128, device=device).bfloat16() for _ in range(2)
    ]
    count = torch.full((batch,), nodes, device=device)
    lengths = torch.full((batch,), context, device=device)
    seen = ops.tree_build(parents(nodes, batch, device), count).ancestors
    return lambda: ops.attn_tree(q, *caches, lengths, ancestors=seen)


def sparse(length, blocks, device):
    """`blocks` of 64 keys for each block of queries, 8 heads."""
    q, k, v = (torch.randn(1, 8, length, 128, device=device) for _ in range(3))
    n = length // 64
    bits = BlockPattern.from_bool(torch.rand(1, 8, n, n, device=device).argsort(-1) < blocks, 64)
    return lambda: ops.attn_sparse(q, k, v, bits.bits, 64)


def masses(length, device):
    q = torch.randn(1, 8, length, 128, device=device)
    prompt = torch.tensor([length - 256], device=device)
    return lambda: ops.attn_block_mass(q, q, 64, prompt_len=prompt)


def selection(n, device):
    mass = [torch.rand(1, 8, n, n, device=device) for _ in range(2)]
    prompt = torch.tensor([64 * (n - 4)], device=device)
    return lambda: ops.attn_select_blocks(*mass, 64 * n, 64, 0.3, prompt_len=prompt)


def built(batch, nodes, device):
    parent, count = parents(nodes, batch, device), torch.full((batch,), nodes, device=device)
    return lambda: ops.tree_build(parent, count)


def verdict(batch, nodes, device):
    parent, count = parents(nodes, batch, device), torch.full((batch,), nodes, device=device)
    tokens, argmax = (torch.randint(0, 3, (batch, nodes), device=device) for _ in range(2))
    return lambda: ops.tree_verify_greedy(tokens, argmax, parent, count)


def commit(batch, device):
    caches = [torch.randn(batch, 8, 320, 128, device=device) for _ in range(16)]
    path = torch.tensor([0, 3, 17, 45], device=device).repeat(batch, 1)
    start, count = (torch.full((batch,), n, device=device) for n in (256, 4))
    return lambda: ops.tree_commit_kv_(caches[:8], caches[8:], start, path, count)


def recycle(batch, nodes, device, update):
    adjacency = torch.randint(0, 32000, (32000, 8), device=device, dtype=torch.int32)
    parent = parents(nodes, 1, device)[0]
    rank = torch.arange(nodes, device=device) % 4
    root = torch.randint(0, 32000, (batch,), device=device)
    tokens = torch.randint(0, 32000, (batch, nodes), device=device)
    ids = torch.randint(0, 32000, (batch, nodes, 8), device=device)
    if update:
        return lambda: ops.recycle_update_(adjacency, tokens, ids)
    return lambda: ops.recycle_draft(adjacency, root, parent, rank)


def lookup(length, device):
    text = torch.arange(length, device=device)[None]  # no match, so all of it is read
    count = torch.tensor([length], device=device)
    return lambda: ops.ngram_match(text, count, 10)


def unmasking(batch, candidates, device):
    x = torch.full((batch, candidates), 9, device=device)
    position = torch.arange(candidates, device=device).repeat(batch, 1)
    score = torch.rand(batch, candidates, device=device)
    high = torch.full((batch,), 2.0, device=device)  # nothing is committed, so x stays
    return lambda: ops.unmask_select_(x, position, position, 9, score=score, threshold=high)


def series(device) -> Iterator[Series]:
    """All of them; larger on a GPU."""
    d, big = device, device.type == "cuda"
    vocab = tuple(1 << n for n in range(13, 19))
    few, many = (1, 4, 16, 64, 256), (16, 32, 64, 128, 256)
    long = (1024, 2048, 4096, 8192, 16384, 65536) if big else (512, 1024, 2048, 4096)
    far = (512, 2048, 8192, 32768, 131072) if big else (512, 2048, 8192, 32768)
    heads = "Hq=32 Hkv=8 D=128 bf16"
    yield Series("vocab_stats", "V", "32 rows, k=8, bf16", 1, vocab, lambda n: stats(32, n, d))
    yield Series("vocab_stats", "rows", "V=32000 bf16", 1, few, lambda n: stats(n, 32000, d))
    yield Series("vocab_sample", "V", "16 rows, k=8, bf16", 1, vocab, lambda n: draws(16, n, d))
    yield Series("vocab_filter", "V", "16 rows, top-p, bf16", 1, vocab, lambda n: nucleus(16, n, d))
    of = f"N=64 {heads}"
    yield Series("attn_tree", "S", of, 1, far, lambda n: tree_attention(1, 64, n, d))
    of = f"S=2048 {heads}"
    yield Series("attn_tree", "N", of, 1, many, lambda n: tree_attention(1, n, 2048, d))
    of = f"N=16 S=1024 {heads}"
    yield Series(
        "attn_tree", "B", of, 1, (1, 2, 4, 8, 16), lambda n: tree_attention(n, 16, 1024, d)
    )
    of = "8 of all blocks, H=8 D=128 fp32"
    yield Series("attn_sparse", "L", of, 1, long, lambda n: sparse(n, 8, d))
    of = "density 1/4, H=8 D=128 fp32"
    yield Series("attn_sparse", "L dense", of, 2, long, lambda n: sparse(n, n // 256, d))
    yield Series("attn_block_mass", "L", "H=8 D=128 fp32", 2, long, lambda n: masses(n, d))
    yield Series("attn_select_blocks", "blocks", "H=8", 2, many, lambda n: selection(n, d))
    yield Series("tree_build", "N", "B=8", 1, many, lambda n: built(8, n, d))
    yield Series("tree_build", "B", "N=64", 1, few, lambda n: built(n, 64, d))
    yield Series("tree_verify_greedy", "N", "B=8", 1, many, lambda n: verdict(8, n, d))
    yield Series("tree_verify_greedy", "B", "N=64", 1, few, lambda n: verdict(n, 64, d))
    yield Series("tree_commit_kv_", "B", "8 layers H=8 D=128", 1, few, lambda n: commit(n, d))
    yield Series("recycle_draft", "B", "N=64", 1, few, lambda n: recycle(n, 64, d, False))
    yield Series("recycle_update_", "B", "N=64", 1, few, lambda n: recycle(n, 64, d, True))
    texts = tuple(1 << n for n in range(10, 19, 2))
    yield Series("ngram_match", "L", "B=1 k=10", 1, texts, lambda n: lookup(n, d))
    width = (32, 128, 512, 2048, 8192)
    yield Series("unmask_select_", "candidates", "B=8", 1, width, lambda n: unmasking(8, n, d))
    yield Series("unmask_select_", "B", "32 candidates", 1, few, lambda n: unmasking(n, 32, d))
