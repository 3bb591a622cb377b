"""Unmasking in plain torch, one sequence and one candidate at a time."""

import torch
from torch import Tensor

from tokenburst.ref.philox import philox4x32


def _random_scores(rng: Tensor, length: int) -> Tensor:
    """[B, L] uniform scores in [0, 1): the upper 24 bits of the first Philox word."""
    seed, sequence, step = rng[:, :, None].unbind(1)
    apart = torch.full_like(seed, 0xFFFFFFFF)  # from the counters of sampled tokens
    words = philox4x32(seed, (apart, torch.arange(length, device=rng.device), step, sequence))
    return (words[0] >> 8).float() / 2**24


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
    chance = x.new_empty(0) if rng is None else _random_scores(rng, x.shape[1])
    for b in range(len(x)):
        masked: dict[int, int] = {}  # position -> the first candidate for it
        for r, i in enumerate(position[b].tolist()):
            if 0 <= i < x.shape[1] and int(x[b, i]) == mask_id:
                masked.setdefault(i, r)
        ranked = []  # (cost, position, candidate), best first
        for i, r in masked.items():
            value = float(chance[b, i] if score is None else score[b, r])
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
