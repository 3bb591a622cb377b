"""Draft trees: build, merge, greedy verification, and the text."""

import torch

from harness import Case, main, nbytes
from tokenburst import ops

NODES, DEPTH = 81, 6


def template(batch, device):
    """Parents [B, N] of a tree as drafters make them: wide near the root, narrow below."""
    parent = [-1] + [0] * 8 + [1 + i % 8 for i in range(24)] + [9 + i % 16 for i in range(24)]
    parent += [33 + i % 12 for i in range(16)] + [57 + i % 8 for i in range(8)]
    return torch.tensor(parent, dtype=torch.int64, device=device).repeat(batch, 1)


def build_eager(parent):
    """Who sees whom, by squaring the matrix of parents; depths from the number of ancestors."""
    eye = torch.eye(NODES, device=parent.device)
    sees = eye + eye[parent] * (parent >= 0)[..., None]
    for _ in range((DEPTH - 1).bit_length()):
        sees = (sees @ sees).clamp(max=1)
    sees = sees.bool()
    return sees.sum(-1) - 1, sees


def build(batch, device):
    parent = template(batch, device)
    count = torch.full((batch,), NODES, device=device)

    def check():
        built, (depth, sees) = ops.tree_build(parent, count), build_eager(parent)
        bits = built.ancestors[..., None] >> torch.arange(32, device=device) & 1
        assert torch.equal(built.depth.long(), depth)
        assert torch.equal(bits.flatten(2)[..., :NODES].bool(), sees)

    return Case(
        "tree_build",
        f"B={batch} N={NODES}",
        lambda: ops.tree_build(parent, count),
        {"matmul of parent matrix (no links)": lambda: build_eager(parent)},
        check,
        moved=nbytes(parent, *ops.tree_build(parent, count)),
    )


def merge_eager(tokens, parent):
    """Level by level, every node against every other."""
    node = torch.arange(NODES, device=tokens.device).expand_as(tokens)
    index = node
    for _ in range(DEPTH):
        up = node.gather(1, parent.clamp(min=0))
        same = (up[:, :, None] == up[:, None]) & (tokens[:, :, None] == tokens[:, None])
        same[:, 0, 1:] = same[:, 1:, 0] = False
        node = torch.where(same, index[:, None], NODES).amin(2)
    return torch.where(node == index, tokens, -1), node


def merge(batch, device):
    parent = template(batch, device)
    tokens = torch.randint(0, 4, (batch, NODES), device=device)

    def check():
        got, (merged, node) = ops.tree_merge(tokens, parent), merge_eager(tokens, parent)
        assert torch.equal(got.tokens, merged) and torch.equal(got.node.long(), node)

    return Case(
        "tree_merge",
        f"B={batch} N={NODES}",
        lambda: ops.tree_merge(tokens, parent),
        {"all pairs by level": lambda: merge_eager(tokens, parent)},
        check,
        moved=nbytes(tokens, parent, *ops.tree_merge(tokens, parent)),
    )


def paths_of(parent):
    """[leaves, DEPTH] node indices from the root down, padded with the root: made once."""
    paths = []
    for node in set(range(NODES)) - set(parent.tolist()):
        path = [node]
        while path[0] > 0:
            path.insert(0, int(parent[path[0]]))
        paths.append(path + [0] * (DEPTH - len(path)))
    return torch.tensor(paths, device=parent.device)


def verify_eager(tokens, argmax, paths):
    """Matches along every path; the padding must not match, as the root's token is no argmax."""
    drafted, chosen = tokens[:, paths], argmax[:, paths]
    accepted = (drafted[..., 1:] == chosen[..., :-1]).long().cumprod(-1).sum(-1)
    length, best = accepted.max(-1)
    last = chosen[torch.arange(len(tokens), device=tokens.device), best, length]
    return length + 1, last


def verify(batch, device):
    parent = template(batch, device)
    count = torch.full((batch,), NODES, device=device)
    tokens = torch.randint(0, 3, (batch, NODES), device=device)
    argmax = torch.randint(0, 3, (batch, NODES), device=device)
    tokens[:, 0] = 9
    paths = paths_of(parent[0])

    def check():
        accepted = ops.tree_verify_greedy(tokens, argmax, parent, count).n_accepted
        assert torch.equal(accepted.long(), verify_eager(tokens, argmax, paths)[0])

    return Case(
        "tree_verify_greedy",
        f"B={batch} N={NODES}",
        lambda: ops.tree_verify_greedy(tokens, argmax, parent, count),
        {"gather + cumprod over given paths": lambda: verify_eager(tokens, argmax, paths)},
        check,
        moved=nbytes(tokens, argmax, parent),
    )


def append_eager(text, length, root, active, rng, end, tokens, path, count, following, eos):
    """The same state by scatters and masks."""
    below = torch.nn.functional.pad(path[:, 1:], (0, 1), value=-1).long()
    new = torch.where(below < 0, following[:, None], tokens.gather(1, below.clamp(min=0)))
    column = torch.arange(NODES, device=text.device)
    taken = torch.minimum(count, end - length)
    place = torch.where(column < taken[:, None], length[:, None] + column, text.shape[1] - 1)
    text.scatter_(1, place, new)
    ends = (new[:, :, None] == eos).any(2) & (column < taken[:, None])
    first = torch.where(ends, column, NODES).amin(1)
    taken = torch.minimum(taken, first + 1).to(torch.int32)
    length += taken
    rng[:, 2] += taken
    active &= (first == NODES) & (length < end)
    root.copy_(torch.where(active, following, root))
    return taken


def append(batch, device):
    parent = template(batch, device)
    tokens = torch.randint(0, 50, (batch, NODES), device=device)
    path = torch.full((batch, NODES), -1, dtype=torch.int32, device=device)
    path[:, :4] = torch.tensor([0, 1, 9, 33], device=device)
    count, end = (torch.full((batch,), n, dtype=torch.int32, device=device) for n in (4, 500))
    following, eos = parent[:, 1] + 7, torch.tensor([60], device=device)

    def state():
        return [
            torch.zeros(batch, 512, dtype=torch.int64, device=device),
            torch.full((batch,), 100, dtype=torch.int32, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
            torch.ones(batch, dtype=torch.bool, device=device),
            torch.zeros(batch, 3, dtype=torch.int64, device=device),
        ]

    rest, now = (end, tokens, path, count, following), state()
    fresh = state()

    def prepare():
        for mine, first in zip(now, fresh, strict=True):
            mine.copy_(first)

    def check():
        mine, theirs = state(), state()
        got = ops.tree_append_(*mine, *rest, eos=eos), append_eager(*theirs, *rest, eos)
        assert torch.equal(*got) and all(map(torch.equal, mine[1:], theirs[1:]))
        assert torch.equal(mine[0][:, :-1], theirs[0][:, :-1])

    return Case(
        "tree_append_",
        f"B={batch} N={NODES}, 4 accepted",
        lambda: ops.tree_append_(*now, *rest, eos=eos),
        {"scatters and masks": lambda: append_eager(*now, *rest, eos)},
        check,
        moved=batch * 4 * 24 + nbytes(*now[1:]),
        prepare=prepare,
    )


def cases(device):
    for batch in (1, 32):
        yield build(batch, device)
        yield merge(batch, device)
        yield verify(batch, device)
        yield append(batch, device)


if __name__ == "__main__":
    main(cases)
