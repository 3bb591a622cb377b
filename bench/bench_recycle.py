"""Token Recycling: drafting from the adjacency matrix, learning from the verified tree."""

import torch

from bench_tree import NODES, template
from harness import Case, main, nbytes
from shapes import MODELS
from tokenburst import ops

K = 8


def ranks(parent):
    """Which child of its parent each node is."""
    parents = parent.tolist()
    return torch.tensor([parents[:i].count(p) for i, p in enumerate(parents)], device=parent.device)


def levels(parent, rank):
    """(nodes, their parents, their ranks) of each level below the root: made once per template."""
    result, above = [], torch.tensor([0], device=parent.device)
    while len(nodes := torch.isin(parent, above).nonzero().squeeze(1)):
        result.append((nodes, parent[nodes], rank[nodes]))
        above = nodes
    return result


def draft_eager(adjacency, root, by_level):
    tokens = root.new_empty(len(root), NODES)
    tokens[:, 0] = root
    for nodes, parents, rank in by_level:
        tokens[:, nodes] = adjacency[tokens[:, parents], rank].long()
    return tokens


def draft(batch, vocab, device):
    adjacency = torch.randint(0, vocab, (vocab, K), device=device, dtype=torch.int32)
    parent = template(1, device)[0]
    rank = ranks(parent) % K
    root = torch.randint(0, vocab, (batch,), device=device)
    by_level = levels(parent, rank)

    def ours():
        return ops.recycle_draft(adjacency, root, parent, rank)

    def eager():
        return draft_eager(adjacency, root, by_level)

    def check():
        assert torch.equal(ours(), eager())

    name = f"B={batch} N={NODES} V={vocab} K={K}"
    return Case("recycle_draft", name, ours, {"index by level": eager}, check, moved=nbytes(ours()))


def update(batch, vocab, device):
    adjacency = torch.full((vocab, K), -1, device=device, dtype=torch.int32)
    tokens = torch.stack([torch.randperm(vocab, device=device)[:NODES] for _ in range(batch)])
    ids = torch.randint(0, vocab, (batch, NODES, K), device=device)
    theirs = adjacency.clone()

    def ours():
        ops.recycle_update_(adjacency, tokens, ids)

    def eager():  # leaves open which of two equal tokens wins
        theirs[tokens.flatten()] = ids.flatten(0, 1).int()

    def check():
        ours(), eager()
        if batch == 1:
            assert torch.equal(adjacency, theirs)
        else:
            assert torch.equal(adjacency[tokens[-1]].long(), ids[-1])

    name = f"B={batch} N={NODES} V={vocab} K={K}"
    moved = nbytes(tokens, ids) + ids.numel() * adjacency.element_size()
    return Case("recycle_update_", name, ours, {"indexed assignment": eager}, check, moved)


def cases(device):
    for batch in (1, 32):
        yield draft(batch, MODELS["Llama-3-8B"].vocab, device)
        yield update(batch, MODELS["Llama-3-8B"].vocab, device)


if __name__ == "__main__":
    main(cases)
