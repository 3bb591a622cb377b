"""Prompt lookup over long histories; the n-gram table of stochastic drafts."""

import torch

from harness import Case, main, nbytes
from tokenburst import ops
from tokenburst.decoders.templates import TEMPLATES


def lookup_eager(tokens, k, most):
    """The search of the published implementations: windows of n tokens, one sync per row and n."""
    if len(tokens) > 1:
        return torch.stack([lookup_eager(row[None], k, most) for row in tokens])
    size = tokens.shape[1]
    for n in range(most, 0, -1):
        windows = tokens.unfold(1, n, 1)
        hits = (windows == tokens[0, size - n :]).all(2)[0, : size - n].nonzero()
        if len(hits):
            start = int(hits[0]) + n
            return tokens[0, start : start + k]
    return tokens[0, :0]


def match(length, dtype, device, batch=1):
    # The 3-gram at the end has stood in the middle once; its last token alone is frequent.
    tokens = torch.randint(0, 1000, (batch, length), device=device, dtype=dtype)
    tokens[:, length // 2 : length // 2 + 3] = tokens[:, -3:] = torch.tensor([1001, 1002, 7])
    count = torch.full((batch,), length, device=device)

    def ours():
        return ops.ngram_match(tokens, count, 10)

    def eager():
        return lookup_eager(tokens, 10, 3)

    def check():
        assert torch.equal(ours().draft, eager().long().view(batch, -1))

    name = f"B={batch} L={length} k=10 {str(dtype).removeprefix('torch.')}"
    return Case(
        "ngram_match", name, ours, {"unfold and compare": eager}, check, nbytes(tokens) // 2
    )


class Dictionary:
    """The table as a Python dictionary, which is how it is published."""

    def __init__(self, most=4, least=2):
        self.seen, self.lengths = {}, range(least, most + 1)

    def update(self, text, start, tokens, parent, ids, probs):
        for b, row in enumerate(tokens.tolist()):
            paths = [text[b, : int(start[b])].tolist()]
            for i, token in enumerate(row):
                paths.append(paths[int(parent[b, i]) + 1] + [token])
                self.learn(paths[-1], ids[b, i].tolist(), probs[b, i].tolist())

    def learn(self, path, ids, probs):
        new = dict(zip(ids, probs, strict=True))
        for n in self.lengths:
            count, mean = self.seen.get(key := tuple(path[-n:]), (0, {}))
            both = {t: (mean.get(t, 0) * count + new.get(t, 0)) for t in mean | new}
            best = sorted(both.items(), key=lambda entry: -entry[1])[:10]
            self.seen[key] = count + 1, {t: p / (count + 1) for t, p in best}

    def draft(self, text, start, parent, rank):
        for row, end in zip(text.tolist(), start.tolist(), strict=True):
            self.draft_one(row[: end + 1], parent, rank)

    def draft_one(self, text, parent, rank):
        paths, drawn = [text], []
        for i in range(len(parent)):
            if i:
                options = drawn[int(parent[i])]
                token = options[int(rank[i])] if int(rank[i]) < len(options) else -1
                paths.append(paths[int(parent[i])] + [token])
            keys = (tuple(paths[-1][-n:]) for n in reversed(self.lengths))
            mean = next((self.seen[k][1] for k in keys if k in self.seen), {0: 1.0})
            p = torch.tensor(list(mean.values()))
            order = (p.log() - torch.empty_like(p).exponential_().log()).argsort(descending=True)
            drawn.append(torch.tensor(list(mean))[order].tolist())


def table(device, batch=1):
    """Cases over the tree of 80 candidates; few tokens, so that contexts are met again."""
    shape, g = TEMPLATES["2.2.2"], torch.Generator().manual_seed(0)
    nodes = shape.nodes
    key, count = torch.zeros(1 << 16, dtype=torch.int64), torch.zeros(1 << 16, dtype=torch.int32)
    ids, probs = torch.full((1 << 16, 10), -1, dtype=torch.int32), torch.zeros(1 << 16, 10)
    text, tokens = (torch.randint(0, 30, (batch, n), generator=g) for n in (100, nodes))
    top = torch.rand(batch, nodes, 30, generator=g).argsort(2)[..., :10]
    share = torch.rand(batch, nodes, 10, generator=g).softmax(2)
    start, parent, rank = torch.full((batch,), 99), *map(torch.tensor, (shape.parent, shape.rank))
    given = text, start, tokens, parent.expand(batch, -1), top, share
    key, count, ids, probs, *given = (t.to(device) for t in (key, count, ids, probs, *given))
    rng = torch.tensor([[1, b, 3] for b in range(batch)], device=device)
    parent, rank, theirs = parent.to(device), rank.to(device), Dictionary()

    def update():
        ops.ngram_update_(key, count, ids, probs, *given)

    def draft():
        return ops.ngram_draft(key, ids, probs, given[0], given[1], parent, rank, rng=rng)

    def check():
        update(), theirs.update(*given)
        assert bool((draft().tokens >= 0).any())

    moved = batch * 3 * nodes * 2 * 92
    name = f"B={batch} N={nodes} K=10 n=4..2"
    slow = {"dictionary": lambda: theirs.update(*given)}
    yield Case("ngram_update_", name, update, slow, check, moved)
    slow = {"dictionary": lambda: theirs.draft(given[0], given[1], parent, rank)}
    yield Case("ngram_draft", name, draft, slow, check, batch * nodes * 92)


def cases(device):
    yield from table(device)
    yield match(4096, torch.int64, device)
    yield match(131072, torch.int64, device)
    yield match(131072, torch.int32, device)


if __name__ == "__main__":
    main(cases)
