"""Unmasking in plain torch, one sequence and one candidate at a time."""

import torch
from torch import Tensor


def _philox(seed: int, counter: tuple[int, int, int, int]) -> int:
    """First of the four 32-bit words of Philox4x32-10."""
    word = 0xFFFFFFFF
    k0, k1 = seed & word, seed >> 32 & word
    c0, c1, c2, c3 = (c & word for c in counter)
    for _ in range(10):
        a, b = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = b >> 32 ^ c1 ^ k0, b & word, a >> 32 ^ c3 ^ k1, a & word
        k0, k1 = k0 + 0x9E3779B9 & word, k1 + 0xBB67AE85 & word
    return c0


def _uniform(rng: list[int], position: int) -> float:
    seed, sequence, step = rng
    return (_philox(seed, (0xFFFFFFFF, position, step, sequence)) >> 8) / 2**24


def unmask_select_(
    x: Tensor,
    position: Tensor,
    token: Tensor,
    mask_id: int,
    *,
    score: Tensor | None = None,
    rng: Tensor | None = None,
    lowest_first: bool = False,
    top_k: Tensor | None = None,
    threshold: Tensor | None = None,
    min_one: bool = False,
    commit_all: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Commit the best candidates of each sequence; see `tokenburst.ops.unmask_select_`."""
    committed = torch.zeros(position.shape, dtype=torch.bool)
    n_committed = torch.zeros(len(x), dtype=torch.int32)
    n_left = torch.zeros(len(x), dtype=torch.int32)
    for b in range(len(x)):
        masked: dict[int, int] = {}  # position -> the first candidate for it
        for r, i in enumerate(position[b].tolist()):
            if 0 <= i < x.shape[1] and int(x[b, i]) == mask_id:
                masked.setdefault(i, r)
        names = [] if rng is None else rng[b].tolist()
        ranked = []  # (cost, position, candidate), best first
        for i, r in masked.items():
            value = _uniform(names, i) if score is None else float(score[b, r])
            if int(token[b, r]) >= 0 and int(token[b, r]) != mask_id and value == value:
                ranked.append((value if lowest_first else -value, i, r))
        ranked.sort()
        take = max(int(top_k[b]) if top_k is not None else 0, int(min_one))
        if threshold is not None:
            bound = float(threshold[b]) if lowest_first else -float(threshold[b])
            take = max(take, sum(cost <= bound for cost, _, _ in ranked))
        if commit_all is not None and bool(commit_all[b]):
            take = len(ranked)
        for _, i, r in ranked[:take]:
            x[b, i] = token[b, r]
            committed[b, r] = True
        n_committed[b] = committed[b].sum()
        n_left[b] = len(masked) - n_committed[b]
    return committed.to(x.device), n_committed.to(x.device), n_left.to(x.device)
