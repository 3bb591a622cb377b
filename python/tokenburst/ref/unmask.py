"""Unmasking in plain torch, one sequence and one candidate at a time."""

import torch
from torch import Tensor

from tokenburst.ref.philox import fused, gumbel, philox4x32


def _chance(rng: Tensor, length: int) -> list[Tensor]:
    """[B, L] words of chance: for random scores, for revealing and for Gumbel noise."""
    seed, sequence, step = rng[:, :, None].unbind(1)
    apart = torch.full_like(seed, 0xFFFFFFFF)  # from the counters of sampled tokens
    words = philox4x32(seed, (apart, torch.arange(length, device=rng.device), step, sequence))
    return [(words[0] >> 8).float() / 2**24, (words[1] >> 8).float() / 2**24, gumbel(words[2])]


def _units(cost: float) -> int:
    """Entropy in units of 2^-32."""
    return int(min(max(cost, 0.0), 4096.0) * 2**32)


def unmask_select_(
    x: Tensor,
    position: Tensor,
    token: Tensor,
    mask_id: int,
    *,
    score: Tensor | None = None,
    rng: Tensor | None = None,
    lowest_first: bool = False,
    strict: bool = False,
    top_k: Tensor | None = None,
    threshold: Tensor | None = None,
    factor: Tensor | None = None,
    budget: Tensor | None = None,
    min_one: bool = False,
    commit_all: Tensor | None = None,
    most: Tensor | None = None,
    near: Tensor | None = None,
    reach: int = 0,
    reveal: Tensor | None = None,
    noise: Tensor | None = None,
    damped: Tensor | None = None,
    damping: Tensor | None = None,
    edit: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Commit the best candidates of each sequence; see `tokenburst.ops.unmask_select_`."""
    committed = torch.zeros(position.shape, dtype=torch.bool)
    counts = torch.zeros(3, len(x), dtype=torch.int32)
    chance = [] if rng is None else _chance(rng, x.shape[1])
    for b in range(len(x)):

        def value(r: int, i: int, b: int = b) -> Tensor:  # score of candidate r at position i
            if score is None:
                return chance[0][b, i]
            if damped is not None and damping is not None and bool((damped == token[b, r]).any()):
                return score[b, r] * damping[b]
            return score[b, r]

        def reaches(s: Tensor, bounds: Tensor, b: int = b) -> bool:
            beyond = s < bounds[b] if lowest_first else s > bounds[b]
            return bool(beyond) or (not strict and bool(s == bounds[b]))

        open_at: dict[int, int] = {}  # position -> the first candidate for it
        for r, i in enumerate(position[b].tolist()):
            if 0 <= i < x.shape[1] and (edit is not None or int(x[b, i]) == mask_id):
                open_at.setdefault(i, r)
        masked = {i: r for i, r in open_at.items() if int(x[b, i]) == mask_id}
        ranked = []  # (cost, position, candidate), best first
        for i, r in masked.items():
            s = value(r, i)
            if noise is not None and float(noise[b]) > 0:
                g = chance[2][b, i]
                inverse = (1.0 / noise[b]).clamp_max(torch.finfo(torch.float32).max)
                s = fused(s, inverse, -g if lowest_first else g)
            if int(token[b, r]) >= 0 and int(token[b, r]) != mask_id and float(s) == float(s):
                ranked.append((float(s) if lowest_first else -float(s), i, r))
        ranked.sort()
        take = max(int(top_k[b]) if top_k is not None else 0, int(min_one))
        sure = []
        if threshold is not None:
            sure = [i for _, i, r in ranked if reaches(value(r, i), threshold)]
            take = max(take, len(sure))
        if factor is not None:
            bounds = (1.0 - factor[b] / torch.arange(2.0, len(ranked) + 2)).tolist()
            take = max(
                take, sum(-cost >= bound for (cost, *_), bound in zip(ranked, bounds, strict=True))
            )
        if budget is not None:
            spent = 0
            for n, (cost, _, _) in enumerate(ranked):
                if spent <= _units(float(budget[b])):
                    take = max(take, n + 1)
                spent += _units(cost)
        if commit_all is not None and bool(commit_all[b]):
            take = len(ranked)
        if most is not None:
            take = min(take, int(most[b]))
        chosen = {(i, r) for _, i, r in ranked[:take]}
        for _, i, r in ranked:
            close = any(abs(i - a) <= reach for a in sure)
            if near is not None and close and reaches(value(r, i), near):
                chosen.add((i, r))
            if reveal is not None and float(chance[1][b, i]) < float(reveal[b]):
                chosen.add((i, r))
        counts[0, b], counts[1, b] = len(chosen), len(masked) - len(chosen)
        for i, r in open_at.items() if edit is not None else ():
            new = int(token[b, r])
            free = i not in masked and new >= 0 and new not in (mask_id, int(x[b, i]))
            if free and reaches(value(r, i), edit):
                chosen.add((i, r))
                counts[2, b] += 1
        for i, r in chosen:
            x[b, i] = token[b, r]
            committed[b, r] = True
    return committed.to(x.device), *counts.to(x.device)


def unmask_remask_(
    x: Tensor,
    position: Tensor,
    mask_id: int,
    *,
    score: Tensor,
    span: int = 1,
    top_k: Tensor | None = None,
    threshold: Tensor | None = None,
    most: Tensor | None = None,
    probability: Tensor | None = None,
    rng: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take back the least certain tokens of each sequence; see `tokenburst.ops.unmask_remask_`."""
    remasked = torch.zeros(position.shape, dtype=torch.bool)
    length = x.shape[1]
    for b in range(len(x)):
        decided: dict[int, int] = {}  # position -> the first candidate for it
        for r, i in enumerate(position[b].tolist()):
            if 0 <= i <= length - span and not bool((x[b, i : i + span] == mask_id).any()):
                decided.setdefault(i, r)
        scores = [(float(score[b, r]), i, r) for i, r in decided.items()]
        ranked = sorted(entry for entry in scores if entry[0] == entry[0])
        take = int(top_k[b]) if top_k is not None else 0
        if threshold is not None:
            take = max(take, sum(s < float(threshold[b]) for s, _, _ in ranked))
        if most is not None:
            take = min(take, int(most[b]))
        chosen = {(i, r) for _, i, r in ranked[:take]}
        if probability is not None and rng is not None:
            seed, sequence, step = rng[b]
            apart = torch.tensor(0xFFFFFFFF)
            words = philox4x32(seed, (apart, torch.arange(length), step, sequence))
            uniform = (words[3] >> 8).float() / 2**24
            chosen |= {(i, r) for i, r in decided.items() if uniform[i] < probability[b, r]}
        for i, r in chosen:
            x[b, i : i + span] = mask_id
            remasked[b, r] = True
    return remasked.to(x.device), remasked.sum(1, dtype=torch.int32).to(x.device)
