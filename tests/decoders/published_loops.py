"""Published decoding loops for one sequence, in plain torch, from their description.

`f(x)` gives the logits [L, V] of the positions of x [L], without the mask token. Loops return the
filled sequence. Where a loop draws, it is given the draws.
"""

import math

import torch

MASK = 63


class Blocks:
    """Prompt and masks, and where each block of them stands."""

    def __init__(self, prompt, gen_length, block, mask=MASK):
        self.x = torch.cat([prompt, torch.full((gen_length,), mask)])
        self.spans = [(s, s + block) for s in range(len(prompt), len(self.x), block)]
        self.mask = mask

    def left(self, begin, end):
        return [i for i in range(begin, end) if self.x[i] == self.mask]


def share(n, steps, j):
    return n // steps + (j < n % steps)


def best(score, masks, count):
    """The `count` masks of the highest scores, the leftmost of equal ones first."""
    return sorted(masks, key=lambda i: (-float(score[i]), i))[:count]


def llada(f, prompt, gen_length, block, steps, *, temperature=0.0, cfg=0.0, noise=None, order=None,
          dtype=torch.float32, conf_inf=(), mask=MASK):  # fmt: skip
    """LLaDA's generate: by confidence, or by order(j) [L]; noise(j) [L, V] is -ln U."""
    state = Blocks(prompt, gen_length, block, mask)
    x, each = state.x, steps // len(state.spans)
    for begin, end in state.spans:
        n = len(state.left(begin, end))
        for j in range(each):
            logits = f(x)
            if cfg > 0:
                hidden = x.clone()
                hidden[: len(prompt)] = mask
                free = f(hidden)
                logits = free + (cfg + 1) * (logits - free)
            scored = logits.clone()
            if temperature == 0:
                token = logits.argmax(-1)
            else:
                token = (logits.double().exp() / noise(j) ** temperature).argmax(-1)
            for i in conf_inf:
                scored[:, i] = -torch.inf
            p = scored.to(dtype).softmax(-1).gather(1, token[:, None])[:, 0]
            for i in best(order(j) if order else p, state.left(begin, end), share(n, each, j)):
                x[i] = token[i]
    return x


def nucleus(logits, top_p, top_k):
    """Dream's filters: what lies beyond the id that crosses top_p goes, then all but the top_k."""
    if top_p < 1:
        ordered, ids = logits.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.softmax(-1).cumsum(-1) > top_p
        beyond = torch.cat([torch.zeros_like(beyond[:, :1]), beyond[:, :-1]], 1)
        logits = logits.masked_fill(torch.zeros_like(beyond).scatter(1, ids, beyond), -torch.inf)
    if top_k:
        kth = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < kth, -torch.inf)
    return logits


def dream(f, prompt, gen_length, steps, order, *, temperature=0.0, top_p=1.0, top_k=0, alg_temp=0.0,
          gumbel=None, chance=None, eps=1e-3):  # fmt: skip
    """Dream's diffusion_generate. f has the shifted rows; gumbel(j) [L, V], chance(j) [L]."""
    state = Blocks(prompt, gen_length, gen_length)
    x, (begin, end) = state.x, state.spans[0]
    times = torch.linspace(1, eps, steps + 1, dtype=torch.float64)
    spent = 0  # steps that may commit: ours are numbered without the others
    for i in range(steps):
        masks = state.left(begin, end)
        t, s = times[i], times[i + 1]
        logits = f(x)
        kept = nucleus(logits / temperature if temperature else logits, top_p, top_k)
        q = kept.softmax(-1)
        token = (kept + gumbel(spent) if temperature else kept).argmax(-1)
        if order == "origin":
            chosen = [j for j in masks if i == steps - 1 or float(chance(spent)[j]) < 1 - s / t]
            spent += 1
        else:
            top = q.topk(2).values
            score = {
                "maskgit_plus": q.gather(1, token[:, None])[:, 0],
                "topk_margin": top[:, 0] - top[:, 1],
                "entropy": (q * (q + 1e-10).log()).sum(-1),
            }[order]
            n = int(len(masks) * (1 - s / t)) if i < steps - 1 else len(masks)
            if alg_temp:  # Gumbel top-n: a multinomial draw without replacement
                score = score / alg_temp + chance(spent)
            chosen = best(score, masks, n)
            spent += n > 0
        for j in chosen:
            x[j] = token[j]
    return x


def by_blocks(f, prompt, gen_length, block, rule, limit=1000, mask=MASK):
    """Greedy proposals; rule(p, masks, j, state) names what a step commits, until none is left."""
    state = Blocks(prompt, gen_length, block, mask)
    x = state.x
    for begin, end in state.spans:
        state.size = end - begin
        for j in range(limit):
            masks = state.left(begin, end)
            if not masks:
                break
            state.logits = f(x)
            p = state.logits.double().softmax(-1)
            state.token = p.argmax(-1)
            for i in rule(p, masks, j, state):
                x[i] = state.token[i]
    return x


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


def running_confidence(f, prompt, gen_length, block, steps, most=False, mask=MASK):
    """RCR with the cosine curve: write all masks, take back what is least sure of the sequence."""
    state = Blocks(prompt, gen_length, block, mask)
    x, each = state.x, steps // len(state.spans)
    sure = torch.zeros(len(x), dtype=torch.float64)
    for begin, end in state.spans:
        n = end - begin
        left = [int(n * math.cos(math.pi / 2 * j / each) + 1e-9) for j in range(1, each)] + [0]
        for j in range(each):
            p = f(x).double().softmax(-1)
            for i in [i for i in range(end) if x[i] == mask]:
                x[i], c = int(p[i].argmax()), p[i].max()
                sure[i] = max(c, sure[i]) if most else c
            certain = torch.where(sure == 0, 1.0, sure)  # the prompt
            for i in best(-certain, range(len(prompt), end), left[j]):
                x[i] = mask
    return x


def edited(f, prompt, gen_length, block, tau, tau_edit, post=16, mask=MASK):
    """LLaDA2.1: its rule, and tokens of the block replaced where another one is sure."""
    state = Blocks(prompt, gen_length, block, mask)
    x = state.x
    for begin, end in state.spans:
        after = 0
        while True:
            masks = state.left(begin, end)
            c, token = f(x).double().softmax(-1).max(-1)
            chosen = [i for i in masks if c[i] > tau] or best(c, masks, 1)
            edits = [
                i
                for i in range(begin, end)
                if i not in masks and token[i] != x[i] and c[i] > tau_edit
            ]
            for i in (*chosen, *edits):
                x[i] = token[i]
            if not masks and (not edits or after >= post):
                break
            after += not state.left(begin, end)
    return x
