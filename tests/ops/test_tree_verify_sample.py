"""What the samples cannot say about `tree_verify_sample`: messages, exact cases, invariances."""

from fractions import Fraction as F

import pytest
import torch

from tokenburst import _C, ops
from toys import P2, Q2, T3, T3X2_JOINT, chi2, close, draft, star, streams, two_levels, verify

TWO = {
    "tokens": torch.tensor([[0, 1, 2]] * 2),
    "parent": torch.tensor([[-1, 0, 1]] * 2),
    "n_nodes": torch.tensor([3, 3]),
    "logits": torch.zeros(2, 3, 5),
}
SPARSE = {
    "draft_ids": torch.tensor([[[1, 2]] * 3] * 2),
    "draft_probs": torch.full((2, 3, 2), 0.5),
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "greedy"}, "mode: expected 'walk', 'rrs', .* got 'greedy'"),
        ({"logits": torch.zeros(2, 4, 5)}, r"logits: expected shape \[2, 3, \*\], got \[2, 4, 5\]"),
        ({"logits": torch.zeros(2, 3, 10)[..., ::2]}, "logits: expected a contiguous last dim"),
        ({"rng": torch.zeros(2, 4, dtype=torch.int64)}, r"rng: expected shape \[2, 3\]"),
        ({"parent": torch.tensor([[-1, 0, 2]] * 2)}, "parent: expected a topological order"),
        ({"n_nodes": torch.tensor([3, 4])}, "n_nodes: expected 0 <= n_nodes <= 3 in sequence 1"),
        ({"temperature": torch.tensor([1.0, -1.0])}, "temperature: .* in sequence 1, got -1"),
        ({"top_k": torch.tensor([-1, 0])}, "top_k: expected top_k >= 0 in sequence 0, got -1"),
        ({"top_p": torch.tensor([1.0, 1.5])}, "top_p: expected 0 <= top_p <= 1 in sequence 1"),
        ({"min_p": torch.tensor([torch.nan, 0.0])}, "min_p: expected 0 <= min_p <= 1"),
        ({"repetition_penalty": torch.zeros(2)}, "repetition_penalty: expected a finite number"),
        ({"seen": torch.zeros(2, 2, dtype=torch.int32)}, r"seen: expected shape \[2, 1\]"),
        ({"draft_logits": torch.zeros(2, 3, 6)}, r"draft_logits: expected shape \[2, \*, 5\]"),
        ({"draft_row": torch.tensor([[0, 0, 3]] * 2)}, "draft_row: expected -1 <= row < 0"),
        ({"draft_ids": SPARSE["draft_ids"]}, "draft_probs: expected both draft_ids and draft_pro"),
        (SPARSE | {"draft_logits": torch.zeros(2, 3, 5)}, "draft_logits: expected None beside"),
        (
            SPARSE | {"draft_probs": torch.full((2, 3, 2), 0.4)},
            "draft_probs: expected probabilities that sum to 1 in row 0 of sequence 0, got 0.8",
        ),
        (
            SPARSE | {"draft_ids": torch.tensor([[[3, 2]] * 3] * 2)},
            "draft_probs: expected a probability > 0 of the token of node 1 in row 0",
        ),
        ({"draws": torch.tensor([[3]] * 2)}, "draws: expected -1 <= node < 3 in sequence 0, got 3"),
        ({"mode": "block", "parent": torch.tensor([[-1, 0, 0]] * 2)}, "parent: expected a chain"),
        ({"group_size": 66}, "group_size: expected 1 <= group_size <= 65, got 66"),
    ],
)
def test_refusals(change, message):
    args = {**TWO, "mode": "rrs", "rng": streams(2)} | change
    with pytest.raises(RuntimeError, match="tree_verify_sample: " + message):
        ops.tree_verify_sample(**args)


def random_case(batch=6, nodes=20, vocab=50):
    g = torch.Generator().manual_seed(2)
    parent = [-1] + [int(torch.rand(1, generator=g) * i) for i in range(1, nodes)]
    return {
        "tokens": torch.randint(0, vocab, (batch, nodes), generator=g),
        "parent": torch.tensor(parent).repeat(batch, 1),
        "n_nodes": torch.full((batch,), nodes),
        "logits": torch.randn(batch, nodes, vocab, generator=g) * 3,
    }


@pytest.mark.parametrize("mode", ["walk", "rrs", "rrs_wr", "kseq", "lossy_typical"])
def test_batch_and_instruction_set_do_not_matter(mode):
    args = random_case()
    args["draft_logits"] = torch.randn(6, 20, 50)
    options = {"top_p": torch.full((6,), 0.9), "rng": streams(6)}
    before, whole = _C.isa(), []
    for name in (before, "portable"):
        _C.set_isa(name)
        whole.append(verify(mode, args, **options))
    _C.set_isa(before)
    for b in range(6):
        one = {k: v[b : b + 1].clone() for k, v in (args | options).items()}
        alone = verify(mode, one, rng=one.pop("rng"))
        for a, x, y in zip(alone, *whole, strict=True):
            assert torch.equal(a[0], x[b]) and torch.equal(x, y)


def generate(table, steps, tree, mode="walk", seed=3):
    """Decodes with a bigram table [V, V] of logits; `tree(root)` drafts tokens and parents."""
    text, root = [0], 0
    while len(text) <= steps:
        tokens, parent = tree(root)
        t = torch.tensor([[root, *tokens]])
        out = ops.tree_verify_sample(
            t,
            torch.tensor([[-1, *parent]]),
            torch.tensor([t.shape[1]]),
            table[t],
            mode,
            torch.tensor([[seed, 0, len(text) - 1]]),
            temperature=torch.tensor([0.8]),
            top_p=torch.tensor([0.95]),
        )
        path = out.path[0, 1 : int(out.n_accepted)].long()
        text += [*t[0, path].tolist(), int(out.next_token)]
        root = text[-1]
    return text[:steps]


def test_walk_gives_the_text_of_plain_sampling_whatever_was_drafted():
    table = torch.randn(12, 12, generator=torch.Generator().manual_seed(1)) * 2
    best = table.argsort(1, descending=True).tolist()
    trees = {
        "plain": lambda r: ([], []),
        "chain": lambda r: ([best[r][0], best[best[r][0]][0]], [0, 1]),
        "star": lambda r: (best[r][:5], [0] * 5),
        "two levels": lambda r: (
            best[r][:3] + [t for c in best[r][:3] for t in best[c][:2]],
            [0] * 3 + [1, 1, 2, 2, 3, 3],
        ),
        "duplicates": lambda r: ([best[r][0]] * 3 + [best[best[r][0]][0]] * 2, [0, 0, 0, 1, 2]),
        "nonsense": lambda r: ([11, 3, 3, 7], [0, 1, 0, 2]),
    }
    texts = {name: generate(table, 300, tree) for name, tree in trees.items()}
    assert all(text == texts["plain"] for text in texts.values())
    assert texts["plain"] != generate(table, 300, trees["plain"], seed=4)


@pytest.mark.parametrize("mode", ["walk", "rrs", "rrs_wr", "kseq", "block", "lossy_typical"])
def test_temperature_zero_is_greedy(mode):
    args = random_case(nodes=6, vocab=4)
    args["parent"] = torch.arange(-1, 5).repeat(6, 1)
    best = args["logits"].argmax(-1)
    args["draft_logits"] = torch.randn(6, 6, 4)
    out = verify(mode, args, temperature=torch.zeros(6))
    want = ops.tree_verify_greedy(args["tokens"], best, args["parent"], args["n_nodes"])
    assert all(torch.equal(a, b) for a, b in zip(out, want, strict=False))


def test_filters_are_those_of_transformers():
    from transformers.generation.logits_process import (
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    n, vocab = 200_000, 40
    logits = torch.randn(1, vocab, generator=torch.Generator().manual_seed(8)) * 2
    context = torch.tensor([[3, 5, 8, 13, 21]])
    x = RepetitionPenaltyLogitsProcessor(1.7)(context, logits)
    x = TemperatureLogitsWarper(0.7)(context, x)
    x = TopKLogitsWarper(20)(context, x)
    x = TopPLogitsWarper(0.9)(context, x)
    x = MinPLogitsWarper(0.02)(context, x)
    bits = torch.zeros(2, dtype=torch.int64).index_add_(0, context[0] // 32, 1 << context[0] % 32)
    out = ops.tree_verify_sample(
        torch.full((n, 1), 21),
        torch.full((n, 1), -1),
        torch.ones(n, dtype=torch.int64),
        logits.expand(n, 1, vocab),
        "walk",
        streams(n),
        temperature=torch.full((n,), 0.7),
        top_k=torch.full((n,), 20),
        top_p=torch.full((n,), 0.9),
        min_p=torch.full((n,), 0.02),
        repetition_penalty=torch.full((n,), 1.7),
        seen=bits.int().expand(n, 2),
    )
    assert chi2(out.next_token, x.softmax(-1)[0]) < 1


def test_rows_without_numbers():
    args = {**TWO, "logits": torch.full((2, 3, 5), torch.nan)}
    args["logits"][1, 0, 1] = 0.0
    out = verify("walk", args)
    assert out.next_token.tolist() == [-1, -1]
    assert out.n_accepted.tolist() == [1, 2] and out.n_nan.tolist() == [5, 9]


def block_by_enumeration(p1, q1, p2, q2):
    """Exact law of two tokens and mean of accepted drafts, block verification of a chain of two."""
    rows = range(len(p1))
    joint, mean = {(a, b): F(0) for a in rows for b in rows}, F(0)

    def rest(scale, p, q):
        left = [max(scale * p[x] - q[x], F(0)) for x in rows]
        return left, sum(left)

    for a in rows:
        for b in rows:
            drawn = q1[a] * q2[a][b]
            one = min(F(1), p1[a] / q1[a])
            left, mass = rest(one, p2[a], q2[a])
            pass1 = mass / (mass + 1 - one) if mass + 1 - one else F(1)
            pass2 = min(F(1), one * p2[a][b] / q2[a][b])
            mean += drawn * (2 * pass2 + (1 - pass2) * pass1)
            joint[a, b] += drawn * pass2
            for x in rows:  # the first draft only, then what the second left
                if mass:
                    joint[a, x] += drawn * (1 - pass2) * pass1 * left[x] / mass
            none, all_of = rest(F(1), p1, q1)
            for x in rows:
                for y in rows:
                    share = none[x] / all_of * p2[x][y]
                    joint[x, y] += drawn * (1 - pass2) * (1 - pass1) * share
    return joint, mean


def test_block_verification_is_exact_and_accepts_more():
    exact = lambda t: [[F(round(float(v) * 10), 10) for v in row] for row in t]  # noqa: E731
    (p1,), (q1,), p2, q2 = exact(T3[0][None]), exact(T3[1][None]), exact(P2), exact(Q2)
    joint, mean = block_by_enumeration(p1, q1, p2, q2)
    assert all(joint[a, b] == p1[a] * p2[a][b] for a, b in joint)
    assert mean >= F(121, 100)  # of one test per token
    n = 1_000_000
    first = draft(T3[1].expand(n, -1), 1, salt=51)
    second = draft(Q2[first[:, 0]], 1, salt=52)
    args = two_levels(first, second[:, None])
    out = verify("block", args)
    accepted = (out.n_accepted - 1).double()
    assert abs(accepted.mean() - float(mean)) < 4.5 * accepted.std() / n**0.5
    plain = verify("walk", next_row(args, out), rng=streams(n, position=101)).next_token
    tokens = torch.where(out.n_accepted[:, None] > torch.arange(1, 3), args["tokens"][:, 1:], -1)
    a = torch.where(out.n_accepted == 1, out.next_token, tokens[:, 0])
    b = torch.where(out.n_accepted == 1, plain, out.next_token)
    b = torch.where(out.n_accepted == 3, tokens[:, 1], b)
    assert chi2(a * 3 + b, T3X2_JOINT) < 1


def next_row(args, out):
    n = len(out.next_token)
    row = {"tokens": out.next_token[:, None], "parent": torch.full((n, 1), -1)}
    logits = P2[out.next_token.clamp(max=2)][:, None].log()
    return row | {"n_nodes": torch.ones(n, dtype=torch.int64), "logits": logits}


@pytest.mark.parametrize(
    ("p", "accepted"),
    [
        ([0.5, 0.3, 0.15, 0.05], [0, 1, 2]),
        ([0.97, 0.01, 0.01, 0.01], [0]),
        ([0.25] * 4, [0, 1, 2, 3]),
        ([1 / 32] * 32, list(range(32))),
    ],
)
def test_typical_acceptance_has_the_published_thresholds(p, accepted):
    vocab = len(p)
    logits = torch.tensor(p).log().expand(vocab, 2, vocab)
    args = {
        "tokens": torch.stack([torch.zeros(vocab), torch.arange(vocab)], 1).long(),
        "parent": torch.tensor([[-1, 0]]).repeat(vocab, 1),
        "n_nodes": torch.full((vocab,), 2),
        "logits": logits,
    }
    out = verify("lossy_typical", args)
    assert (out.n_accepted == 2).nonzero()[:, 0].tolist() == accepted
    assert set(out.next_token.tolist()) <= set(accepted)


def test_grouped_acceptance_has_the_law_it_is_known_for():
    n = 1_000_000
    toy = (torch.tensor([0.35, 0.3, 0.2, 0.15]), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    args = star(toy, draft(toy[1].expand(n, -1), 1, salt=61))
    for size, alpha, law in (
        (1, 0.65, toy[0]),
        (3, 0.716667, torch.tensor([0.302381, 0.280952, 0.216667, 0.2])),
    ):
        out = verify("lossy_grouped", args, group_size=size, group_delta=1.0)
        token = torch.where(out.n_accepted == 2, args["tokens"][:, 1], out.next_token)
        assert close(int((out.n_accepted == 2).sum()), n, alpha)
        assert chi2(token, law) < 1
