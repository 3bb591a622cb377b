"""Samples of the ngram room."""

import torch

from samples import Sample
from samples.recycle import template
from samples.tree import random_tree
from tokenburst.ref import ngram as ref


def match(
    batch, capacity, k, vocab, *, dtype=torch.int64, layout="plain", fill="ragged", **options
):
    def make(device):
        g = torch.Generator().manual_seed(capacity * 10 + vocab)
        tokens = torch.randint(0, vocab, (batch, capacity), generator=g, dtype=dtype)
        low = 0 if fill == "ragged" else capacity
        length = torch.randint(low, capacity + 1, (batch,), generator=g)
        if layout == "slice":
            wide = torch.full((batch, capacity + 5), 3, dtype=dtype, device=device)
            wide[:, 2 : capacity + 2] = tokens.to(device)
            return (wide[:, 2 : capacity + 2], length.to(device), k), options
        if layout == "transposed":
            return (tokens.t().contiguous().to(device).t(), length.to(device), k), options
        return (tokens.to(device), length.to(device), k), options

    return make


def table(slots, width, vocab, g, used=0.0):
    """Filled by hashes of nothing in particular where `used`; learning makes the real ones."""
    key = torch.zeros(slots, dtype=torch.int64)
    count = torch.zeros(slots, dtype=torch.int32)
    ids = torch.full((slots, width), -1, dtype=torch.int32)
    probs = torch.zeros(slots, width)
    full = torch.rand(slots, generator=g) < used
    key[full] = torch.randint(1, 2**40, (int(full.sum()),), generator=g) * 2 + 1
    count[full] = torch.randint(1, 5, (int(full.sum()),), generator=g, dtype=torch.int32)
    return key, count, ids, probs


def nodes_of(batch, nodes, capacity, vocab, candidates, g):
    """Text, trees and what the target put after each node; few tokens, so contexts repeat."""
    text = torch.randint(0, vocab, (batch, capacity), generator=g)
    start = torch.randint(0, capacity + 1, (batch,), generator=g)
    tokens = torch.randint(-1, vocab, (batch, nodes), generator=g)
    parent = torch.tensor([random_tree(nodes, g)[:nodes] for _ in range(batch)], dtype=torch.int64)
    parent = parent.view(batch, nodes)
    ids = torch.randint(-1, 2 * vocab, (batch, nodes, candidates), generator=g)
    # Of a grid, so that means are exact and ties frequent.
    probs = torch.randint(0, 9, (batch, nodes, candidates), generator=g) / 64.0
    return text, start, tokens, parent, ids, probs


def update(batch, nodes, vocab, *, slots=64, width=10, candidates=10, used=0.0, **options):
    def make(device):
        g = torch.Generator().manual_seed(nodes * 10 + vocab)
        given = (
            *table(slots, width, vocab, g, used),
            *nodes_of(batch, nodes, 9, vocab, candidates, g),
        )
        kwargs = dict(options)
        if kwargs.pop("ragged", False):
            kwargs["n_nodes"] = torch.randint(0, nodes + 1, (batch,), generator=g).to(device)
        return tuple(t.to(device) for t in given), kwargs

    return make


def learned(slots, width, vocab, g, most=4, least=2):
    """A table that has seen random text."""
    key, count, ids, probs = table(slots, width, vocab, g)
    text, start, tokens, parent, _, _ = nodes_of(4, 60, 9, vocab, 1, g)
    top = torch.stack([torch.randperm(width + vocab, generator=g)[:width] for _ in range(240)])
    share = torch.rand(240, width, generator=g).softmax(1)
    ref.ngram_update_(
        *(key, count, ids, probs, text, start, tokens, parent),
        *(top.view(4, 60, width), share.view(4, 60, width)),
        most=most,
        least=least,
    )
    return key, ids, probs


def draft(batch, nodes, vocab, *, slots=256, width=10, heat=None, noise=True, dtype=torch.int64):
    def make(device):
        g = torch.Generator().manual_seed(nodes * 10 + vocab)
        key, ids, probs = learned(slots, width, vocab, g)
        text = torch.randint(0, vocab, (batch, 20), generator=g, dtype=dtype)
        start = torch.randint(3, 20, (batch,), generator=g, dtype=dtype)
        parent, rank = (t.to(dtype) for t in template(nodes, width, g))
        kwargs = {}
        if heat is not None:
            kwargs["temperature"] = torch.tensor(heat).repeat(batch)[:batch].to(device)
        if noise:
            kwargs["rng"] = torch.randint(0, 2**31, (batch, 3), generator=g).to(device)
        return tuple(t.to(device) for t in (key, ids, probs, text, start, parent, rank)), kwargs

    return make


CLOSE = {2: (1e-6, 1e-5)}  # probabilities by exp and log of another kind

SAMPLES = {
    "ngram_draft": [
        Sample("tree", draft(3, 30, 3), fields=CLOSE),
        Sample("empty-batch", draft(0, 5, 3), fields=CLOSE),
        Sample("no-nodes", draft(2, 0, 3), fields=CLOSE),
        Sample("root-alone", draft(2, 1, 3), fields=CLOSE),
        Sample("temperatures", draft(4, 25, 2, heat=[0.0, 0.3, 1.0, 2.5]), fields=CLOSE),
        Sample("certain", draft(3, 40, 3, noise=False, dtype=torch.int32), fields=CLOSE),
        Sample("narrow", draft(3, 20, 2, width=3, slots=8), fields=CLOSE),
    ],
    "ngram_match": [
        Sample("two-symbols", match(5, 40, 4, 2)),
        Sample("empty-batch", match(0, 9, 3, 4)),
        Sample("no-history", match(3, 0, 3, 4)),
        Sample("one-token", match(3, 1, 3, 4)),
        Sample("no-draft", match(3, 9, 0, 2)),
        Sample("whole", match(7, 33, 5, 3, whole=True)),
        Sample("whole-constant", match(3, 20, 4, 1, whole=True)),
        Sample("latest", match(7, 50, 6, 3, latest=True, dtype=torch.int32)),
        Sample("least-2", match(6, 37, 3, 5, least=2, most=5, layout="slice")),
        Sample("transposed", match(4, 21, 3, 3, layout="transposed")),
        Sample("long", match(2, 5000, 10, 20, most=4, fill="full")),
    ],
    "ngram_update_": [
        Sample("one-node", update(1, 1, 3)),
        Sample("empty-batch", update(0, 5, 3)),
        Sample("repeats", update(3, 40, 2)),
        Sample("evictions", update(2, 60, 5, slots=8)),
        Sample("ragged", update(4, 21, 3, slots=16, ragged=True, used=0.7, most=3, least=1)),
        Sample("narrow", update(2, 30, 2, width=2, candidates=7)),
        Sample("wide", update(2, 30, 2, width=16, candidates=3, most=8, least=8)),
    ],
}
