"""Published rules: which masks a step commits, from probabilities p [L, V] in float64.

A rule is called as rule(p, masks, j, state): the positions that are masks in ascending order, the
step of the block, and a `published_loops.Blocks` that also has `logits` and `token` of the step.
"""

import torch
from published_loops import best, share


def threshold(tau, strict=False, slack=None):
    def rule(p, masks, j, state):
        c = p.amax(-1)
        bound = tau if slack is None else min(tau, max(float(c[i]) for i in masks) - slack)
        passes = [i for i in masks if c[i] > bound or (c[i] == bound and not strict)]
        return passes or best(c, masks, 1)

    return rule


def factor(f, published=False):
    def rule(p, masks, j, state):
        ranked = best(p.amax(-1), masks, len(masks))
        c = [float(p[i].max()) for i in ranked]
        for at in range(len(c)):  # at = index of the rank that fails, or of the last one
            if c[at] < 1 - f / (at + 2):
                break
        else:
            at = len(c) if not published else at
        if at == 0 or (published and at == len(c) - 1):
            at += 1
        return ranked[:at]

    return rule


def entropy(tau):
    def rule(p, masks, j, state):
        h = -(p * (p + 1e-12).log()).sum(-1)
        passes = [i for i in masks if h[i] <= tau]
        return passes or best(-h, masks, 1)

    return rule


def entropy_budget(gamma):
    def rule(p, masks, j, state):
        h = torch.special.entr(p).sum(-1)
        ranked = best(-h, masks, len(masks))
        sums = h[ranked].cumsum(0) - h[ranked]  # h ascends: the last one is the largest
        return [i for i, s in zip(ranked, sums, strict=True) if s <= gamma]

    return rule


def local_leap(tau, near, reach):
    def rule(p, masks, j, state):
        c = p.amax(-1)
        anchors = [i for i in masks if c[i] >= tau]
        close = [
            i for i in masks if c[i] >= near and any(abs(i - anchor) <= reach for anchor in anchors)
        ]
        return {*anchors, *close, *best(c, masks, 1)}

    return rule


def quota(tau, steps):
    """SDAR's dynamic rule, LLaDA2: what exceeds tau, or the quota where that is more."""

    def rule(p, masks, j, state):
        c = p.amax(-1)
        high = [i for i in masks if c[i] > tau]
        n = share(state.size, steps, j)
        return high if len(high) >= n else best(c, masks, n)

    return rule


def klass(tau, kl, history):
    def rule(p, masks, j, state):
        past = getattr(state, "past", torch.zeros_like(p))
        moved = (p * ((p + 1e-12).log() - (past + 1e-12).log())).sum(-1)
        state.moves = [*getattr(state, "moves", [torch.zeros_like(moved)] * history), moved]
        state.moves, state.past = state.moves[-history:], p
        stable = torch.stack(state.moves).amax(0) < kl
        c = p.amax(-1)
        ready = [i for i in masks if j >= history - 1 and stable[i] and c[i] > tau]
        return ready or best(c, masks, 1)

    return rule


def prophet(answer, total):
    def rule(p, masks, j, state):
        state.step = getattr(state, "step", -1) + 1
        progress = state.step / total
        top = state.logits.topk(2).values
        gap = (top[answer, 0] - top[answer, 1]).mean()
        if gap >= (7.5 if progress < 0.33 else 5.0 if progress < 0.67 else 2.5):
            return [i for i in range(len(state.x)) if state.x[i] == state.mask]
        return best(p.amax(-1), masks, 1)

    return rule


def credit(tau, alpha, gamma, beta):
    """CreditDecoding with the dense tensor C; dInfer's threshold."""

    def rule(p, masks, j, state):
        if j == 0:
            state.c = torch.zeros_like(p)
        else:
            state.c *= beta
        top, at = p.max(-1)
        for i in masks:
            state.c[i, at[i]] += top[i] ** gamma
        fused = (state.logits.double() + alpha * (1 + state.c).log()).softmax(-1)
        state.token = fused.argmax(-1)
        return threshold(tau, slack=1e-5)(fused, masks, j, state)

    return rule


def damped(eos, least, steps, count, progress):
    """EOSER: the confidence of a proposed end counts for less early on."""

    def rule(p, masks, j, state):
        phi = least + (1 - least) * progress(j)
        c = p.amax(-1)
        c = torch.where(state.token == eos, c * phi, c)
        n = len(masks) if j == steps - 1 else count(j)
        return best(c, masks, n)

    return rule


def dimple(tau, steps, order, eps=1e-3):
    """Confident decoding; where nothing is sure, what Dream's schedule would commit next."""
    times = torch.linspace(1, eps, steps + 1, dtype=torch.float64).tolist()

    def rule(p, masks, j, state):
        c = p.amax(-1)
        sure = [i for i in masks if c[i] > tau]
        if j == steps - 1:
            return masks
        if sure:
            return sure
        ratio = len(masks) / state.size
        first = next((i for i, t in enumerate(times) if t < ratio), steps)
        counts = [
            int(len(masks) * (1 - times[i + 1] / ratio)) for i in range(max(first, j + 1), steps)
        ]
        n = next((n for n in counts if n >= 1), 1)
        top = p.topk(2).values
        score = {
            "maskgit_plus": c,
            "topk_margin": top[:, 0] - top[:, 1],
            "entropy": (p * (p + 1e-10).log()).sum(-1),
            "autoregressive": -torch.arange(len(p)),
        }[order]
        return best(score, masks, n)

    return rule
