"""The distribution of `tree_verify_sample`: exact rationals, and every known way to get it wrong.

Limits are 4.5 sigma for acceptance and 5 for chi-square, so a right op fails about once in 10^5.
"""

import pytest
import torch

from tokenburst import ops
from toys import (
    P2,
    Q2,
    T3,
    T3X2_JOINT,
    T4A,
    chi2,
    close,
    draft,
    emitted,
    star,
    streams,
    two_levels,
    verify,
)

N = 1_000_000
TABLE = [  # mode, toy, k, probability that a draft is accepted
    ("rrs", T3, 1, 7 / 10),
    ("rrs", T3, 2, 31 / 40),
    ("rrs", T3, 3, 1),
    ("rrs", T4A, 2, 107 / 140),
    ("rrs", T4A, 3, 14117 / 16800),
    ("rrs_wr", T3, 2, 73 / 100),
    ("rrs_wr", T3, 3, 757 / 1000),
    ("rrs_wr", T4A, 2, 18 / 25),
    ("rrs_wr", T4A, 3, 96 / 125),
    ("kseq", T3, 2, 3 / 4),
    ("kseq", T3, 3, 0.79394997),
    ("kseq", T4A, 2, 3 / 4),
    ("block", T4A, 1, 3 / 5),
    ("walk", T3, 2, 0.629286),
]


def first_tokens(mode, args, **kwargs):
    """Emitted tokens, and how many were drafted ones."""
    out = verify(mode, args, **kwargs)
    return emitted(out, args["tokens"], 1)[:, 0], int((out.n_accepted > 1).sum())


@pytest.mark.parametrize(
    ("mode", "toy", "k", "alpha"), TABLE, ids=[f"{m}-V{len(t[0])}-k{k}" for m, t, k, _ in TABLE]
)
def test_one_step(mode, toy, k, alpha):
    q = toy[1].expand(N, -1)
    args = star(toy, draft(q, k, salt=k, replacement=mode in ("rrs_wr", "kseq")))
    token, accepted = first_tokens(mode, args)
    assert close(accepted, N, alpha), accepted / N
    assert chi2(token, toy[0]) < 1


def two_step_tokens(mode, args, **kwargs):
    """The first two tokens as one number; a step that gave one is followed by plain sampling."""
    n = len(args["tokens"])
    out = verify(mode, args, **kwargs)
    pair = emitted(out, args["tokens"], 2)
    following = {
        "tokens": pair[:, :1],
        "parent": torch.full((n, 1), -1),
        "n_nodes": torch.ones(n, dtype=torch.int64),
        "logits": P2[pair[:, :1]].log(),
    }
    plain = verify("walk", following, rng=streams(n, position=101)).next_token
    pair[:, 1] = torch.where(pair[:, 1] < 0, plain, pair[:, 1])
    return pair[:, 0] * 3 + pair[:, 1], (out.n_accepted - 1).double()


def drawn_tree(shape, replacement=False, n=N):
    a, c = shape
    first = draft(T3[1].expand(n, -1), a, salt=11, replacement=replacement)
    second = draft(Q2[first].reshape(-1, 3), c, salt=12, replacement=replacement)
    return two_levels(first, second.view(n, a, c))


TWO_LEVELS = [  # mode, children per level, expected number of accepted drafts
    ("rrs", (1, 1), 121 / 100),
    ("rrs", (1, 2), 4539 / 3500),
    ("rrs", (2, 1), 133 / 100),
    ("rrs", (2, 2), 10023 / 7000),
    ("rrs_wr", (2, 2), None),
    ("kseq", (2, 1), None),
    ("walk", (2, 2), None),
]


@pytest.mark.parametrize(("mode", "shape", "mean"), TWO_LEVELS)
def test_two_steps(mode, shape, mean):
    args = drawn_tree(shape, replacement=mode in ("rrs_wr", "kseq"))
    pair, accepted = two_step_tokens(mode, args)
    assert chi2(pair, T3X2_JOINT) < 1
    if mean is not None:
        assert abs(accepted.mean() - mean) < 4.5 * accepted.std() / N**0.5


def test_sequences_that_share_a_prefix_stay_attempts():
    # K = 2 sequences of two tokens; where the first tokens agree, the tree has one node for both.
    first = draft(T3[1].expand(N, -1), 2, salt=21, replacement=True)
    second = draft(Q2[first].reshape(-1, 3), 1, salt=22).view(N, 2, 1)
    args = two_levels(first, second)
    same = first[:, 0] == first[:, 1]
    args["draws"] = torch.tensor([1, 2, 3, 4]).repeat(N, 1)
    args["draws"][same, 1] = 1
    args["parent"] = args["parent"].clone()
    args["parent"][same, 4] = 1
    pair, accepted = two_step_tokens("kseq", args)
    assert chi2(pair, T3X2_JOINT) < 1
    assert abs(accepted.mean() - 1.32158088) < 4.5 * accepted.std() / N**0.5


def test_stochastic_beam_in_draw_order_and_in_another():
    pair, accepted = two_step_tokens("rrs", beam_tree(by_draw=True))
    assert chi2(pair, T3X2_JOINT) < 1
    assert abs(accepted.mean() - 1.3308) < 4.5 * (0.0013 + accepted.std() / N**0.5)
    assert chi2(two_step_tokens("rrs", beam_tree(by_draw=False))[0], T3X2_JOINT) > 1


def beam_tree(by_draw, n=N):
    """RSD-S of width 2 and two levels; siblings in draw order or in the order of their ids."""
    stream = torch.stack([torch.full((n,), 17), torch.arange(n)], 1)
    rng = torch.cat([stream, torch.tensor([[31, 3]]).expand(n, 2)], 1)
    zero = torch.zeros(n)
    top = ops.vocab_sample(
        T3[1].log().expand(n, 3), 2, torch.ones(n), rng, parent_g=zero, parent_phi=zero
    )
    step = torch.tensor([[32, 4], [32, 5]]).repeat(n, 1)
    low = ops.vocab_sample(
        Q2[top.ids].reshape(-1, 3).log(),
        2,
        torch.ones(2 * n),
        torch.cat([stream.repeat_interleave(2, 0), step], 1),
        parent_g=top.g.flatten(),
        parent_phi=top.logq.flatten(),
    )
    chosen = low.g.view(n, 4).topk(2).indices.sort(1).values  # siblings stay in draw order
    args = two_levels(top.ids, low.ids.view(n, 4).gather(1, chosen).view(n, 2, 1))
    args["parent"] = torch.cat([args["parent"][:, :3], 1 + chosen // 2], 1)
    if not by_draw:
        return by_id(args)
    return args


def by_id(args):
    """The same tree with each pair of siblings sorted by token."""
    tokens, parent = args["tokens"].clone(), args["parent"].clone()
    logits, rows = args["logits"].clone(), args["draft_logits"].clone()
    swap = tokens[:, 1] > tokens[:, 2]
    for t in (tokens, logits, rows):
        t[swap, 1:3] = t[swap][:, [2, 1]]
    parent[swap, 3:] = 3 - parent[swap, 3:]
    swap = (parent[:, 3] == parent[:, 4]) & (tokens[:, 3] > tokens[:, 4])
    tokens[swap, 3:] = tokens[swap][:, [4, 3]]
    return args | {"tokens": tokens, "parent": parent, "logits": logits, "draft_logits": rows}


def test_certain_drafts_are_verified_with_all_of_their_probability():
    # A table's top-2 of T3 as certain tokens: no rule can accept more than p of the set.
    args = star(T3, torch.tensor([[0, 1]]).expand(N, 2))
    for row in (-1, None):
        given = {**args, "draft_row": args["draft_row"] - 1}
        if row is None:
            del given["draft_row"], given["draft_logits"]
        token, accepted = first_tokens("rrs", given)
        assert close(accepted, N, 0.6) and chi2(token, T3[0]) < 1
    token, accepted = first_tokens("walk", args)
    assert close(accepted, N, 0.6) and chi2(token, T3[0]) < 1


def test_drafts_of_two_rows_and_a_certain_one_merge():
    # Two draft models and a table propose siblings; the same token may come twice.
    p, q = T4A
    other = torch.tensor([0.1, 0.1, 0.1, 0.7])
    mine, theirs = (draft(x.expand(N, -1), 2, salt=40 + i) for i, x in enumerate((q, other)))
    tokens = torch.stack([mine[:, 0], theirs[:, 0], torch.full((N,), 2), mine[:, 1]], 1)
    args = star(T4A, tokens)
    args["draft_logits"] = torch.stack([q, other]).log().expand(N, 2, 4)
    args["draft_row"] = torch.tensor([[0, 0, 1, -1, 0]]).expand(N, 5)
    token, accepted = first_tokens("rrs", args)
    assert chi2(token, p) < 1 and accepted / N > 14117 / 16800
