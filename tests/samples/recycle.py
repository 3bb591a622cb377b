"""Samples of the recycle room."""

import torch

from samples import Sample
from samples.tree import random_tree


def matrix(vocab, ranks, groups, g, layout="plain"):
    """Small vocabularies repeat tokens; some entries are unseen, some rows do not start aligned."""
    shape = (vocab, ranks) if groups is None else (groups, vocab, ranks)
    ids = torch.randint(-1, vocab, shape, generator=g, dtype=torch.int32)
    if layout == "padded":
        wide = torch.full((*shape[:-1], ranks + 3), 77, dtype=torch.int32)
        wide[..., 1 : ranks + 1] = ids
        ids = wide[..., 1 : ranks + 1]
    return ids


def to(t, device, layout):
    if layout == "plain":
        return t.to(device)
    size = t.untyped_storage().nbytes() // t.element_size()
    storage = torch.as_strided(t, (size,), (1,), 0).to(device)
    return torch.as_strided(storage, t.shape, t.stride(), t.storage_offset())


def template(nodes, ranks, g):
    """Siblings are ranked in node order from 0, as a template lists them."""
    parent = random_tree(nodes, g)
    taken: dict[int, int] = {}
    rank = []
    for up in parent:
        rank.append(taken.get(up, 0) % ranks)
        taken[up] = taken.get(up, 0) + 1
    return torch.tensor(parent[:nodes]), torch.tensor(rank[:nodes])


def draft(batch, nodes, vocab, ranks, *, groups=None, dtype=torch.int64, layout="plain", unseen=0):
    def make(device):
        g = torch.Generator().manual_seed(nodes * 100 + vocab)
        adjacency = matrix(vocab, ranks, groups, g, layout)
        if unseen:
            adjacency[torch.rand(adjacency.shape, generator=g) < unseen] = -1
            adjacency[..., -1, 0] = vocab  # a foreign id is none
        root = torch.randint(-1 if unseen else 0, vocab, (batch,), generator=g, dtype=dtype)
        parent, rank = (t.to(dtype) for t in template(nodes, ranks, g))
        kwargs = {}
        if groups is not None:
            kwargs["group"] = torch.randint(0, groups, (batch,), generator=g).to(device)
        args = to(adjacency, device, layout), root.to(device), parent.to(device), rank.to(device)
        return args, kwargs

    return make


def update(
    batch,
    nodes,
    vocab,
    ranks,
    *,
    extra=0,
    groups=None,
    ragged=False,
    dtype=torch.int64,
    layout="plain",
):
    def make(device):
        g = torch.Generator().manual_seed(nodes * 100 + vocab + batch)
        adjacency = matrix(vocab, ranks, groups, g, layout)
        tokens = torch.randint(-1, vocab + 1, (batch, nodes), generator=g, dtype=dtype)
        shape = (batch, nodes, ranks + extra)
        ids = torch.randint(-1, vocab, shape, generator=g, dtype=dtype)
        kwargs = {}
        if ragged:
            kwargs["n_nodes"] = torch.randint(0, nodes + 1, (batch,), generator=g).to(device)
        if groups is not None:
            kwargs["group"] = torch.randint(0, groups, (batch,), generator=g).to(device)
        return (to(adjacency, device, layout), tokens.to(device), ids.to(device)), kwargs

    return make


SAMPLES = {
    "recycle_draft": [
        Sample("one-node", draft(2, 1, 5, 1)),
        Sample("empty-batch", draft(0, 9, 5, 2)),
        Sample("no-nodes", draft(2, 0, 5, 2)),
        Sample("template-81", draft(3, 81, 101, 8)),
        Sample("unseen", draft(5, 40, 7, 3, unseen=0.3)),
        Sample("grouped-int32", draft(6, 33, 11, 4, groups=3, dtype=torch.int32)),
        Sample("padded-rows", draft(2, 33, 13, 5, groups=2, layout="padded")),
        Sample("wide-1100", draft(1, 1100, 50, 8), opcheck=False),
    ],
    "recycle_update_": [
        Sample("one-entry", update(1, 1, 5, 2)),
        Sample("empty-batch", update(0, 9, 5, 2)),
        Sample("duplicates", update(3, 81, 13, 8)),
        Sample("many-blocks", update(9, 50, 300, 4, extra=3)),
        Sample("ragged", update(6, 31, 9, 3, ragged=True, extra=1, dtype=torch.int32)),
        Sample("grouped", update(7, 40, 6, 8, groups=3, ragged=True)),
        Sample("padded-rows", update(4, 33, 13, 8, groups=2, layout="padded")),
    ],
}
