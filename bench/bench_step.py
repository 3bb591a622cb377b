"""All that follows the logits in one decoding step, against the published loops."""

import torch

from baselines import RecyclingLoop, fast_dllm_step, llada_step
from harness import Case, main, nbytes, short
from shapes import MODELS
from tokenburst import ops
from tokenburst.decoders.templates import TEMPLATES

BLOCK, PROMPT = 32, 128


def confident(*shape, dtype, device):
    """Logits of which some rows are sure: one id stands out by 0 to 30."""
    logits = torch.randn(shape, device=device)
    peak = torch.randint(0, shape[-1] - 1, (*shape[:-1], 1), device=device)
    return logits.scatter_add_(-1, peak, torch.rand(peak.shape, device=device) * 30).to(dtype)


def diffusion(rule, name, batch, dtype, device):
    """One step in the first block after the prompt; one more block follows."""
    shape, length = MODELS[name], PROMPT + 2 * BLOCK
    logits = confident(batch, length, shape.vocab, dtype=dtype, device=device)
    start = torch.full((batch, length), shape.mask, device=device)
    start[:, :PROMPT] = 7
    x = start.clone()
    position = torch.arange(PROMPT, PROMPT + BLOCK, device=device).repeat(batch, 1)
    rows = (position + length * torch.arange(batch, device=device)[:, None]).flatten()
    rules = {"top_k": torch.full((batch,), 4, device=device)}
    if rule == "Fast-dLLM":
        rules = {"threshold": torch.full((batch,), 0.9, device=device), "min_one": True}

    def ours():
        stats = ops.vocab_stats(logits, 1, rows=rows)
        token, score = (t.view(batch, BLOCK) for t in (stats.ids, stats.confidence))
        return ops.unmask_select_(x, position, token, shape.mask, score=score, **rules)

    def published(logits=logits):
        if rule == "Fast-dLLM":
            return fast_dllm_step(logits, start, shape.mask, PROMPT + BLOCK, 0.9)
        return llada_step(logits, start, shape.mask, PROMPT + BLOCK, [4] * batch)

    def prepare():
        x.copy_(start)

    def check():  # 16-bit confidences tie where ours do not
        prepare()
        ours()
        assert torch.equal(x, published(logits.float()))

    return Case(
        f"step, {rule}",
        f"{name} B={batch} block={BLOCK} of L={length} {short(dtype)}",
        ours,
        {f"{rule}'s published step": published},
        check,
        moved=nbytes(logits) * BLOCK // length,
        dtype=dtype,
        prepare=prepare,
        cold=True,
    )


def recycling(name, dtype, device, kv_len=512):
    """Draft, verdict, commit of all layers and update, with the published tree of 81 nodes."""
    shape, tree = MODELS[name], TEMPLATES["2.2.2"]
    nodes = tree.nodes
    logits = confident(nodes, shape.vocab, dtype=dtype, device=device)
    given = logits.float().topk(8).indices
    adjacency = torch.zeros(shape.vocab, 8, dtype=torch.int32, device=device)
    chain = given[0, 0]
    adjacency[7, :2] = torch.stack([given[0, 1], chain])  # one node of the tree is right
    loop = RecyclingLoop(adjacency.long(), tree)
    sizes = 1, shape.kv_heads, kv_len + nodes, shape.head_dim
    caches = [torch.randn(sizes, device=device).to(dtype) for _ in range(2 * shape.layers)]
    theirs = [cache.clone() for cache in caches]
    keys, values = caches[: shape.layers], caches[shape.layers :]
    root = torch.tensor([7], device=device)
    parent, rank = (torch.tensor(t, device=device) for t in (tree.parent, tree.rank))
    count, length = (torch.tensor([n], device=device) for n in (nodes, kv_len))
    first = adjacency[7].clone()

    def ours():
        tokens = ops.recycle_draft(adjacency, root, parent, rank).long()
        stats = ops.vocab_stats(logits, 8)
        path = ops.tree_verify_greedy(tokens, stats.ids[:, 0][None], parent[None], count)
        ops.tree_commit_kv_(keys, values, length, path.path, path.n_accepted)
        ops.recycle_update_(adjacency, tokens, stats.ids[None])
        return path

    def published():
        return loop.after(logits, loop.draft(root), theirs, kv_len)

    def prepare():  # the same draft again
        adjacency[7], loop.adjacency[7] = first, first.long()

    def check():
        prepare()
        path, (accepted, root_after) = ours(), published()
        assert path.path[0, : len(accepted)].tolist() == accepted.tolist()
        assert int(path.n_accepted) == len(accepted) >= 2 and int(path.next_token) == root_after
        assert all(torch.equal(a, b) for a, b in zip(caches, theirs, strict=True))

    return Case(
        "step, Token Recycling",
        f"{name} B=1 N={nodes} {short(dtype)}",
        ours,
        {"Token Recycling's published step": published},
        check,
        moved=nbytes(logits),
        dtype=dtype,
        prepare=prepare,
        cold=True,
    )


def cases(device):
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    yield diffusion("LLaDA", "LLaDA-8B", 1, dtype, device)
    yield diffusion("Fast-dLLM", "LLaDA-8B", 1, dtype, device)
    yield recycling("Llama-2-7B", dtype, device)


def more(device):
    for name in ("LLaDA-8B", "Dream-7B"):
        for batch in (1, 4):
            yield diffusion("LLaDA", name, batch, torch.bfloat16, device)
            yield diffusion("Fast-dLLM", name, batch, torch.bfloat16, device)
    yield recycling("Llama-3-8B", torch.bfloat16, device)
    yield recycling("Qwen2.5-7B", torch.bfloat16, device)


if __name__ == "__main__":
    main(cases, more)
