"""Policies that ask another network, votes, and the policies that remember, against oracles."""

import math

import pytest
import torch
from steps import MASK as M
from steps import make_plan, make_step

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.voting import hex_vote
from tokenburst.zoo import filters

MASK = VOCAB - 1


def decoder(policy):
    return DiffusionDecoder(tiny_model("llama", torch.float32, False), policy, mask_id=MASK)


def test_the_supervisors_text_is_its_own_greedy_text():
    ids, mask = prompts(2, 6, seed=1, ragged=True)
    causal = tiny_model("qwen2", torch.float32)
    out = decoder(u.Guided(causal, "supervisor")).generate(ids, mask, gen_length=6, block_length=3)
    for b in range(2):
        x = ids[b : b + 1, mask[b] == 1]
        for _ in range(6):
            logits = causal(x).logits[0, -1]
            logits[MASK] = -torch.inf
            x = torch.cat([x, logits.argmax()[None, None]], 1)
        assert out.sequences[b, 6:].tolist() == x[0, -6:].tolist()
    left = decoder(u.Guided(causal)).generate(ids, mask, gen_length=6)
    assert not bool((left.sequences == MASK)[:, 6:].any()) and left.stats.forwards <= 6
    with pytest.raises(ValueError, match="text: expected one of diffusion, supervisor"):
        u.Guided(causal, "both")


def test_joint_sampling_with_a_sampler_that_changes_nothing_is_a_schedule():
    ids, mask = prompts(2, 6, seed=1, ragged=True)
    seen = []

    def sampler(hidden, embedded, position):
        assert bool((position >= -1).all())
        seen.append((embedded.abs().sum(-1) > 0).sum(1).tolist())
        return hidden

    out = decoder(u.JointSampling(sampler, 3)).generate(ids, mask, gen_length=6)
    want = decoder(u.LowConfidence(tokens_per_step=3)).generate(ids, mask, gen_length=6)
    assert torch.equal(out.sequences, want.sequences)
    assert seen == [[1, 1], [2, 2]] * 2 and out.stats.steps == want.stats.steps


def test_votes_are_those_of_rows_decoded_alone():
    ids, _ = prompts(2, 5, seed=2)
    d = decoder(u.LowConfidence(tokens_per_step=2))
    answer = lambda new: int(new[0]) % 2  # noqa: E731
    got = hex_vote(d, ids, answer=answer, gen_length=8, blocks=(4, 2, 8), seeds=2, temperature=0.9)
    assert got.sequences.shape == (2, 6, 13)
    for b in range(2):
        said = []
        for i, block in enumerate((2, 4, 8)):
            for seed in range(2):
                name = torch.tensor([b * 6 + i * 2 + seed])
                alone = d.generate(
                    ids[b : b + 1],
                    gen_length=8,
                    block_length=block,
                    seed=seed,
                    temperature=0.9,
                    sequence_ids=name,
                )
                assert torch.equal(alone.sequences[0], got.sequences[b, i * 2 + seed])
                said.append(answer(alone.sequences[0, 5:]))
        most = max(said.count(0), said.count(1))
        assert got.answers[b] == next(s for s in said if said.count(s) == most)
    with pytest.raises(ValueError, match="expected at least one block length"):
        hex_vote(d, ids, answer=answer, blocks=())


def test_a_filter_learns_from_traces_and_decodes():
    made = filters.train("sudoku4", count=30, givens=6, epochs=8)
    confidence, final, masked = filters.traces("sudoku4", 20, 6, seed=9)
    right = (made(confidence) > 0.5) == final
    assert float(right[masked].float().mean()) > 0.7
    step = make_step([0.2, 0.9, 0.5, 0.4], [True, True, False, True])
    policy = u.Learned(lambda c: torch.tensor([[0.97, 0.1, 0.99, 0.5]]))
    done = policy.begin(make_plan(4)).select(step)
    assert step.x.tolist() == [[0, 1, 3, M]] and int(done.n_left) == 1
    with pytest.raises(ValueError, match="expected a width of at least 4, got 2"):
        u.Learned(u.ConfidenceFilter(2)).begin(make_plan(4))


def test_sparse_credit_is_the_dense_oracle():
    g = torch.Generator().manual_seed(1)
    shape, steps = (2, 3, 11), 12
    policy = u.Credit(gain=0.7, power=0.2, decay=0.8, slots=12)
    process = policy.begin(make_plan(3, batch=2))
    dense = torch.zeros(shape, dtype=torch.float64)
    for step in range(steps):
        logits = torch.randn(shape, generator=g) * 2
        p = logits.double().softmax(-1)
        best, top = p.max(-1).values, p.argmax(-1)
        dense = (dense * 0.8).scatter_add(2, top[..., None], best[..., None] ** 0.2)
        want = (logits.double() + 0.7 * dense.log1p()).softmax(-1).max(-1)
        fresh = torch.full((2,), step == 0)
        process.update(top, best.float(), fresh)
        at = logits.gather(2, process.ids.clamp(min=0)).where(process.ids >= 0, -torch.inf)
        token, confidence = process.fuse(at, logits.logsumexp(-1))
        assert torch.equal(token, want.indices)
        torch.testing.assert_close(confidence.double(), want.values, rtol=2e-5, atol=1e-6)


def test_kept_divergence_is_a_lower_bound_and_exact_where_all_ids_are_kept():
    g = torch.Generator().manual_seed(2)
    a, b = (torch.randn(1, 4, 9, generator=g).softmax(-1) for _ in range(2))
    full = (a * (a / b).log()).sum(-1)
    for k in (3, 9):
        process = u.Stable(k=k).begin(make_plan(4))
        process.p, process.ids = b.topk(k).values, b.topk(k).indices
        moved = process.moved(a.gather(2, process.ids))
        assert bool((moved <= full + 1e-6).all()) and bool((moved > 0).all())
        if k == 9:
            torch.testing.assert_close(moved, full, rtol=1e-4, atol=1e-6)


def test_running_confidence_follows_its_curve_and_spares_the_prompt():
    counts = []
    ids, _ = prompts(1, 5, seed=3)
    d = decoder(u.RunningConfidence(8))
    d.generate(ids, gen_length=16, block_length=16, callback=lambda n, x: counts.append(x))
    left = [int((x[:, 5:] == MASK).sum()) for x in counts]
    assert left == [math.floor(16 * math.cos(math.pi / 2 * j / 8) + 1e-9) for j in range(1, 8)] + [
        0
    ]
    assert all(torch.equal(x[:, :5], ids) for x in counts)


def test_remasking_by_chance_has_the_published_marginals():
    n = 20000
    process = u.ReMDM(4, "rescale", eta=0.5).begin(make_plan(n))
    scores = [0.5] * n
    step = make_step(scores, [True] * n, step=0)
    process.select(step)
    alpha = float((step.x != M).float().mean())
    assert abs(alpha - 0.25) < 0.02  # alpha(s) whatever sigma is
    again = make_step(scores, (step.x == M)[0].tolist(), step=1)
    process.select(again)
    assert abs(float((again.x != M).float().mean()) - 0.5) < 0.02


def test_spans_that_survive_are_fixed():
    policy, n = u.SpanMasking(5, span=3), 24
    process, x = policy.begin(make_plan(n)), torch.full((1, n), M)
    g = torch.Generator().manual_seed(1)
    fixed: set[int] = set()
    for j in range(5):
        scores = torch.rand(n, generator=g).tolist()
        step = make_step(scores, (x == M)[0].tolist(), step=j)
        process.select(step)
        x = step.x
        now = {i for i in range(0, n, 3) if not bool((x[0, i : i + 3] == M).any())}
        assert fixed <= now
        fixed = now
        want = 0 if j == 4 else max(1, int(8 * math.cos(math.pi / 2 * (j + 1) / 4) + 1e-9))
        assert 8 - len(now) == want
    with pytest.raises(ValueError, match="expected a divisor of the masks"):
        u.SpanMasking(4, 5).begin(make_plan(6))


def test_slow_steps_agree_on_a_span_and_fast_ones_fill_it():
    process = u.SlowFast(0.9, hint=0.3).begin(make_plan(6))
    scores, masked, sizes = [0.95, 0.92, 0.5, 0.4, 0.1, 0.1], [True] * 6, []
    for j in range(4):
        step = make_step(scores, masked, step=j)
        done = process.select(step)
        sizes.append(int(done.n_committed))
        masked = (step.x == M)[0].tolist()
        assert int(done.n_left) == sum(masked)
    assert sizes == [1, 1, 1, 1] and masked == [False] * 4 + [True] * 2
