"""Every op at the sizes of real models: vocabularies, heads, contexts of 512 to 64k, batches."""

import torch

import bench_attention
import bench_commit
import bench_recycle
import bench_sparsed
import bench_tree
import bench_unmask
import bench_vocab
from harness import main
from shapes import BATCHES, CAUSAL, CONTEXTS, DIFFUSION, MODELS

BF16 = torch.bfloat16
NODES = 81
BLOCK = 32


def named(case, model, batch=None):
    case.name = f"{model}{'' if batch is None else f' B={batch}'}: {case.name}"
    return case


def vocabulary(device, batch):
    """Logits of a draft tree, of a sampled token, of a block of masks."""
    for name in CAUSAL:
        v = MODELS[name].vocab
        case = bench_vocab.tree_case(NODES * batch, v, BF16, 8, device)
        case.cold = True
        yield named(case, name, batch)
        yield named(bench_vocab.filter_case(batch, v, BF16, device), name, batch)
    for name in DIFFUSION:
        case = bench_vocab.diffusion_case(BLOCK * batch, MODELS[name].vocab, BF16, device)
        case.cold = True
        yield named(case, name, batch)


def attention(device, contexts):
    """A draft tree over the cache, then one token: plain decoding."""
    for context in contexts:
        for name in CAUSAL:
            s = MODELS[name]
            sizes = s.heads, s.kv_heads, s.head_dim, BF16, device
            yield named(bench_attention.case(64, context, *sizes), name)
            yield named(bench_attention.case(1, context, *sizes), name)


def patterns(device, lengths):
    """SparseD's pattern of one layer."""
    for length in lengths:
        for name in DIFFUSION:
            s = MODELS[name]
            yield named(
                bench_sparsed.case(length, 128, s.heads, s.kv_heads, s.head_dim, BF16, device), name
            )


def small(device, batch):
    """What is cheap: trees, matrices, commits, unmasking."""
    yield bench_tree.build(batch, device)
    yield bench_tree.verify(batch, device)
    for name in CAUSAL:
        s = MODELS[name]
        yield named(bench_recycle.draft(batch, s.vocab, device), name, batch)
        yield named(bench_recycle.update(batch, s.vocab, device), name, batch)
        if batch == 1:
            commit = bench_commit.commit(s.layers, s.kv_heads, s.head_dim, BF16, device)
            yield named(commit, name, batch)
    for rule in ("top-k", "threshold"):
        for length in (BLOCK, 256):
            yield bench_unmask.case(batch, length, rule, device)


def cases(device):
    yield from vocabulary(device, 1)


def more(device):
    gpu = device.type == "cuda"
    yield from attention(device, CONTEXTS[:2])
    yield from small(device, 1)
    yield from attention(device, CONTEXTS[2:])  # sorted by what a cut run would miss least
    yield from patterns(device, CONTEXTS[:4] if gpu else CONTEXTS[:2])
    for batch in BATCHES[1:]:
        yield from small(device, batch)
        if gpu or batch < 64:  # eager torch takes half a minute per call on a CPU
            yield from vocabulary(device, batch)


if __name__ == "__main__":
    main(cases, more)
