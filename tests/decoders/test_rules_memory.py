"""Rules that remember or take back: several steps in a row against oracles of a few lines."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from steps import MASK as M
from steps import SCORES, make_plan, make_step
from test_rules import f32

from tokenburst import ops
from tokenburst.decoders import unmasking as u
from tokenburst.ref.philox import philox4x32

# Distributions over three ids: saturated, sure, unsure, tied.
LAWS = (
    (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.98, 0.01, 0.01), (0.01, 0.98, 0.01), (0.95, 0.04, 0.01),
    (0.5, 0.3, 0.2), (0.25, 0.25, 0.5), (0.25, 0.5, 0.25), (0.5, 0.5, 0.0),
)  # fmt: skip


def runs(values, steps=5, most=8, multiple=1):
    """Of each step one value for each of n positions: all drawn, or the same throughout."""
    size = st.integers(1, most // multiple).map(lambda n: n * multiple)
    each = st.sampled_from(values)
    drawn = size.flatmap(lambda n: st.lists(st.lists(each, min_size=n, max_size=n), min_size=steps,
                                            max_size=steps))  # fmt: skip
    same = st.tuples(size, each).map(lambda pair: [[pair[1]] * pair[0]] * steps)
    return st.one_of(drawn, same)


def law_step(laws, masked, j):
    """A step whose positions have these distributions."""
    p = torch.tensor([laws])
    order = p.sort(dim=2, descending=True, stable=True)
    stats = ops.VocabStats(
        ids=order.indices,
        values=order.values.log(),
        lse=torch.zeros(p.shape[:2]),
        token=order.indices[..., 0],
        confidence=order.values[..., 0],
        margin=order.values[..., 0] - order.values[..., 1],
        entropy=torch.special.entr(p).sum(2),
        n_nan=torch.zeros(p.shape[:2], dtype=torch.int32),
    )
    at = lambda ids: p.log().gather(2, ids.clamp(min=0))  # noqa: E731
    return make_step(p.amax(2)[0].tolist(), masked, step=j, stats=stats, logits_at=at)


def best(score, masks, count=1):
    return sorted(masks, key=lambda i: (-score[i], i))[:count]


def where(flags):
    return [i for i, flag in enumerate(flags) if flag]


@settings(max_examples=80, deadline=None)
@given(laws=runs(LAWS), history=st.integers(1, 2))
def test_stable(laws, history):
    n, masked, streak = len(laws[0]), [True] * len(laws[0]), [0] * len(laws[0])
    process = u.Stable(0.9, 0.01, history, k=3).begin(make_plan(n))
    for j, now in enumerate(laws):
        step = law_step(now, masked, j)
        done = process.select(step)
        for i in range(n):
            p, q = now[i], laws[j - 1][i]
            moved = sum(a * math.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a)
            streak[i] = streak[i] + 1 if j and moved < 0.01 else 0
        masks, top = where(masked), [max(p) for p in now]
        want = [i for i in masks if top[i] > 0.9 and streak[i] >= history] or best(top, masks)
        masked = [m and i not in want for i, m in enumerate(masked)]
        assert (step.x == M)[0].tolist() == masked and int(done.n_committed) == len(want)


@settings(max_examples=80, deadline=None)
@given(laws=runs(LAWS))
def test_credit(laws):
    n, masked = len(laws[0]), [True] * len(laws[0])
    process = u.Credit(u.Threshold(0.9), gain=0.7, power=0.2, decay=0.8).begin(make_plan(n))
    credit = [[0.0] * 3 for _ in range(n)]
    for j, now in enumerate(laws):
        step = law_step(now, masked, j)
        process.select(step)
        fused = []
        for i, p in enumerate(now):
            top = max(range(3), key=lambda v, p=p: (p[v], -v))
            credit[i] = [0.8 * c + (v == top) * p[top] ** 0.2 for v, c in enumerate(credit[i])]
            raised = [a * (1 + c) ** 0.7 for a, c in zip(p, credit[i], strict=True)]
            fused.append([a / sum(raised) for a in raised])
        masks, top = where(masked), [max(p) for p in fused]
        want = [i for i in masks if top[i] >= 0.9]
        alike = [i for i in masks if top[i] > max((top[k] for k in masks), default=0) - 1e-6]
        masked = (step.x == M)[0].tolist()
        gone = [i for i in masks if not masked[i]]
        assert gone == want or (not want and gone == alike[:1]) or not masks
        for i in gone:
            assert int(step.x[0, i]) == max(range(3), key=lambda v, i=i: (fused[i][v], -v))


@settings(max_examples=80, deadline=None)
@given(scores=runs(SCORES, steps=8), most=st.integers(1, 3))
def test_slow_fast(scores, most):
    n, masked = len(scores[0]), [True] * len(scores[0])
    process = u.SlowFast(0.9, hint=0.3, slow_steps=most).begin(make_plan(n))
    span, told = -1, []  # where the fast phase ends; what slow steps told
    for j, now in enumerate(scores):
        step = make_step(now, masked, step=j)
        process.select(step)
        masks, inside = where(masked), [i for i in where(masked) if i <= span]
        if inside:
            want = [i for i in inside if now[i] > 0.9 and f32(now[i]) > f32(0.9)]
            want = want or best(now, inside)
        else:
            want = best(now, masks)
            told.append(max([i for i in masks if now[i] > 0.3], default=min(masks, default=-1)))
            near = len(told) > 1 and (told[-1] - told[-2]) ** 2 / 4 <= 1
            span = told[-1] if near or len(told) >= most else -1
            told = [] if span >= 0 else told
        masked = [m and i not in want for i, m in enumerate(masked)]
        assert (step.x == M)[0].tolist() == masked


@settings(max_examples=60, deadline=None)
@given(scores=runs(SCORES, steps=4), most=st.booleans())
def test_running_confidence(scores, most):
    n, x = len(scores[0]), [M] * len(scores[0])
    running = "most" if most else "last"
    process, sure = u.RunningConfidence(4, running=running).begin(make_plan(n)), {}
    for j, now in enumerate(scores):
        step = make_step(now, [token == M for token in x], step=j)
        process.select(step)
        for i in where(token == M for token in x):
            x[i], sure[i] = 3, max(now[i], sure.get(i, 0) if most else 0)
        left = int(n * math.cos(math.pi / 2 * (j + 1) / 4) + 1e-9) if j < 3 else 0
        for i in best({i: -s for i, s in sure.items()}, range(n), left):
            x[i] = M
        assert (step.x == M)[0].tolist() == [token == M for token in x]


@settings(max_examples=60, deadline=None)
@given(scores=runs(SCORES, steps=4, most=12, multiple=3))
def test_spans(scores):
    n, masked = len(scores[0]), [True] * len(scores[0])
    process = u.SpanMasking(4, span=3).begin(make_plan(n))
    for j, now in enumerate(scores):
        step = make_step(now, masked, step=j)
        process.select(step)
        spans = [range(i, i + 3) for i in range(0, n, 3) if masked[i]]
        count = max(1, int(n // 3 * math.cos(math.pi / 2 * (j + 1) / 3) + 1e-9)) if j < 3 else 0
        worst = sorted(spans, key=lambda span: (max(now[i] for i in span), span[0]))[:count]
        masked = [any(i in span for span in worst) for i in range(n)]
        assert (step.x == M)[0].tolist() == masked


@settings(max_examples=60, deadline=None)
@given(scores=runs(SCORES, steps=5), mode=st.sampled_from(["cap", "rescale", "conf"]))
def test_remdm(scores, mode):
    n, steps, masked = len(scores[0]), len(scores), [True] * len(scores[0])
    process = u.ReMDM(steps, mode, eta=0.3).begin(make_plan(n))
    written, apart, zero = [0.0] * n, torch.tensor(0xFFFFFFFF), torch.tensor(0)
    for j, now in enumerate(scores):
        step = make_step(now, masked, step=j)
        process.select(step)
        words = philox4x32(torch.tensor(1), (apart, torch.arange(n), torch.tensor(j), zero))
        shown, back = ((words[i] >> 8).double() / 2**24 for i in (1, 3))
        old, new = j / steps, (j + 1) / steps  # alpha
        most = min(1.0, (1 - new) / old) if old else 1.0
        weight = [0.0 if m else math.exp(-w) for m, w in zip(masked, written, strict=True)]
        plain = {"cap": min(0.3, most), "rescale": 0.3 * most, "conf": 0.0}[mode]
        reveal = (new - (1 - plain) * old) / (1 - old)
        for i, mask in enumerate(masked.copy()):
            sigma = most * weight[i] / sum(weight) if mode == "conf" and not mask else plain
            if mask and (shown[i] < reveal or j + 1 == steps):
                masked[i], written[i] = False, now[i]
            elif not mask:
                masked[i] = bool(back[i] < sigma)
        assert (step.x == M)[0].tolist() == masked


@settings(max_examples=60, deadline=None)
@given(scores=runs(SCORES, steps=1, most=12), flags=st.lists(st.booleans(), min_size=12))
def test_editing(scores, flags):
    now, n = scores[0], len(scores[0])
    masked = flags[:n]
    step = make_step(now, masked)
    done = u.Editing(u.llada2(0.9), threshold=0.8).begin(make_plan(n)).select(step)
    high = [i for i in where(masked) if f32(now[i]) > f32(0.9)] or best(now, where(masked))
    edits = [i for i in range(n) if not masked[i] and i % 8 != 3 and f32(now[i]) > f32(0.8)]
    x = [M if m else 3 for m in masked]
    for i in (*high, *edits):
        x[i] = i % 8
    assert step.x[0].tolist() == x
    assert (int(done.n_committed), int(done.n_edited)) == (len(high), len(edits))
    assert int(done.n_left) == max(x.count(M), int(bool(high or edits)))


@settings(max_examples=60, deadline=None)
@given(
    scores=runs(SCORES, steps=1, most=16, multiple=2), flags=st.lists(st.booleans(), min_size=16)
)
def test_end_of_text(scores, flags):
    now, n = scores[0], len(scores[0])
    masked, half = flags[:n], n // 2
    current = torch.arange(n)[None] < half
    step = make_step(now, masked, n_masks=half, current=current, n_blocks=torch.tensor([2]))
    policy = u.EndOfText(u.LowConfidence(), eos=(1, 5), threshold=0.5)
    process = policy.begin(make_plan(n, 2))
    done = process.select(step)
    x = [M if m else 3 for m in masked]
    ends = [i for i in where(masked) if i % 8 in (1, 5) and now[i] >= 0.5]
    for i in best(now, where(masked[:half])):
        x[i] = i % 8
    end = best(now, ends)[0] if ends else n - 1
    x[end + 1 :] = [1] * (n - 1 - end)
    assert step.x[0].tolist() == x and int(process.lengths) == end + 1
    assert int(done.n_left) == x[:half].count(M)
