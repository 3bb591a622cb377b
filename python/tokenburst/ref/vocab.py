"""Statistics of logits in plain torch: widen, clean, sort."""

import torch
from torch import Tensor

from tokenburst.ref.philox import exponential, fused, gumbel, log_fast, philox4x32
from tokenburst.ref.tiles import TILE, in_tiles, log_mass, pick_in_tile, tile_masses
from tokenburst.ref.weights import (
    clean,
    exp_fast,
    inverse_temperature,
    pick,
    random_below,
    random_words,
    softmax_weights,
)

_LARGEST = torch.finfo(torch.float32).max
_DRAFTING = 2**30  # first counter of vocab_sample


def vocab_stats(
    logits: Tensor,
    k: int = 1,
    *,
    rows: Tensor | None = None,
    suppress: Tensor | None = None,
    temperature: Tensor | None = None,
    rng: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Sort, log-sum-exp in float64, Gumbel-max; see `tokenburst.ops.vocab_stats`."""
    raw = logits.reshape(-1, logits.shape[-1]).float()
    none = torch.zeros(raw.shape[0], dtype=torch.bool, device=raw.device)
    if rows is not None:
        none = rows < 0
        raw = raw[rows.clamp_min(0).long()] if raw.shape[0] else raw.new_empty(0, raw.shape[1])
    vocab = raw.shape[1]
    n_nan = (raw.isnan().sum(1) * ~none).int()
    clean = torch.where(raw.isnan(), -torch.inf, raw).clamp_max(_LARGEST)
    if suppress is not None:
        clean[:, suppress.long()] = -torch.inf
    clean[none] = -torch.inf
    chosen_none = clean.amax(1) == -torch.inf

    top, order = clean.sort(dim=1, descending=True, stable=True)  # stable: equal values by id
    values = top[:, :k]
    ids = torch.where(values == -torch.inf, -1, order[:, :k])

    wide = clean.double()
    shifted = torch.where(chosen_none[:, None], 0.0, wide - wide.amax(1, keepdim=True))
    log_sum = shifted.logsumexp(1)  # of the shifted row: an lse near 3e38 has no room for ln 2
    lse = wide.amax(1) + log_sum
    log_p = torch.where(chosen_none[:, None], -torch.inf, shifted - log_sum[:, None])
    p = log_p.exp()
    entropy = -torch.where(p > 0, p * log_p, 0.0).sum(1)
    best = p.sort(dim=1, descending=True).values
    margin = best[:, 0] - best[:, 1] if vocab > 1 else best[:, 0]

    token = order[:, 0].clone()
    if temperature is not None and rng is not None:
        seed, sequence, step, position = rng.long().T[..., None]
        v = torch.arange(vocab, device=raw.device).expand_as(clean)
        words = torch.stack(philox4x32(seed, (v // 4, position, step, sequence)))
        noise = gumbel(words.gather(0, (v % 4)[None])[0])
        inverse = torch.where(temperature > 0, 1.0 / temperature, 0.0).clamp_max(_LARGEST)
        score = fused(clean, inverse[:, None], noise).clamp(-_LARGEST, _LARGEST)
        score = torch.where(clean == -torch.inf, -torch.inf, score)
        drawn = score.sort(dim=1, descending=True, stable=True).indices[:, 0]
        token = torch.where(temperature > 0, drawn, token)
    confidence = p.gather(1, token[:, None])[:, 0]
    token = torch.where(chosen_none, -1, token)
    return (
        ids,
        values.contiguous(),
        lse.float(),
        token,
        confidence.float(),
        margin.float(),
        entropy.float(),
        n_nan,
    )


def vocab_filter(
    logits: Tensor,
    *,
    rows: Tensor | None = None,
    uncond: Tensor | None = None,
    guidance: Tensor | None = None,
    suppress: Tensor | None = None,
    bias_ids: Tensor | None = None,
    bias: Tensor | None = None,
    unranked: Tensor | None = None,
    temperature: Tensor | None = None,
    rng: Tensor | None = None,
    top_k: Tensor | None = None,
    top_p: Tensor | None = None,
    tempered: bool = False,
) -> tuple[Tensor, ...]:
    """One row after the other, sorted; see `tokenburst.ops.vocab_filter`."""
    given = logits.reshape(-1, logits.shape[-1]).float()
    other = None if uncond is None else uncond.reshape(given.shape).float()
    numbers = torch.arange(len(given)) if rows is None else rows
    token = torch.full((len(numbers),), -1)
    result = torch.zeros(5, len(numbers))  # confidence, margin, entropy, log_odds, gap
    result[3] = -torch.inf
    counts = torch.zeros(2, len(numbers), dtype=torch.int32)
    for n, r in enumerate(numbers.tolist()):
        if r < 0:
            continue
        counts[1, n] = given[r].isnan().sum()
        bad = given[r].isnan() | (given[r] == -torch.inf)
        value = given[r].nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
        if other is not None and guidance is not None:
            bad |= other[r].isnan() | (other[r] == -torch.inf)
            base = other[r].nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
            apart = (value - base).clamp(-_LARGEST, _LARGEST)
            value = fused(1.0 + guidance[n], apart, base).clamp(-_LARGEST, _LARGEST)
        for i, v in enumerate(bias_ids.tolist() if bias_ids is not None else []):
            value[v] += bias[i]  # type: ignore[index]
        bad |= value.isnan() | (value == -torch.inf)
        value = value.clamp(-_LARGEST, _LARGEST)
        if suppress is not None:
            bad[suppress.long()] = True
        allowed = (~bad).nonzero()[:, 0]
        if len(allowed) == 0:
            continue
        t = 0.0 if temperature is None else float(temperature[n])
        inverse = torch.tensor(1.0)
        if t > 0:
            inverse = (1.0 / temperature[n]).clamp_max(_LARGEST)  # type: ignore[index]
        scaled = (value * inverse).clamp(-_LARGEST, _LARGEST)
        order = allowed[scaled[allowed].sort(descending=True, stable=True).indices]
        best = value[allowed].sort(descending=True).values.tolist()
        result[4, n] = best[0] - best[1] if len(best) > 1 else torch.inf
        keep = len(order)
        if top_p is not None and float(top_p[n]) < 1:
            mass = (scaled[order] - scaled[order[0]]).double().exp()
            keep = int((mass.cumsum(0) - mass <= float(top_p[n]) * mass.sum()).sum())
        if top_k is not None and 0 < int(top_k[n]) < len(order):
            bound = scaled[order[int(top_k[n]) - 1]]
            keep = min(keep, int((scaled[order] >= bound).sum()))
        kept = order[:keep]
        counts[0, n] = keep
        token[n] = kept[0]
        if t > 0 and rng is not None:
            seed, sequence, step, position = rng[n].long()
            words = torch.stack(philox4x32(seed, (kept // 4, position, step, sequence)))
            noise = gumbel(words.gather(0, (kept % 4)[None])[0])
            score = fused(value[kept], inverse, noise).clamp(-_LARGEST, _LARGEST)
            token[n] = kept[score == score.max()].min()
        counted = kept if tempered else order
        if unranked is not None:
            counted = counted[~torch.isin(counted, unranked.long())]
        if len(counted) == 0:
            continue
        of = (scaled if tempered else value)[counted].double()
        of = of - of.max()
        p = of.softmax(0)
        own = counted == token[n]
        ranked = p.sort(descending=True).values
        result[1, n] = ranked[0] - ranked[1] if len(ranked) > 1 else ranked[0]
        result[2, n] = torch.special.entr(p).sum()
        if bool(own.any()):
            result[0, n] = p[own][0]
            result[3, n] = of[own][0] - of[~own].logsumexp(0)
    return token.to(logits.device), *result.to(logits.device), *counts.to(logits.device)


def vocab_top(logits: Tensor, k: int = 1, *, count: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A stable sort, so that equal values stand by id; see `tokenburst.ops.vocab_top`."""
    x = logits.float()
    x = torch.where(x.isnan(), -torch.inf, x).clamp_max(_LARGEST)
    if count is not None:
        row = torch.arange(x.shape[1], device=x.device)
        x = torch.where((row < count[:, None])[:, :, None], x, -torch.inf)
    values, order = x.sort(dim=-1, descending=True, stable=True)
    values = values[..., :k].contiguous()
    return torch.where(values == -torch.inf, -1, order[..., :k]), values


def vocab_sample(
    logits: Tensor,
    k: int,
    temperature: Tensor,
    rng: Tensor,
    *,
    rows: Tensor | None = None,
    parent_g: Tensor | None = None,
    parent_phi: Tensor | None = None,
    replacement: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row by row, one draw after the other; see `tokenburst.ops.vocab_sample`."""
    raw = logits.reshape(-1, logits.shape[-1]).cpu()
    numbers = list(range(raw.shape[0])) if rows is None else rows.tolist()
    count, vocab = len(numbers), raw.shape[1]
    ids = torch.full((count, k), -1, dtype=torch.int64)
    logq, g = (torch.full((count, k), -torch.inf) for _ in range(2))
    lse = torch.full((count,), -torch.inf)
    for n, row in enumerate(numbers):
        x = clean(raw[row]) if row >= 0 else torch.full((vocab,), -torch.inf)
        if x.amax() == -torch.inf:
            continue
        t, (seed, sequence, step, position) = temperature[n].item(), rng[n].tolist()
        if not t > 0:
            chosen = [int(x.argmax())] * k if replacement else _ranked(x)[:k]
            ids[n, : len(chosen)] = torch.tensor(chosen)
            logq[n, : k if replacement else 1] = 0.0
            g[n] = torch.zeros(k) if replacement else logq[n]
            if parent_g is not None:
                g[n, 0] = parent_g[n]
            lse[n] = x.amax()
            continue
        inverse = torch.tensor(inverse_temperature(t))
        mass, best = tile_masses(x, inverse)
        w = in_tiles(softmax_weights(x, t).long(), 0)
        log_all = log_mass(mass.sum())
        log_total = fused(best, -0.693147181, log_all).clamp_min(0.0)
        lse[n] = fused(x.amax(), inverse, log_total)
        phi = torch.zeros(()) if parent_phi is None else parent_phi[n].cpu()
        late = torch.zeros(())  # logarithm of the last arrival
        for i in range(k):
            left = mass.sum()
            if left == 0:
                break
            words = random_words(seed, _DRAFTING + i, position, step, sequence)
            target = random_below(int(left), words)
            tile = pick(mass, target)
            target -= int(mass[:tile].sum())
            at, rest = pick_in_tile(w[tile], int(mass[tile]), target)
            token = tile * TILE + at
            ids[n, i] = token
            logq[n, i] = fused(x[token] - x.amax(), inverse, -log_total)
            g[n, i] = 0.0
            if not replacement:
                rate = phi + (log_mass(left) - log_all)
                wait = log_fast(exponential(torch.tensor(words[2:3])))[0] - rate
                if i > 0:
                    late = _log_add(late, wait)
                else:
                    late = wait if parent_g is None else -parent_g[n].cpu()
                g[n, i] = -late
                mass[tile], w[tile, at] = rest, 0
    return tuple(x.to(logits.device) for x in (ids, logq, g, lse))


def _log_add(a: Tensor, b: Tensor) -> Tensor:
    """ln(e^a + e^b)."""
    high, low = torch.maximum(a, b), torch.minimum(a, b)
    return high + log_fast(1.0 + exp_fast((low - high).reshape(1)))[0]


def _ranked(x: Tensor) -> list[int]:
    """Ids of what is above -inf, best first, equal ones by id."""
    order = x.sort(descending=True, stable=True).indices
    return order[x[order] > -torch.inf].tolist()
