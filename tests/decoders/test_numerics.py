"""Rules on confidences that float32 cannot tell apart, and the switches of published variants."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import MASK, chosen, confidences, make_plan, make_step
from test_rules import f32, factor, ranked, threshold

from tokenburst.decoders import unmasking as u

ODDS = (-3.0, 0.0, 1.0, 2.0, 2.5, 18.0, 21.0, 25.0, 30.0)  # the last four are 1 in float32


@st.composite
def odds(draw):
    values = draw(st.lists(st.sampled_from(ODDS), min_size=1, max_size=10))
    masked = draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values)))
    return values, draw(st.sampled_from([masked, [True] * len(values)]))


def finely(policy, values, masked, **options):
    """What a policy commits where the log odds of the confidences are known."""
    score = torch.tensor(values, dtype=torch.float64).sigmoid().float().tolist()
    fine = {"log_odds": torch.tensor([values], dtype=torch.float32)}
    return chosen(policy, score, masked, **fine, **options)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def best_first(values, masked):
    return sorted((i for i, m in enumerate(masked) if m), key=lambda i: (-values[i], i))


def longest(c, order, f, last_too=False):
    """The loop of the published code: its index cannot tell the last rank failing from none."""
    r = 0
    while r < len(order) and c[order[r]] >= 1 - f / (r + 2):
        r += 1
    if last_too and r == len(order) - 1:
        r += 1
    return set(order[: max(1, r)])


@settings(max_examples=60, deadline=None)
@given(drawn=odds(), f=st.sampled_from([1.0, 0.2, 1e-8, 1e-11]), last=st.booleans())
def test_factor_in_float64(drawn, f, last):
    values, masked = drawn
    c, order = [sigmoid(v) for v in values], best_first(values, masked)
    assert finely(u.Factor(f, last_too=last), values, masked) == longest(c, order, f, last)


@settings(max_examples=60, deadline=None)
@given(drawn=odds(), step=st.integers(0, 3))
def test_damped_ends_in_float64(drawn, step):
    values, masked = drawn
    policy = u.EosDamping(u.LowConfidence(4), eos=(1, 5), least=0.4)
    phi = 0.4 + 0.6 * step / 3
    # 1 - phi c, smallest first: what is 1 in float32 differs there.
    rest = [
        (1 - phi) + phi * sigmoid(-v) if i % 8 in (1, 5) else sigmoid(-v)
        for i, v in enumerate(values)
    ]
    n = len(values)
    want = best_first([-r for r in rest], masked)[: n // 4 + (step < n % 4)]
    assert finely(policy, values, masked, step=step) == set(want)


@pytest.mark.parametrize("policy", [u.Threshold(1 - 1e-9), u.LowConfidence(), u.SlowFast()])
def test_other_rules_in_float64(policy):
    # 1 - sigmoid(21) = 7.6e-10, 1 - sigmoid(18) = 1.5e-8
    want = {1, 2} if policy == u.Threshold(1 - 1e-9) else {2}
    assert finely(policy, [18.0, 21.0, 25.0, 2.0], [True] * 4) == want


def test_noise_weighs_confidences_themselves():
    values = [18.0, 30.0, 25.0, 21.0] * 2
    policy = u.Dream(4, "maskgit_plus", noise=0.5)
    score = [1.0] * 8
    want = chosen(policy, score, [True] * 8, step=1)
    assert finely(policy, values, [True] * 8, step=1) == want


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), f=st.sampled_from([1.0, 0.25]))
def test_the_last_rank_goes_too(drawn, f):
    scores, masked = drawn
    order = ranked(scores, masked)
    passes = [f32(scores[i]) >= f32(1 - f32(f / (r + 2))) for r, i in enumerate(order)]
    alone = passes == [True] * (len(order) - 1) + [False]  # the last rank fails and no other
    want = set(order) if alone else factor(scores, masked, f)
    assert chosen(u.Factor(f, last_too=True), scores, masked) == want


@settings(max_examples=60, deadline=None)
@given(drawn=confidences())
def test_slack_lets_equals_of_the_best_pass(drawn):
    scores, masked = drawn
    best = max([s for s, m in zip(scores, masked, strict=True) if m], default=0.0)
    want = threshold(scores, masked, min(0.9, best - 1e-5))
    assert chosen(u.Threshold(0.9, slack=1e-5), scores, masked) == want


def test_the_first_token_of_a_block_alone():
    policy = u.FirstAlone(u.Threshold(0.9))
    scores, masked = [0.99, 0.1, 0.95, 0.97], [False, True, True, True]
    assert chosen(policy, scores, masked) == {1}
    assert chosen(policy, scores, masked, step=1) == {2, 3}
    assert chosen(u.FirstAlone(u.LowConfidence(3)), scores, masked, step=1) == {3}
    assert policy.most_steps(4, 1) == 4


@pytest.mark.parametrize(("running", "left"), [("last", 0), ("most", 1)])
def test_running_confidence_last_or_most(running, left):
    process = u.RunningConfidence(4, "linear", running=running).begin(make_plan(2))
    for j, scores in enumerate([[0.9, 0.5], [0.2, 0.6]]):  # both are written twice
        step = make_step(scores, [True, True], step=j, n_masks=2)
        process.select(step)
    # One mask is left: of 0.2 and 0.6 the first, of 0.9 and 0.6 the second.
    assert (step.x[0] == MASK).nonzero().tolist() == [[left]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: u.Threshold(0.9, slack=-1.0), "slack: expected a number >= 0 and < 1"),
        (lambda: u.Threshold(0.9, "entropy", slack=0.1), "slack: .*got 0.1 by entropy"),
        (lambda: u.RunningConfidence(running="mean"), "running: expected last or most"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
