"""Wino against its published loop on full forwards, its rule against an oracle, its invariants."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import MASK as M
from steps import SCORES, make_plan, make_step

from tiny import VOCAB, prompts, tiny_model
from tokenburst.decoders import unmasking as u
from tokenburst.decoders.caches import DualCache
from tokenburst.decoders.diffusion import DiffusionDecoder
from tokenburst.decoders.reading import Sampling
from tokenburst.decoders.sparsed import SparseD

MASK = VOCAB - 1
BOLD = {"threshold": 0.1, "threshold_back": 0.14, "least": 3, "most": 5}


def published(model, prompt, gen, block, apart, *, threshold, threshold_back, least, most):
    """Greedy decoding with shadows, by the stock model and a mask of who sees whom."""
    x, n = torch.cat([prompt, torch.full((gen,), MASK)]), len(prompt) + gen
    forwards, returned = 0, 0
    for begin in range(len(prompt), n, block):
        inside, last = torch.arange(begin, begin + block), 30
        seen = torch.ones(n + block, n + block, dtype=torch.bool)
        seen[:, n:] = False
        seen[n:, n:] = torch.eye(block, dtype=torch.bool) if apart else True
        seen[n + torch.arange(block), inside] = False
        while (x[inside] == MASK).any():
            ids = torch.cat([x, torch.full((block,), MASK)])
            place = torch.cat([torch.arange(n), inside])
            mask = torch.zeros(seen.shape).masked_fill(~seen, -torch.inf)
            logits = model(
                ids[None], attention_mask=mask[None, None], position_ids=place[None]
            ).logits[0]
            logits[:, MASK] = -torch.inf
            p = logits.softmax(-1)
            masked, best = x[inside] == MASK, p[inside].max(-1)
            kept = p[n:].gather(1, x[inside][:, None])[:, 0]
            confidence = best.values.masked_fill(~masked, -1.0)
            cap = min(max(int(int(masked.sum()) * 0.7), least), most)
            accepted = confidence > threshold
            if accepted.sum() > cap or not accepted.any():
                order = confidence.argsort(descending=True, stable=True)
                accepted = torch.zeros_like(masked)
                accepted[order[: cap if confidence.max() > threshold else 1]] = True
            doubted = ~masked & (kept < threshold_back)
            if accepted.sum() <= 1:
                doubted = torch.zeros_like(masked)
            elif doubted.sum() >= last:
                order = kept.masked_fill(masked, torch.inf).argsort(stable=True)
                doubted = torch.zeros_like(masked)
                doubted[order[: last - 1]] = True
            x[inside] = torch.where(accepted, best.indices, x[inside])
            x[inside] = torch.where(doubted, MASK, x[inside])
            last, forwards = int(accepted.sum()), forwards + 1
            returned += int(doubted.sum())
    return x, forwards, returned


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_tokens_are_those_of_the_published_loop(family, apart):
    model, returned = tiny_model(family, torch.float32, False), 0
    decoder = DiffusionDecoder(model, u.Wino(**BOLD, apart=apart), mask_id=MASK)
    ids, mask = prompts(3, 7, seed=3, ragged=True)
    got = decoder.generate(ids, mask, gen_length=24, block_length=12)
    for b in range(3):
        row = ids[b, mask[b] == 1]
        with torch.no_grad():
            want, forwards, back = published(model, row, 24, 12, apart, **BOLD)
        assert got.sequences[b, 7:].tolist() == want[-24:].tolist()
        assert sum(got.stats.steps[b]) == forwards
        returned += back
    assert returned > 5


def rule(scores, kept, masked, last, policy):
    """Positions that are masks after a step."""
    n = sum(masked)
    cap = min(max(int(n * policy.share + 1e-9), policy.least), policy.most)
    masks = sorted((i for i, m in enumerate(masked) if m), key=lambda i: (-scores[i], i))
    bold = [i for i in masks if scores[i] > policy.threshold][:cap] or masks[:1]
    doubted = [i for i, m in enumerate(masked) if not m and kept[i] < policy.threshold_back]
    doubted = sorted(doubted, key=lambda i: (kept[i], i))[: last - 1] if len(bold) > 1 else []
    return {*masks} - {*bold} | {*doubted}, len(bold)


@settings(max_examples=80, deadline=None)
@given(
    drawn=st.lists(
        st.tuples(st.sampled_from(SCORES), st.sampled_from(SCORES), st.booleans()),
        min_size=1,
        max_size=12,
    ),
    before=st.integers(1, 4),
    cap=st.integers(1, 4),
)
def test_the_rule_equals_its_oracle(drawn, before, cap):
    scores, kept, masked = map(list, zip(*drawn, strict=True))
    scores, kept = (torch.tensor(v).tolist() for v in (scores, kept))  # as float32 has them
    policy = u.Wino(threshold=0.5, threshold_back=0.75, least=1, most=cap)
    process = policy.begin(make_plan(len(scores)))
    process.last = torch.tensor([before], dtype=torch.int32)
    found = torch.tensor([kept]).log()[..., None]
    step = make_step(scores, masked, step=1, logits_at=lambda ids: found)
    done = process.select(step)
    want, committed = rule(scores, kept, masked, before, policy)
    assert {int(i) for i in (step.x[0] == M).nonzero()} == want
    assert int(done.n_left) == len(want) and int(process.last) == committed
    assert int(done.n_committed) == sum(masked) - len(want)


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        (torch.float32, {}),
        (torch.float32, {"guidance": 0.7, "sampling": Sampling(numerics="fp64")}),
        (torch.bfloat16, {"temperature": 0.8, "seed": 4}),
    ],
    ids=str,
)
def test_a_batch_equals_its_rows_alone(dtype, options):
    decoder = DiffusionDecoder(tiny_model("qwen2", dtype, False), u.Wino(**BOLD), mask_id=MASK)
    ids, mask = prompts(4, 7, seed=3, ragged=True)
    names, seen = torch.arange(4) + 9, []
    together = decoder.generate(
        ids, mask, gen_length=16, block_length=8, sequence_ids=names,
        callback=lambda n, x: seen.append(x), **options,
    )  # fmt: skip
    assert all(torch.equal(x[:, :7], ids) for x in seen) and torch.equal(
        seen[-1], together.sequences
    )
    assert not bool((together.sequences[:, 7:] == MASK).any())
    assert all(s <= 8 for row in together.stats.steps for s in row)
    for b in range(4):
        alone = decoder.generate(
            ids[b : b + 1, mask[b] == 1], gen_length=16, block_length=8,
            sequence_ids=names[b : b + 1], **options,
        )  # fmt: skip
        assert alone.sequences[0, -16:].tolist() == together.sequences[b, -16:].tolist()
        assert alone.stats.steps[0] == together.stats.steps[b]


@pytest.mark.parametrize("back", [1e-6, 1.0])
@pytest.mark.parametrize("threshold", [1e-6, 0.5, 1.0])
def test_a_block_ends_within_as_many_steps_as_it_has_masks(threshold, back):
    policy = u.Wino(threshold, back, least=2, most=20)
    decoder = DiffusionDecoder(tiny_model("llama", torch.float32, False), policy, mask_id=MASK)
    ids, _ = prompts(2, 5, seed=6)
    ids[:, [1, 3]] = MASK
    for x, masks in ((ids, 2), (torch.cat([ids, torch.full((2, 15), MASK)], 1), 17)):
        out = decoder.infill(x)
        assert not bool((out.sequences == MASK).any()) and out.stats.forwards <= masks
        assert torch.equal(out.sequences[x != MASK], x[x != MASK])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: u.Wino(threshold=0.0), "Wino: threshold: expected > 0 and <= 1, got 0.0"),
        (lambda: u.Wino(least=9, most=8), "Wino: most: expected an integer >= 9, got 8"),
        (lambda: build(cache=DualCache()), "unshifted model, got cache DualCache"),
        (lambda: build(attention=SparseD()), "unshifted model, got attention SparseD"),
        (lambda: build(shifted=True), "unshifted model, got shifted True"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def build(**options):
    model = tiny_model("llama", torch.float32, False)
    return DiffusionDecoder(model, u.Wino(), mask_id=MASK, **options)
