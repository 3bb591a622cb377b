"""Statistics of logits in plain torch: widen, clean, sort."""

import torch
from torch import Tensor

from tokenburst.ref.philox import fused, gumbel, philox4x32

_LARGEST = torch.finfo(torch.float32).max


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
