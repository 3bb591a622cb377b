"""Sampling with draft trees: drafts, and verification in every mode, against eager code."""

import torch

from harness import Case, main, nbytes, short
from tokenburst import ops

V = 128256
FILTERS = {"top_k": 50, "top_p": 0.9}


def logits_of(*shape, device):
    """Rows as a language model gives them: one narrow peak over a wide rest."""
    g = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(*shape, generator=g) * 2 + torch.rand(shape, generator=g) ** 64 * 12).to(
        device
    )


def sample_eager(logits, k):
    """Gumbel top-k and log probabilities, as drafters write it."""
    logq = logits.float().log_softmax(-1)
    noise = torch.empty_like(logq).exponential_().log_()
    ids = (logq - noise).topk(k).indices
    return ids, logq.gather(1, ids)


def multinomial_eager(logits, k):
    q = logits.float().softmax(-1)
    ids = q.multinomial(k)
    return ids, q.gather(1, ids).log()


def draft_case(rows, k, dtype, device):
    logits = logits_of(rows, V, device=device).to(dtype)
    t, rng = torch.ones(rows, device=device), torch.arange(rows, device=device)
    rng = rng[:, None].repeat(1, 4)

    def check():
        got = ops.vocab_sample(logits, k, t, rng)
        want = logits.float().log_softmax(-1).gather(1, got.ids)
        torch.testing.assert_close(got.logq, want, rtol=1e-4, atol=1e-4)

    return Case(
        "vocab_sample",
        f"[{rows},{V}] k={k} {short(dtype)}",
        lambda: ops.vocab_sample(logits, k, t, rng),
        {
            "log_softmax + noise + topk": lambda: sample_eager(logits, k),
            "softmax + multinomial": lambda: multinomial_eager(logits, k),
        },
        check,
        moved=nbytes(logits),
        dtype=dtype,
    )


def filtered(row, filters):
    """softmax of one row [V] after transformers' top-k and top-p."""
    x = row.float()
    if "top_k" in filters:
        x = x.masked_fill(x < x.topk(filters["top_k"]).values[-1], -torch.inf)
    if "top_p" in filters:
        ordered, ids = x.sort()
        out = ordered.softmax(-1).cumsum(-1) <= 1 - filters["top_p"]
        out[-1] = False
        x = x.masked_fill(out.scatter(0, ids, out), -torch.inf)
    return x.softmax(-1)


def walk_eager(tokens, parent, logits, filters):
    node, path = 0, [0]
    while True:
        y = int(filtered(logits[node], filters).multinomial(1))
        below = [i for i in range(node + 1, len(tokens)) if parent[i] == node and tokens[i] == y]
        if not below:
            return path, y
        node = below[0]
        path.append(node)


def reject_eager(tokens, parent, logits, draft, filters, replacement):
    """Recursive rejection sampling as in the published decoders, one row of p and q at a time."""
    node, path = 0, [0]
    while True:
        p, q = filtered(logits[node], filters), draft[node].float().softmax(-1)
        child = -1
        for i in range(node + 1, len(tokens)):
            if parent[i] != node:
                continue
            y = tokens[i]
            if float(torch.rand(())) * float(q[y]) < float(p[y]):
                child = i
                break
            p = (p - q).clamp_min_(0)
            p /= p.sum()
            if not replacement:
                q = q.clone()
                q[y] = 0
                q /= q.sum()
        if child < 0:
            return path, int(p.multinomial(1))
        node = child
        path.append(node)


def verify_case(mode, device, filters=None, nodes=17):
    """One sequence; the target rejects most of what is drafted, so that residuals are formed."""
    filters = filters or {}
    logits, draft = (logits_of(1, nodes + i, V, device=device)[:, :nodes] for i in range(2))
    parent = [-1] + [(i - 1) // 4 for i in range(1, nodes)]
    if mode == "block":
        parent = list(range(-1, nodes - 1))
    rng = torch.arange(4, device=device).repeat(nodes, 1)
    rng[:, 3] = torch.arange(nodes, device=device)
    t = torch.ones(nodes, device=device)
    drawn = ops.vocab_sample(draft[0], 4, t, rng, replacement=mode in ("rrs_wr", "kseq"))
    tokens = [0] + [int(drawn.ids[parent[i], (i - 1) % 4]) for i in range(1, nodes)]
    args = [torch.tensor([x], device=device) for x in (tokens, parent)]
    args += [torch.tensor([nodes], device=device), logits, mode]
    given = {k: torch.tensor([v], device=device) for k, v in filters.items()}
    if mode != "walk":
        given["draft_logits"] = draft
    position = torch.zeros(1, 3, dtype=torch.int64, device=device)

    def ours():
        position.add_(7)  # other random numbers each time, as in the eager code
        return ops.tree_verify_sample(*args, position, **given)

    def eager():
        if mode == "walk":
            return walk_eager(tokens, parent, logits[0], filters)
        return reject_eager(tokens, parent, logits[0], draft[0], filters, mode != "rrs")

    def check():
        out = ours()
        assert 1 <= int(out.n_accepted) <= nodes and 0 <= int(out.next_token) < V

    name = " ".join([mode, f"N={nodes} V={V}", *filters])
    rows = 1 if mode == "walk" else 2  # at the least, the root's
    moved = rows * V * 4
    return Case("tree_verify_sample", name, ours, {"row by row": eager}, check, moved)


def cases(device):
    for dtype in (torch.float32, torch.bfloat16):
        yield draft_case(16, 8, dtype, device)
    yield verify_case("walk", device)
    yield verify_case("walk", device, FILTERS)
    yield verify_case("walk", device, {"top_p": 0.9})
    for mode in ("rrs", "rrs_wr", "kseq", "block"):
        yield verify_case(mode, device)
    yield verify_case("rrs", device, FILTERS)


if __name__ == "__main__":
    main(cases)
