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
        self.mask, self.size = mask, block

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
