"""Sampling with draft trees: drafts, and verification in every mode, against eager code."""

from functools import partial

import torch

from eager_verify import MODES, Tree, by_inverse, by_multinomial, filtered
from harness import Case, main, nbytes, short
from tokenburst import ops
from tokenburst.ref import verify as ref

V = 128256
OTHERS = 32000, 152064  # vocabularies of other models
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


def draft_case(rows, k, dtype, device, vocab=V):
    logits = logits_of(rows, vocab, device=device).to(dtype)
    t, rng = torch.ones(rows, device=device), torch.arange(rows, device=device)
    rng = rng[:, None].repeat(1, 4)

    def check():
        got = ops.vocab_sample(logits, k, t, rng)
        want = logits.float().log_softmax(-1).gather(1, got.ids)
        torch.testing.assert_close(got.logq, want, rtol=1e-4, atol=1e-4)

    return Case(
        "vocab_sample",
        f"[{rows},{vocab}] k={k} {short(dtype)}",
        lambda: ops.vocab_sample(logits, k, t, rng),
        {
            "log_softmax + noise + topk": lambda: sample_eager(logits, k),
            "softmax + multinomial": lambda: multinomial_eager(logits, k),
        },
        check,
        moved=nbytes(logits),
        dtype=dtype,
    )


def row_of(logits, filters, node):
    return filtered(logits[node], filters)


def verify_case(mode, device, filters=None, batch=1, nodes=17, dtype=torch.float32, vocab=V):
    """The target rejects most of what is drafted, so that residuals are formed."""
    filters = filters or {}
    logits, draft = (logits_of(batch, nodes + i, vocab, device=device)[:, :nodes] for i in range(2))
    logits, draft = logits.to(dtype), draft.to(dtype)
    chain = mode == "block"
    parent = [-1] + [i - 1 if chain else (i - 1) // 4 for i in range(1, nodes)]
    rng = torch.arange(4, device=device).repeat(nodes * batch, 1)
    rng[:, 3] = torch.arange(nodes * batch, device=device)
    t = torch.ones(nodes * batch, device=device)
    independent = mode in ("rrs_wr", "kseq")
    drawn = ops.vocab_sample(draft.flatten(0, 1), 4, t, rng, replacement=independent).ids
    drawn = drawn.view(batch, nodes, 4).tolist()
    tokens = [
        [0] + [row[parent[i]][0 if chain else (i - 1) % 4] for i in range(1, nodes)]
        for row in drawn
    ]
    given = {k: torch.full((batch,), v, device=device) for k, v in filters.items()}
    if mode != "walk":
        given["draft_logits"] = draft
    position = torch.zeros(batch, 3, dtype=torch.int64, device=device)
    position[:, 1] = torch.arange(batch, device=device)
    args = [
        torch.tensor(tokens, device=device),
        torch.tensor([parent] * batch, device=device),
        torch.full((batch,), nodes, device=device),
        logits,
        mode,
        position,
    ]
    # The tree of one sequence for eager code, with functions that give its rows.
    trees = [(Tree(row, parent), logits[b], draft[b]) for b, row in enumerate(tokens)]

    def ours():
        position.add_(7)  # other random numbers each time, as in the eager code
        return ops.tree_verify_sample(*args, **given)

    def eager(draw):
        for tree, x, y in trees:
            p, q = partial(row_of, x, filters), partial(row_of, y, {})
            MODES[mode](tree, p, q, draw)

    def reference():
        position.add_(7)
        return ref.tree_verify_sample(*args, **given)

    def check():  # the law is the tests' business; these two must agree bit for bit
        position.zero_()
        got = ours()
        position.zero_()
        assert all(torch.equal(a, b) for a, b in zip(got, reference(), strict=True))

    name = " ".join([mode, f"B={batch} N={nodes} V={vocab} {short(dtype)}", *filters])
    rows = 1 if mode == "walk" else nodes * 2 - 1 if chain else 2  # at the least, the root's
    moved = batch * rows * vocab * logits.element_size()
    baselines = {
        "eager, multinomial": lambda: eager(by_multinomial),
        "eager, inverse sum": lambda: eager(by_inverse),
        "plain-torch reference": reference,
    }
    return Case("tree_verify_sample", name, ours, baselines, check, moved, dtype=dtype)


def cases(device):
    for dtype in (torch.float32, torch.bfloat16):
        yield draft_case(16, 8, dtype, device)
    yield draft_case(1, 8, torch.float32, device)
    for vocab in OTHERS:
        yield draft_case(16, 8, torch.bfloat16, device, vocab)
    for mode in MODES:
        yield verify_case(mode, device)
    for mode in MODES:
        yield verify_case(mode, device, FILTERS)
    yield verify_case("walk", device, {"top_p": 0.9})


def more(device):
    for vocab in (V, *OTHERS):
        yield draft_case(64, 8, torch.bfloat16, device, vocab)
    for vocab in OTHERS:
        for mode in ("walk", "rrs", "block"):
            yield verify_case(mode, device, vocab=vocab)
    for mode in MODES:
        yield verify_case(mode, device, batch=8)
        yield verify_case(mode, device, FILTERS, batch=8)
        yield verify_case(mode, device, dtype=torch.bfloat16)


if __name__ == "__main__":
    main(cases, more)
