"""Ops against what torch makes by itself: torch.compile, FlexAttention, every SDPA backend."""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask

from bench_attention import visibility
from bench_sparse import compiled_flex
from bench_step import confident
from bench_vocab import all_stats, max_logsumexp
from harness import Case, main, nbytes, short
from shapes import MODELS
from tokenburst import ops
from tokenburst.decoders.templates import TEMPLATES

TREE = TEMPLATES["2.2.2"]


def statistics(name, rows, k, dtype, device):
    """`all_stats` for a tree, argmax and its probability for masks, both fused by the compiler."""
    logits = confident(rows, MODELS[name].vocab, dtype=dtype, device=device)
    eager = (lambda x: all_stats(x, k)) if k > 1 else max_logsumexp
    fused = torch.compile(eager, dynamic=False)

    def check():
        got, want = ops.vocab_stats(logits, k), all_stats(logits, k)
        torch.testing.assert_close(got.lse, want[2], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got.confidence, want[3], rtol=1e-4, atol=1e-6)

    return Case(
        "vocab_stats",
        f"{name} [{rows},{logits.shape[1]}] k={k} {short(dtype)}",
        lambda: ops.vocab_stats(logits, k),
        {"torch.compile": lambda: fused(logits), "eager": lambda: eager(logits)},
        check,
        nbytes(logits),
        dtype=dtype,
        cold=True,
    )


def tree_attention(name, kv_len, dtype, device):
    """FlexAttention with a compiled mask over the cache; SDPA with a bool mask by backend."""
    s, nodes = MODELS[name], TREE.nodes
    total = kv_len + nodes
    q = torch.randn(1, s.heads, nodes, s.head_dim, device=device).to(dtype)
    k, v = (torch.randn(1, s.kv_heads, total, s.head_dim, device=device).to(dtype) for _ in "kv")
    parent = torch.tensor(TREE.parent, device=device)
    mask = visibility(parent, kv_len)
    lengths, count = (torch.tensor([n], device=device) for n in (kv_len, nodes))
    ancestors = ops.tree_build(parent[None], count).ancestors
    # Made once: a new tree of another shape would cost this again in every step.
    blocks = create_block_mask(
        lambda b, h, i, j: mask[i, j], None, None, nodes, total, device=device.type
    )

    def ours():
        return ops.attn_tree(q, k, v, lengths, ancestors=ancestors)

    def flex():
        return compiled_flex()(q, k, v, block_mask=blocks, enable_gqa=True)

    def sdpa(backend):
        def call():
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

        return call

    def check():
        exact = F.scaled_dot_product_attention(
            q.float(), k.float(), v.float(), attn_mask=mask, enable_gqa=True
        )
        error = 1e-5 if dtype == torch.float32 else 1e-2
        torch.testing.assert_close(ours().out.float(), exact, rtol=error, atol=error)

    baselines = {"flex_attention, compiled": flex}
    for backend in SDPBackend.MATH, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION:
        try:  # which take a mask here
            sdpa(backend)()
            baselines[f"sdpa, {backend.name.lower()}, bool mask"] = sdpa(backend)
        except RuntimeError:
            pass
    return Case(
        "attn_tree",
        f"{name} N={nodes} S={kv_len} {short(dtype)}",
        ours,
        baselines,
        check,
        moved=nbytes(q, q, k, v),
        flops=4 * s.heads * s.head_dim * int(mask.sum()),
        dtype=dtype,
    )


def cases(device):
    yield statistics("Llama-2-7B", TREE.nodes, 8, torch.bfloat16, device)
    yield statistics("LLaDA-8B", 32, 1, torch.bfloat16, device)
    yield tree_attention("Llama-3-8B", 1024, torch.bfloat16, device)


def more(device):
    yield statistics("Llama-3-8B", TREE.nodes, 8, torch.bfloat16, device)
    yield statistics("Dream-7B", 32, 1, torch.bfloat16, device)
    yield statistics("LLaDA-8B", 32, 1, torch.float32, device)
    yield tree_attention("Llama-3-8B", 4096, torch.bfloat16, device)
    yield tree_attention("Llama-2-7B", 4096, torch.float32, device)
    if device.type == "cuda":
        yield tree_attention("Llama-3-8B", 65536, torch.bfloat16, device)


if __name__ == "__main__":
    main(cases, more)
