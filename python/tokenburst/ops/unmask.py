"""Masked diffusion: which masks become tokens. Equivalent plain torch: `tokenburst.ref.unmask`."""

from typing import NamedTuple

import torch
from torch import Tensor


class Unmasked(NamedTuple):
    """What one step committed, on the device of its inputs."""

    committed: Tensor  # [B, R] bool: candidates whose token was written
    n_committed: Tensor  # [B] int32
    n_left: Tensor  # [B] int32: candidates on a mask that are still masked


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
) -> Unmasked:
    """Write the proposals that the rules choose into `x`, in place.

    A candidate takes part if its position holds `mask_id`, the first one if a position is given
    twice; it can be committed if moreover its token is one (not -1, not `mask_id`) and its score is
    not NaN. They are ranked by better score, then lower position. Each rule takes the best of them,
    and the rules unite: `top_k` so many, `threshold` those that reach it, `min_one` at least one,
    `commit_all` everything. Equivalent to `tokenburst.ref.unmask.unmask_select_`.

    Args:
        x: [B, L] int32 or int64, token ids with `mask_id` where undecided; written in place. Rows
            may be any stride apart, the last dimension is contiguous.
        position: [B, R] int32 or int64, place of each candidate in `x`; -1 = no candidate.
        token: [B, R] int32 or int64, proposed token; -1 = no proposal.
        mask_id: id that stands for an undecided token.
        score: [B, R] float32, higher is better: a confidence or a margin.
        rng: [B, 3] int64, (seed, sequence, step): in place of `score`, ranks at random. The
            score of a position is then uniform in [0, 1) and depends on these three and it only.
        lowest_first: lower scores are better: an entropy.
        top_k: [B] int32 or int64, candidates to commit.
        threshold: [B] float32, commits scores >= it, with `lowest_first` scores <= it.
        min_one: commits at least the best one.
        commit_all: [B] bool, commits all candidates that can be.

    Returns:
        `Unmasked` with committed [B, R], n_committed [B], n_left [B].

    Raises:
        RuntimeError: wrong dtype, shape, device or overlapping rows; both or neither of `score` and
            `rng`; no rule. On the CPU also a position outside -1 .. L - 1, a token below -1, a
            negative `top_k` and a NaN threshold; on a GPU these choose nothing.

    Source: Nie et al., LLaDA, arXiv 2502.09992, algorithm 5 (top-k by confidence); Wu et al.,
        Fast-dLLM, arXiv 2505.22618, section 3.3 (threshold).
    """
    return Unmasked(
        *_unmask_select_(
            x,
            position,
            token,
            mask_id,
            score=score,
            rng=rng,
            lowest_first=lowest_first,
            top_k=top_k,
            threshold=threshold,
            min_one=min_one,
            commit_all=commit_all,
        )
    )


_unmask_select_ = torch.ops.tokenburst.unmask_select_.default


@torch.library.register_fake("tokenburst::unmask_select_")
def _(x, position, token, mask_id, **rules):
    committed = x.new_empty(position.shape, dtype=torch.bool)
    n_committed = x.new_empty((len(x),), dtype=torch.int32)
    return committed, n_committed, torch.empty_like(n_committed)
