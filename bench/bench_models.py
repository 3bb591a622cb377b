"""Every op at the sizes of real models: vocabularies, heads, contexts of 512 to 64k, batches."""

import torch

import bench_attention
import bench_commit
import bench_ngram
import bench_recycle
import bench_sparse
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


def crowds(device):
    """The same of several sequences, short and long."""
    s = MODELS["Llama-3-8B"]
    sizes = s.heads, s.kv_heads, s.head_dim, BF16, device
    for batch, context in ((4, 4096), (16, 1024), (64, 512)):
        for nodes in (64, 1):
            case = bench_attention.case(nodes, context, *sizes, batch=batch)
            yield named(case, "Llama-3-8B")


def sparse(device, lengths):
    """Block-sparse attention of one layer: as many KV heads as queries have, and fewer."""
    for length in lengths:
        for name in DIFFUSION:
            s = MODELS[name]
            yield named(
                bench_sparse.case(
                    *(s.heads, s.head_dim, 128, 0.3, "dense", BF16, device, length, s.kv_heads)
                ),
                name,
            )


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
    for tree in bench_tree.build, bench_tree.merge, bench_tree.verify, bench_tree.append:
        yield tree(batch, device)
    yield from bench_ngram.table(device, batch)
    for context in CONTEXTS if batch == 1 else CONTEXTS[:2]:
        yield bench_ngram.match(context, torch.int64, device, batch)
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
    """Sorted by what a cut run would miss least."""
    gpu = device.type == "cuda"
    yield from attention(device, CONTEXTS[:2])
    for batch in BATCHES:
        yield from small(device, batch)
    yield from crowds(device)
    yield from attention(device, CONTEXTS[2:3])
    yield from sparse(device, CONTEXTS[1:4] if gpu else (1024, 4096))
    yield from patterns(device, CONTEXTS[:4] if gpu else CONTEXTS[:2])
    for batch in BATCHES[1:]:
        if gpu or batch < 64:  # eager torch takes half a minute per call on a CPU
            yield from vocabulary(device, batch)
    yield from attention(device, CONTEXTS[3:])


if __name__ == "__main__":
    main(cases, more)
