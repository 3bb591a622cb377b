"""Every rule that is a prefix of an order, or nearly so, against an oracle of a few lines."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import chosen, confidences, make_plan, make_step

from tokenburst.decoders import unmasking as u


def ranked(scores, masked, lowest=False):
    masks = [i for i, m in enumerate(masked) if m]
    return sorted(masks, key=lambda i: (f32(scores[i]) * (1 if lowest else -1), i))


def f32(x):
    return float(torch.tensor(x, dtype=torch.float32))


def threshold(scores, masked, bound, strict=False):
    order = ranked(scores, masked)
    passes = [i for i in order if scores[i] > bound or (scores[i] == bound and not strict)]
    return set(passes or order[:1])


def factor(scores, masked, f):
    order, n = ranked(scores, masked), 0
    while n < len(order) and f32(scores[order[n]]) >= f32(1 - f32(f / (n + 2))):
        n += 1
    return set(order[: max(1, n)])


def budget(scores, masked, gamma):
    order, spent, n = ranked(scores, masked, lowest=True), 0, 0
    while n < len(order) and spent <= gamma * 2**32:  # exact: float32 entropies in units of 2^-32
        spent += int(f32(scores[order[n]]) * 2**32)
        n += 1
    return set(order[: max(1, n)])


def leap(scores, masked, bound, near, reach):
    masks = [i for i, m in enumerate(masked) if m]
    anchors = [i for i in masks if scores[i] >= bound]
    close = {i for i in masks if scores[i] >= near and any(abs(i - a) <= reach for a in anchors)}
    return set(anchors) | close | set(ranked(scores, masked)[:1])


def share(scores, masked, step, steps, n):
    return set(ranked(scores, masked)[: n // steps + (step < n % steps)])


def larger(a, b):  # of two prefixes of one order
    return a if len(a) >= len(b) else b


RULES = [
    (u.Threshold(0.9), lambda s, m: threshold(s, m, 0.9)),
    (u.Threshold(0.9, strict=True), lambda s, m: threshold(s, m, 0.9, True)),
    (u.Threshold(0.75, "margin"), lambda s, m: threshold(s, m, 0.75)),
    (u.Factor(1.0), lambda s, m: factor(s, m, 1.0)),
    (u.Factor(0.25), lambda s, m: factor(s, m, 0.25)),
    (u.EntropyBudget(0.5), lambda s, m: budget(s, m, 0.5)),
    (u.EntropyBudget(0.0), lambda s, m: budget(s, m, 0.0)),
    (u.LocalLeap(0.9, 0.75, 2), lambda s, m: leap(s, m, 0.9, 0.75, 2)),
    (
        u.sdar_dynamic(0.9, 3),
        lambda s, m: larger(threshold(s, m, 0.9, True), share(s, m, 0, 3, len(s))),
    ),
    (u.llada2(0.95), lambda s, m: threshold(s, m, 0.95, True)),
    (
        u.Threshold(0.5, "entropy"),
        lambda s, m: set([i for i in ranked(s, m, True) if s[i] <= 0.5] or ranked(s, m, True)[:1]),
    ),
]


@pytest.mark.parametrize(("policy", "oracle"), RULES, ids=lambda v: str(v)[:40])
@settings(max_examples=60, deadline=None)
@given(drawn=confidences())
def test_rule_equals_oracle(policy, oracle, drawn):
    scores, masked = drawn
    assert chosen(policy, scores, masked) == oracle(scores, masked)


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), step=st.integers(0, 5))
def test_schedules_equal_oracles(drawn, step):
    scores, masked = drawn
    n = len(scores)
    assert chosen(u.LowConfidence(4), scores, masked, step=step) == share(
        scores, masked, step, 4, n
    )
    last = step + 1 >= math.floor(math.log2(n)) if n > 1 else True
    assert chosen(u.Ascending(), scores, masked, step=step) == set(
        ranked(scores, masked)[: None if last else 2**step]
    )


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), step=st.integers(0, 3))
def test_ends_are_damped_less_and_less(drawn, step):
    scores, masked = drawn
    policy = u.EosDamping(u.LowConfidence(4), eos=(1, 5), least=0.4)
    phi = f32(0.4 + 0.6 * step / 3)
    damped = [f32(f32(s) * phi) if i % 8 in (1, 5) else s for i, s in enumerate(scores)]
    want = share(damped, masked, step, 4, len(scores))
    assert chosen(policy, scores, masked, step=step) == want


def test_schedules_are_the_published_ones():
    assert u.dream_schedule(8, 8) == [0, 1, 1, 1, 1, 1, 1, 2]
    counts = u.dream_schedule(16, 8)
    assert sum(counts) == 16 and counts[-1] >= counts[0]
    sizes, left = [], 128
    for step in range(u.Ascending().most_steps(128, 1)):
        got = chosen(u.Ascending(), [0.5] * 128, [i >= 128 - left for i in range(128)], step=step)
        sizes.append(len(got))
        left -= len(got)
    assert sizes == [1, 2, 4, 8, 16, 32, 65]
    for n, steps in [(10, 4), (7, 7), (3, 5), (32, 32)]:  # LLaDA's get_num_transfer_tokens
        got = [
            len(chosen(u.LowConfidence(steps), [0.5] * n, [True] * n, step=s)) for s in range(steps)
        ]
        assert got == [n // steps + (s < n % steps) for s in range(steps)]


@pytest.mark.parametrize("order", ["maskgit_plus", "topk_margin", "entropy"])
@settings(max_examples=40, deadline=None)
@given(drawn=confidences(), step=st.integers(0, 6))
def test_dream_equals_its_schedule(order, drawn, step):
    scores, masked = drawn
    counts = [n for n in u.dream_schedule(len(scores), 6) if n > 0]
    n = counts[min(step, len(counts) - 1)]
    want = set(ranked(scores, masked, order == "entropy")[:n])
    assert chosen(u.Dream(6, order), scores, masked, step=step) == want


def test_dream_origin_reveals_by_the_share_of_its_time():
    policy, n = u.Dream(4, "origin"), 4000
    for step, share in [(0, 1 - (1 - 0.999 / 4)), (3, 1.0)]:
        got = chosen(policy, [0.5] * n, [True] * n, step=step)
        assert abs(len(got) / n - share) < 5 * (0.25 / n) ** 0.5


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), step=st.integers(0, 5))
def test_dimple_equals_oracle(drawn, step):
    scores, masked = drawn
    n, steps, eps = sum(masked), 6, 1e-3
    order = ranked(scores, masked, lowest=True)
    sure = {i for i in order if scores[i] > 0.95 and f32(scores[i]) > f32(0.95)}
    if step == steps - 1:
        want = set(order)
    elif sure or not n:
        want = sure
    else:
        t = u.dream.times(steps, eps).tolist()
        ratio = n / len(scores)
        first = next(i for i in range(steps + 1) if t[i] < ratio)
        counts = [int(n * (1 - t[i + 1] / ratio)) for i in range(max(first, step + 1), steps)]
        want = set(order[: next((c for c in counts if c >= 1), 1)])
    assert chosen(u.Dimple(0.95, steps), scores, masked, step=step) == want


@settings(max_examples=40, deadline=None)
@given(drawn=confidences(), answer=st.sampled_from([None, 1, 3, (0,)]))
def test_prophet_commits_everything_once_the_answer_is_settled(drawn, answer):
    scores, masked = drawn
    n = len(scores)
    places = {None: range(n), 1: range(n - 1, n), 3: range(max(0, n - 3), n), (0,): (0,)}[answer]
    gaps = [min(math.log(s or 1e-45) - math.log((1 - s) or 1e-45), 1e9) for s in scores]
    gaps = [1e30 if s == 1 else -1e30 if s == 0 else g for s, g in zip(scores, gaps, strict=True)]
    share = 1 - sum(masked) / n
    bound = 7.5 if share < 0.33 else 5.0 if share < 0.67 else 2.5
    settled = sum(gaps[i] for i in places) / len(places) >= bound
    want = set(ranked(scores, masked)[: None if settled else 1])
    assert chosen(u.Prophet(answer=answer), scores, masked) == want


def test_editing_replaces_sure_tokens_and_waits_until_none_changes():
    policy = u.Editing(u.llada2(0.9), threshold=0.8, post_steps=2)
    process = policy.begin(make_plan(4))
    step = make_step([0.95, 0.5, 0.9, 0.3], [True, False, False, False])
    first = process.select(step)  # position 2 holds 3, proposed is 2 with 0.9
    assert step.x.tolist() == [[0, 3, 2, 3]] and (int(first.n_edited), int(first.n_left)) == (1, 1)
    again = process.select(replace(step, step=torch.tensor([1]), masked=step.x == 9))
    assert int(again.n_edited) == 0 and int(again.n_left) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: u.Factor(0.0), "Factor: factor: expected a number > 0, got 0.0"),
        (lambda: u.EntropyBudget(-1.0), "budget: expected a number >= 0, got -1.0"),
        (lambda: u.LocalLeap(0.5, 0.6), "0 < near <= threshold <= 1, got near 0.6"),
        (lambda: u.EosDamping(u.Threshold(), (1,)), "expected LowConfidence or Ascending"),
        (lambda: u.EosDamping(u.Ascending(), ()), "eos: expected token ids"),
        (lambda: u.Dream(4, "best"), "expected one of origin, maskgit_plus"),
        (lambda: u.Dream(4).begin(make_plan(6, 3)), "expected a multiple of the 3 blocks, got 4"),
        (lambda: u.Dimple(1.5), "Dimple: threshold: expected > 0 and <= 1, got 1.5"),
        (lambda: u.Prophet(answer=0), "answer: expected a count >= 1"),
        (lambda: u.Prophet(answer=(7,)).begin(make_plan(6)), "expected offsets below 6, got 7"),
        (lambda: u.Editing(threshold=-1), "Editing: threshold: expected >= 0 and <= 1"),
        (lambda: u.Editing(u.EntropyBudget()), "expected one by confidence, got entropy"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
