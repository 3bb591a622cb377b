"""Planted defects: each must be seen by the tests that the right use passes.

C1 ... C10 are the rules that published verifiers broke; the names say which one a test plants.
"""

import torch
from test_tree_verify_sample_law import N, first_tokens

from tokenburst import ops
from toys import P2, T3, T3X2_JOINT, T4A, chi2, draft, emitted, star, streams, verify


def law_of(token, vocab=3):
    return torch.bincount(token, minlength=vocab).double() / len(token)


def planted(token, toy, wrong):
    """The emitted law is the known wrong one, and the test of the right one fails."""
    torch.testing.assert_close(
        law_of(token, len(wrong)), torch.tensor(wrong).double(), rtol=0, atol=3e-3
    )
    assert chi2(token, toy[0]) > 1


def test_c2_child_dropped_after_looking_at_it():
    tokens = draft(T3[1].expand(N, -1), 1, salt=1)
    args = star(T3, tokens)
    args["n_nodes"] = torch.where(tokens[:, 0] == 2, 1, 2)
    planted(first_tokens("rrs", args)[0], T3, [0.33, 0.33, 0.34])  # dropped: a draw from p


def test_c3_argmax_verified_as_if_sampled():
    args = star(T3, torch.zeros(N, 1, dtype=torch.int64))
    planted(first_tokens("rrs", args)[0], T3, [0.5, 0.0, 0.5])


def test_c3_drafted_from_another_q_than_the_one_given():
    cut = torch.tensor([2 / 3, 1 / 3, 0.0])
    args = star(T3, draft(cut.expand(N, -1), 1, salt=2))
    planted(first_tokens("rrs", args)[0], T3, [1 / 3] * 3)


def test_c4_random_numbers_used_twice():
    tokens = draft(T3[1].expand(N, -1), 1, salt=3)
    args = star(T3, tokens)
    again = star(T3, draft(T3[1].expand(N, -1), 1, salt=4))
    for second, position, right in ((again, 101, True), (args, 100, False)):
        a = first_tokens("rrs", args)[0]
        b = first_tokens("rrs", second, rng=streams(N, position=position))[0]
        pair = chi2(a * 3 + b, T3[0][:, None] * T3[0])
        assert (pair < 1) is right, pair
        assert chi2(b, T3[0]) < 1  # each step alone looks right


def test_c4_draft_noise_and_verdicts_have_counters_of_their_own():
    # The same (seed, sequence, position) everywhere: still independent.
    rng = torch.cat([streams(N), torch.full((N, 1), 100)], 1)
    rng[:, 2] = 0
    tokens = ops.vocab_sample(T4A[1].log().expand(N, 4), 2, torch.ones(N), rng).ids
    args = star(T4A, tokens)
    token, accepted = first_tokens("rrs", args)
    assert chi2(token, T4A[0]) < 1 and abs(accepted / N - 107 / 140) < 0.003


def test_c5_siblings_counted_twice():
    # i.i.d. rules keep duplicates as attempts; certain ones drafted twice are no such attempts.
    twice = torch.zeros(N, 2, dtype=torch.int64)
    args = star(T3, twice)
    wrong = first_tokens("rrs_wr", args)[0]
    assert chi2(wrong, T3[0]) > 1
    for mode in ("walk", "rrs"):
        certain = args | {"draft_row": args["draft_row"] - 1}
        token, accepted = first_tokens(mode, certain)
        assert chi2(token, T3[0]) < 1 and abs(accepted / N - 0.3) < 0.003


def test_c5_a_repeated_draw_is_no_second_attempt_without_replacement():
    tokens = draft(T4A[1].expand(N, -1), 3, salt=5, replacement=True)
    token, _ = first_tokens("rrs", star(T4A, tokens))
    assert chi2(token, T4A[0]) < 1


def test_c6_draws_without_replacement_verified_as_independent():
    for k, wrong in ((2, [0.1, 0.2, 0.343367, 0.356633]), (3, [0.1, 0.2, 0.377891, 0.322109])):
        tokens = draft(T4A[1].expand(N, -1), k, salt=6)
        planted(first_tokens("rrs_wr", star(T4A, tokens))[0], T4A, wrong)


def test_c6_siblings_tested_with_unmodified_p_and_q():
    # Two draws, both against p / q, one residual at the end; written out here, no op does it.
    p, q = T3
    g = torch.Generator().manual_seed(1)
    coin = torch.rand(N, 2, generator=g)
    residual = (p - q).clamp_min(0)
    for replacement, wrong in ((False, [0.3, 0.525, 0.175]), (True, [0.39, 0.39, 0.22])):
        tokens = draft(q.expand(N, -1), 2, salt=7, replacement=replacement)
        passes = coin * q[tokens] < p[tokens]
        end = (residual / residual.sum()).multinomial(N, replacement=True, generator=g)
        token = torch.where(
            passes[:, 0], tokens[:, 0], torch.where(passes[:, 1], tokens[:, 1], end)
        )
        planted(token, T3, wrong)


def test_c7_bonus_token_goes_through_the_filters():
    # Everything is accepted; the token after it must obey top-k too, and does.
    args = star(T4A, torch.full((N, 1), 3))
    args["draft_row"] = args["draft_row"] - 1
    out = verify("rrs", args, top_k=torch.full((N,), 2))
    bonus = out.next_token[out.n_accepted == 2]
    filtered = torch.tensor([0.0, 0.0, 3 / 7, 4 / 7])
    assert chi2(bonus, filtered) < 1
    plain = verify("rrs", args).next_token[out.n_accepted == 2]
    assert chi2(plain, filtered) > 1


def test_c8_nothing_left_after_a_rejection_emits_from_what_was_there():
    # p = q: a draw is never rejected, and with no mass left the target itself stands in.
    same = (T3[0], T3[0])
    tokens = draft(T3[0].expand(N, -1), 3, salt=8)
    token, accepted = first_tokens("rrs", star(same, tokens))
    assert accepted > N - 10 and chi2(token, T3[0]) < 1


def test_c9_and_c10_impossible_tokens_never_come_out():
    p = torch.tensor([0.0, 0.5, 0.5, 0.0])
    q = torch.tensor([0.5, 0.0, 0.0, 0.5])
    for mode in ("rrs", "rrs_wr", "kseq", "walk"):
        tokens = draft(q.expand(N // 4, -1), 2, salt=9, replacement=mode != "rrs")
        token, accepted = first_tokens(mode, star((p, q), tokens))
        assert accepted == 0 and chi2(token, p) < 1


def test_two_steps_of_a_tree_with_a_repeated_position():
    # The second step must start at the position after the first one's tokens.
    n = N // 4
    args = star(T3, draft(T3[1].expand(n, -1), 2, salt=10))
    out = verify("walk", args)
    first = emitted(out, args["tokens"], 1)
    following = {
        "tokens": first,
        "parent": torch.full((n, 1), -1),
        "n_nodes": torch.ones(n, dtype=torch.int64),
        "logits": P2[first].log(),
    }
    for position, right in ((101, True), (100, False)):
        second = verify("walk", following, rng=streams(n, position=position)).next_token
        assert (chi2(first[:, 0] * 3 + second, T3X2_JOINT) < 1) is right


def test_order_of_siblings():
    # C1: draws without replacement, tried in the reverse order.
    tokens = draft(T4A[1].expand(N, -1), 2, salt=13).flip(1)
    assert chi2(first_tokens("rrs", star(T4A, tokens))[0], T4A[0]) > 1
