"""Rules that ask another network, and votes: against oracles, what the network says being drawn."""

from collections import Counter
from types import SimpleNamespace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import MASK as M
from steps import SCORES, chosen, confidences, make_plan, make_step
from test_rules import f32, factor, ranked, threshold

from tokenburst.decoders import unmasking as u
from tokenburst.decoders.voting import hex_vote


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), said=st.lists(st.sampled_from(SCORES), min_size=12, max_size=12))
def test_learned(drawn, said):
    scores, masked = drawn
    filter_ = lambda c: torch.tensor([said[: c.shape[1]]])  # noqa: E731
    want = {i for i, m in enumerate(masked) if m and f32(said[i]) > f32(0.9)}
    want |= set(ranked(scores, masked)[:1])
    assert chosen(u.Learned(filter_, 0.9), scores, masked) == want


class Supervisor:
    """A causal model that finds token said[i] most likely after position i."""

    def __init__(self, said):
        self.said = said

    def get_output_embeddings(self):
        head = torch.nn.Linear(M + 1, M + 1, bias=False)
        head.weight.data = torch.eye(M + 1)
        return head

    def base_model(self, input_ids, use_cache):
        said = torch.tensor([self.said[: input_ids.shape[1]]])
        return SimpleNamespace(last_hidden_state=torch.nn.functional.one_hot(said, M + 1).float())


@settings(max_examples=80, deadline=None)
@given(
    drawn=confidences(),
    slips=st.lists(st.sampled_from([0, 0, 0, 1]), min_size=13, max_size=13),
    text=st.sampled_from(["diffusion", "supervisor"]),
)
def test_guided(drawn, slips, text):
    scores, masked = drawn
    said = [(i + 1 + slips[i]) % 8 for i in range(13)]  # right about position i + 1, or not
    step = make_step(scores, masked)
    u.Guided(Supervisor(said), text).begin(make_plan(len(scores))).select(step)
    x, masks = [M if m else 3 for m in masked], [i for i, m in enumerate(masked) if m]
    own = [said[max(i - 1, 0)] for i in range(len(scores))]
    agreed = next((k for k, i in enumerate(masks) if own[i] != i % 8), len(masks))
    for i in masks[:agreed]:
        x[i] = i % 8
    if agreed < len(masks) and (text == "supervisor" or agreed == 0):
        x[masks[agreed]] = own[masks[agreed]] if text == "supervisor" else masks[agreed] % 8
    assert step.x[0].tolist() == x


@settings(max_examples=60, deadline=None)
@given(
    drawn=confidences(),
    likes=st.lists(st.sampled_from([0.0, 1.0, 4.0]), min_size=120, max_size=120),
    tokens=st.integers(1, 4),
)
def test_joint_sampling(drawn, likes, tokens):
    scores, masked = drawn
    n = len(scores)
    hidden = torch.tensor(likes[: 10 * n]).view(1, n, 10)
    told = []

    def sampler(hidden, embedded, position):
        told.append(position.tolist())
        return hidden - 2 * embedded.sum(1, keepdim=True)  # no token twice, if that can be helped

    model = SimpleNamespace(
        get_input_embeddings=lambda: lambda ids: torch.nn.functional.one_hot(ids, 10).float(),
        get_output_embeddings=lambda: lambda hidden: hidden,
    )
    plan = make_plan(n)
    process = u.JointSampling(sampler, tokens).begin(
        u.Plan(plan.x, plan.places, plan.n_blocks, M, M + 1, model)
    )
    step = make_step(scores, masked, hidden=hidden)
    done = process.select(step)
    x, drawn_here = [M if m else 3 for m in masked], torch.zeros(10)
    for turn in range(min(tokens, sum(masked))):
        logits = hidden[0] - 2 * drawn_here
        logits[:, M] = -torch.inf
        confidence, token = logits.softmax(-1).max(-1)
        if turn == 0:
            confidence, token = torch.tensor(scores), torch.arange(n) % 8
        left = [i for i in range(n) if x[i] == M]
        first = min(left, key=lambda i: (-round(float(confidence[i]), 6), i))
        x[first] = int(token[first])
        drawn_here[x[first]] += 1
    assert step.x[0].tolist() == x and int(done.n_committed) == min(tokens, sum(masked))
    assert told == [[[i if m else -1 for i, m in enumerate(masked)]]] * (tokens - 1)


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), f=st.sampled_from([0.25, 1.0]))
def test_published_factor(drawn, f):
    scores, masked = drawn
    want, order = factor(scores, masked, f), ranked(scores, masked)
    first_passes = order and f32(scores[order[0]]) >= f32(1 - f32(f / 2))
    if first_passes and len(want) == len(order) - 1:  # the last one alone misses its bound
        want = set(order)
    assert chosen(u.Factor(f, last_too=True), scores, masked) == want


@settings(max_examples=60, deadline=None)
@given(drawn=confidences())
def test_slack(drawn):
    scores, masked = drawn
    top = max((s for s, m in zip(scores, masked, strict=True) if m), default=0.0)
    bound = min(f32(0.9), f32(max(f32(top) - f32(1e-5), 0.0)))
    want = {i for i, m in enumerate(masked) if m and f32(scores[i]) >= bound}
    assert chosen(u.Threshold(0.9, slack=1e-5), scores, masked) == want


@settings(max_examples=60, deadline=None)
@given(drawn=confidences(), step=st.integers(0, 2))
def test_variants(drawn, step):
    scores, masked = drawn
    want = threshold(scores, masked, 0.9)
    assert chosen(u.Tempered(u.Threshold(0.9)), scores, masked, step=step) == want
    if step == 0:
        want = {i for i, m in enumerate(masked) if m and not any(masked[:i])}
    assert chosen(u.FirstAlone(u.Threshold(0.9)), scores, masked, step=step) == want


@settings(max_examples=60, deadline=None)
@given(said=st.lists(st.sampled_from([None, 1, 2, 3]), min_size=6, max_size=6))
def test_votes(said):
    """Answers of blocks 2, 4 and 8 with two seeds each; among equals the smallest block's wins."""
    new = torch.tensor([[0 if s is None else s] for s in said])
    decoder = SimpleNamespace(infill=None, generate=lambda ids, mask, **options: SimpleNamespace(
        sequences=torch.cat([ids, new], 1), stats=options))  # fmt: skip
    vote = hex_vote(
        decoder, torch.zeros(1, 3, dtype=torch.int64), answer=lambda row: int(row[0]) or None,
        gen_length=1, blocks=(8, 2, 4), seeds=2,
    )  # fmt: skip
    assert vote.stats["block_length"].tolist() == [2, 2, 4, 4, 8, 8]
    assert vote.stats["seed"].tolist() == [0, 1] * 3
    count = Counter(s for s in said if s is not None)
    want = [s for s in said if s is not None and count[s] == max(count.values())]
    assert vote.answers == [want[0] if want else None] and vote.votes == [count]
