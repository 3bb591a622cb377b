"""Drafts looked up in what was said before, in plain Python."""

import torch
from torch import Tensor

from tokenburst.ref.philox import fused, gumbel, log_fast, philox4x32


def ngram_match(
    tokens: Tensor,
    length: Tensor,
    k: int,
    *,
    most: int = 3,
    least: int = 1,
    whole: bool = False,
    latest: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tries n = most .. least at every start; see `tokenburst.ops.ngram_match`."""
    drafts, counts, agreed = [], [], []
    for row, size in zip(tokens.tolist(), length.tolist(), strict=True):
        draft, n = _match(row[:size], k, most, least, whole, latest)
        drafts.append(draft + [-1] * (k - len(draft)))
        counts.append(len(draft))
        agreed.append(n)
    shape = tokens.shape[0], k
    made = torch.tensor(drafts, dtype=torch.int64).reshape(shape).to(tokens.device)
    return made, *(torch.tensor(x, dtype=torch.int32).to(tokens.device) for x in (counts, agreed))


def _match(
    row: list[int], k: int, most: int, least: int, whole: bool, latest: bool
) -> tuple[list[int], int]:
    """The draft of one sequence and the tokens that agreed."""
    size = len(row)
    for n in range(min(most, size), least - 1, -1):
        starts = range(n, size)
        for start in reversed(starts) if latest else starts:
            if whole and (start + k > size or start >= size - n):
                continue
            if row[start - n : start] == row[size - n :]:
                return row[start : start + k], n
    return [], 0


_WAYS, _NOISE, _LOW32, _LOW64 = 8, 3 << 28, (1 << 32) - 1, (1 << 64) - 1


def _mix(value: int, token: int) -> int:
    value = (value ^ (token & _LOW32)) * 0xBF58476D1CE4E5B9 & _LOW64
    return value ^ (value >> 29)


def _contexts(before: list[int], most: int) -> list[int]:
    """Hashes of the last 1, 2, ... `most` tokens of `before`, 0 from where one is missing."""
    hashes, value, known = [], 0, True
    for n in range(most):
        token = before[-1 - n] if n < len(before) else -1
        known = known and token >= 0
        value = _mix(value, token)
        hashes.append(_mix(value, n + 1) | 1 if known else 0)
    return hashes


def _bucket(value: int, slots: int) -> range:
    first = ((value >> 20) & (slots // _WAYS - 1)) * _WAYS
    return range(first, first + _WAYS)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _find(key: Tensor, value: int) -> int:
    if value == 0:
        return -1
    return next((s for s in _bucket(value, len(key)) if int(key[s]) == _signed(value)), -1)


def ngram_update_(
    key: Tensor,
    count: Tensor,
    ids: Tensor,
    probs: Tensor,
    text: Tensor,
    start: Tensor,
    tokens: Tensor,
    parent: Tensor,
    top_ids: Tensor,
    top_probs: Tensor,
    *,
    n_nodes: Tensor | None = None,
    most: int = 4,
    least: int = 2,
) -> None:
    """Node after node, the shortest context first; see `tokenburst.ops.ngram_update_`."""
    width = ids.shape[1]
    for b in range(tokens.shape[0]):
        up = parent[b].tolist()
        before = text[b, : int(start[b])].tolist()
        paths: list[list[int]] = []
        for i in range(tokens.shape[1] if n_nodes is None else int(n_nodes[b])):
            paths.append((paths[up[i]] if i else before) + [int(tokens[b, i])])
            for n in range(least, most + 1):
                value = _contexts(paths[i], most)[n - 1]
                if value == 0:
                    continue
                slot = _claim(key, count, ids, probs, value)
                seen = max(0, int(count[slot]))
                _learn(ids[slot], probs[slot], seen, top_ids[b, i], top_probs[b, i], width)
                count[slot] = min(seen + 1, 1 << 24)


def _claim(key: Tensor, count: Tensor, ids: Tensor, probs: Tensor, value: int) -> int:
    slot = _find(key, value)
    if slot >= 0:
        return slot
    bucket = _bucket(value, len(key))
    empty = [s for s in bucket if int(key[s]) == 0]
    slot = empty[0] if empty else min(bucket, key=lambda s: int(count[s]))
    key[slot], count[slot], ids[slot], probs[slot] = _signed(value), 0, -1, 0.0
    return slot


def _learn(
    ids: Tensor, probs: Tensor, seen: int, new_ids: Tensor, new_probs: Tensor, width: int
) -> None:
    """mean <- (seen * mean + new) / (seen + 1), of which the most probable tokens stay."""
    total = torch.tensor(float(seen)) + 1.0
    old_share, new_share = torch.tensor(float(seen)) / total, 1.0 / total
    new: dict[int, Tensor] = {}
    for token, prob in zip(new_ids.tolist(), new_probs, strict=True):
        if token >= 0:
            new.setdefault(token, new_share * prob if prob > 0 else torch.tensor(0.0))
    mean = {}
    for token, prob in zip(ids.tolist(), probs.clone(), strict=True):
        if token >= 0 and prob > 0:
            more = new.pop(token, torch.tensor(0.0))
            mean[token] = float(fused(old_share, prob, more))
    mean |= {token: float(prob) for token, prob in new.items() if prob > 0}
    best = sorted(mean.items(), key=lambda entry: (-entry[1], entry[0]))[:width]
    ids[:], probs[:] = -1, 0.0
    for i, (token, prob) in enumerate(best):
        ids[i], probs[i] = token, prob


def ngram_draft(
    key: Tensor,
    ids: Tensor,
    probs: Tensor,
    text: Tensor,
    start: Tensor,
    parent: Tensor,
    rank: Tensor,
    *,
    temperature: Tensor | None = None,
    rng: Tensor | None = None,
    most: int = 4,
    least: int = 2,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each node looks up its longest context; see `tokenburst.ops.ngram_draft`."""
    batch, nodes, width = text.shape[0], parent.shape[0], ids.shape[1]
    tokens = torch.full((batch, nodes), -1, dtype=torch.int64)
    drawn = torch.full((batch, nodes, width), -1, dtype=torch.int64)
    drawn_probs = torch.zeros(batch, nodes, width)
    up, place = parent.tolist(), rank.tolist()
    for b in range(batch):
        root = int(start[b])
        heat = 1.0 if temperature is None else float(temperature[b])
        noise = None if rng is None or heat <= 0 else rng[b].long()
        paths: list[list[int]] = []
        for i in range(nodes):
            if i == 0:
                tokens[b, 0] = text[b, root] if root < text.shape[1] else -1
                paths.append(text[b, : root + 1].tolist())
            else:
                r = place[i]
                tokens[b, i] = drawn[b, up[i], r] if r < width else -1
                paths.append(paths[up[i]] + [int(tokens[b, i])])
            if tokens[b, i] < 0 or i not in up:
                continue
            slots = (_find(key, c) for c in reversed(_contexts(paths[i], most)[least - 1 :]))
            slot = next((s for s in slots if s >= 0), -1)
            if slot >= 0:
                order, share = _draw(ids[slot], probs[slot], heat, noise, i)
                drawn[b, i, : len(order)] = order
                drawn_probs[b, i, : len(order)] = share
    return tuple(t.to(key.device) for t in (tokens, drawn, drawn_probs))


def _draw(
    ids: Tensor, probs: Tensor, temperature: float, noise: Tensor | None, position: int
) -> tuple[Tensor, Tensor]:
    """Tokens in draw order and their probabilities."""
    held = (ids >= 0) & (probs > 1e-30) & (probs <= 1)
    ids, probs = ids[held].long(), probs[held]
    inverse = torch.tensor(1.0) / temperature if temperature > 0 else torch.tensor(1.0)
    heat = log_fast(probs) * inverse
    score = heat
    if noise is not None:
        seed, sequence, step = noise
        counter = _NOISE + ids // 4, torch.tensor(position), step, sequence
        words = torch.stack([w.expand_as(ids) for w in philox4x32(seed, counter)])
        score = heat + gumbel(words.gather(0, (ids % 4)[None])[0])
    ids, by_id = ids.sort()
    score, order = score[by_id].sort(descending=True, stable=True)
    return ids[order], heat.softmax(0)[by_id][order]
