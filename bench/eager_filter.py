"""Draws of a filtered distribution in eager calls, as sampling code has them."""

import torch


def nucleus(logits, noise, p, t):
    """Dream's sampling code: temperature, sort, top-p, softmax, a draw."""
    x = logits.float() / t
    ordered, order = x.sort(-1, descending=True)
    q = ordered.softmax(-1)
    out = torch.zeros_like(q, dtype=torch.bool).scatter(-1, order, q.cumsum(-1) - q > p)
    q = x.masked_fill(out, -torch.inf).softmax(-1)
    token = (q.log() + noise).argmax(-1)
    return token, q.gather(1, token[:, None]).squeeze(1), (~out).sum(1)


def nucleus_of_best(logits, noise, p, t, width=8192):
    """The same where no nucleus is wider than `width`."""
    x = logits.float() / t
    best, order = x.topk(width)
    q = (best - x.logsumexp(-1, keepdim=True)).exp()
    out = q.cumsum(-1) - q > p
    q = best.masked_fill(out, -torch.inf).softmax(-1)
    at = (q.log() + noise[:, :width]).argmax(-1, keepdim=True)
    return order.gather(1, at).squeeze(1), q.gather(1, at).squeeze(1), (~out).sum(1)


def best_few(logits, noise, k, t):
    values, order = (logits.float() / t).topk(k)
    q = values.softmax(-1)
    at = (q.log() + noise[:, :k]).argmax(-1, keepdim=True)
    return order.gather(1, at).squeeze(1), q.gather(1, at).squeeze(1)
