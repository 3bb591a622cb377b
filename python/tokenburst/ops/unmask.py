"""Masked diffusion: which masks become tokens. Equivalent plain torch: `tokenburst.ref.unmask`."""

from typing import NamedTuple

import torch
from torch import Tensor


class Unmasked(NamedTuple):
    """What one step committed, on the device of its inputs."""

    committed: Tensor  # [B, R] bool: candidates whose token was written
    n_committed: Tensor  # [B] int32
    n_left: Tensor  # [B] int32: candidates on a mask that are still masked
    n_edited: Tensor  # [B] int32: decided tokens that were replaced; not in n_committed


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
) -> Unmasked:
    """Write the proposals that the rules choose into `x`, in place.

    A candidate takes part if its position holds `mask_id`, the first one if a position is given
    twice; it can be committed if moreover its token is one (not -1, not `mask_id`) and its score is
    not NaN. They are ranked by better score, then lower position. Most rules take the best of them,
    so together they take the longest of these prefixes; `most` shortens it, `near` and `reveal` add
    to it. Equivalent to `tokenburst.ref.unmask.unmask_select_`.

    Args:
        x: [B, L] int32 or int64, token ids with `mask_id` where undecided; written in place. Rows
            may be any stride apart, the last dimension is contiguous.
        position: [B, R] int32 or int64, place of each candidate in `x`; -1 = no candidate.
        token: [B, R] int32 or int64, proposed token; -1 = no proposal.
        mask_id: id that stands for an undecided token.
        score: [B, R] float32, higher is better: a confidence or a margin.
        rng: [B, 3] int64, (seed, sequence, step): in place of `score`, ranks at random. The
            score of a position is then uniform in [0, 1) and depends on these three and it only.
            Beside `score` for `reveal` and `noise`.
        lowest_first: lower scores are better: an entropy.
        strict: a score equal to `threshold`, `near` or `edit` does not reach it.
        top_k: [B] int32 or int64, candidates to commit.
        threshold: [B] float32, commits scores >= it, with `lowest_first` scores <= it.
        factor: [B] float32 f, commits ranks 1 .. r as long as the r-th score is >= 1 - f / (r + 1).
        budget: [B] float32, with `lowest_first`: commits ranks 1 .. r as long as the scores of the
            ranks before r sum up to at most this, in units of 2^-32; scores count from 0 to 4096.
        min_one: commits at least the best one.
        commit_all: [B] bool, commits all candidates that can be.
        most: [B] int32 or int64, upper bound of all rules above.
        near: [B] float32, commits also scores that reach this within `reach` positions of one that
            reaches `threshold` in the same step.
        reach: how far `near` looks to either side.
        reveal: [B] float32, commits each candidate with this probability, whatever its score.
        noise: [B] float32 T, ranks by score / T plus Gumbel noise, so `top_k` draws without
            replacement with weights exp(score / T); 0 = no noise. Not with bounds on scores.
        damped: [E] int32 or int64, tokens whose score is multiplied by `damping` first.
        damping: [B] float32.
        edit: [B] float32, replaces also decided tokens by other tokens with scores that reach it.

    Returns:
        `Unmasked` with committed [B, R] (replaced ones too), n_committed, n_left, n_edited [B].

    Raises:
        RuntimeError: wrong dtype, shape, device or overlapping rows; arguments that do not go
            together as said above; no rule. On the CPU also a position outside -1 .. L - 1, a token
            below -1, a negative count, a bound that is NaN, and a factor, budget, probability,
            noise or damping that is no number >= 0; on a GPU these choose nothing.

    Source: Nie et al., LLaDA, arXiv 2502.09992, algorithm 5 (top-k by confidence); Wu et al.,
        Fast-dLLM, arXiv 2505.22618, section 3.3 (threshold, factor); Ben-Hamu et al., EB-sampler,
        arXiv 2505.24857 (budget); LocalLeap (near); Ye et al., Dream, arXiv 2508.15487 (reveal,
        noise); EOSER, arXiv 2509.23924 (damping); LLaDA2.1 (edit).
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
            strict=strict,
            top_k=top_k,
            threshold=threshold,
            factor=factor,
            budget=budget,
            min_one=min_one,
            commit_all=commit_all,
            most=most,
            near=near,
            reach=reach,
            reveal=reveal,
            noise=noise,
            damped=damped,
            damping=damping,
            edit=edit,
        )
    )


_unmask_select_ = torch.ops.tokenburst.unmask_select_.default


@torch.library.register_fake("tokenburst::unmask_select_")
def _(x, position, token, mask_id, **rules):
    committed = x.new_empty(position.shape, dtype=torch.bool)
    n_committed = x.new_empty((len(x),), dtype=torch.int32)
    return committed, n_committed, *(torch.empty_like(n_committed) for _ in range(2))


class Remasked(NamedTuple):
    """What one step took back, on the device of its inputs."""

    remasked: Tensor  # [B, R] bool: candidates that are masks again
    n_remasked: Tensor  # [B] int32


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
) -> Remasked:
    """Turn decided tokens back into masks, in place: the least certain ones, or by chance.

    A candidate takes part if its span lies in `x` and holds no mask, the first one if a position is
    given twice. They are ranked by lowest score, then lower position. What is no candidate, the
    prompt above all, stays. Equivalent to `tokenburst.ref.unmask.unmask_remask_`.

    Args:
        x: [B, L] int32 or int64, token ids; written in place. Rows may be any stride apart.
        position: [B, R] int32 or int64, first place of each candidate in `x`; -1 = no candidate.
        mask_id: id that stands for an undecided token.
        score: [B, R] float32; NaN is not ranked.
        span: positions of each candidate; spans may overlap.
        top_k: [B] int32 or int64, so many of the lowest.
        threshold: [B] float32, those below it.
        most: [B] int32 or int64, upper bound of the two above.
        probability: [B, R] float32, each candidate with its own probability, on top.
        rng: [B, 3] int64, (seed, sequence, step). With `probability`.

    Returns:
        `Remasked` with remasked [B, R], n_remasked [B].

    Raises:
        RuntimeError: wrong dtype, shape, device or overlapping rows; no rule; one of `probability`
            and `rng` alone. On the CPU also spans outside `x`, negative counts and probabilities,
            NaN thresholds; on a GPU these choose nothing.

    Source: RCR, arXiv 2508.13148 (lowest running confidence); WINO (below a threshold, capped);
        Wang et al., ReMDM, arXiv 2503.00307 (by chance); Ziv et al., MAGNeT, arXiv 2401.04577
        (spans).
    """
    return Remasked(
        *_unmask_remask_(
            x,
            position,
            mask_id,
            score=score,
            span=span,
            top_k=top_k,
            threshold=threshold,
            most=most,
            probability=probability,
            rng=rng,
        )
    )


_unmask_remask_ = torch.ops.tokenburst.unmask_remask_.default


@torch.library.register_fake("tokenburst::unmask_remask_")
def _(x, position, mask_id, **rules):
    return x.new_empty(position.shape, dtype=torch.bool), x.new_empty(len(x), dtype=torch.int32)
