"""What a step needs to know of its logits. Equivalent plain torch: `tokenburst.ref.vocab`."""

from typing import NamedTuple

import torch
from torch import Tensor


class VocabStats(NamedTuple):
    """Statistics of N rows of logits, on the device of the logits.

    A row without a finite logit, and row -1, gives ids -1, values -inf, lse -inf, token -1 and 0
    in confidence, margin and entropy.
    """

    ids: Tensor  # [N, k] int64: best first, equal logits by ascending id; -1 past the last one
    values: Tensor  # [N, k] float32: their logits; -inf past the last one
    lse: Tensor  # [N] float32: log of the sum of exp(logits)
    token: Tensor  # [N] int64: the sampled token, ids[:, 0] where the temperature is 0
    confidence: Tensor  # [N] float32: softmax(logits)[token], without temperature and noise
    margin: Tensor  # [N] float32: probability of the best token minus that of the second
    entropy: Tensor  # [N] float32: of softmax(logits), in nats
    n_nan: Tensor  # [N] int32: NaN logits in the row


def vocab_stats(
    logits: Tensor,
    k: int = 1,
    *,
    rows: Tensor | None = None,
    suppress: Tensor | None = None,
    temperature: Tensor | None = None,
    rng: Tensor | None = None,
) -> VocabStats:
    """Top-k, log-sum-exp, entropy, margin and a sampled token of each row, in one sweep over V.

    NaN logits and suppressed ids count as -inf and are never chosen; +inf counts as the largest
    finite float. With a temperature T > 0 the token is the argmax over v of
    `fma(logits[v], 1 / T, gumbel(v))`, where the Gumbel noise of id v is word v % 4 of
    Philox4x32-10 with key = seed and counter = (v // 4, position, step, sequence), the low 32 bits
    of each: an exact draw from softmax(logits / T) that every device repeats. A row's results
    depend on nothing but the row. Equivalent to `tokenburst.ref.vocab.vocab_stats`.

    Args:
        logits: [R, V], or [B, L, V] read as R = B * L rows; float32, float16 or bfloat16, any
            strides with a contiguous last dimension.
        k: how many ids and values to return, 1 <= k <= min(V, 64).
        rows: [N] int32 or int64, rows to look at, -1 = none; no other row is read. Default: all.
        suppress: [S] int32 or int64, ids that are treated as -inf in every row.
        temperature: [N] float32, 0 = greedy. Together with `rng`.
        rng: [N, 4] int32 or int64, (seed, sequence, step, position) of each draw.

    Returns:
        `VocabStats`; with `rows=None`, N = R.

    Raises:
        RuntimeError: wrong dtype, shape or device, k out of range, only one of temperature and
            rng; on the CPU also rows and ids out of range and temperatures that are negative or
            NaN. On a GPU such rows give the empty result, such ids are ignored and such
            temperatures count as 0.

    Source: Milakov and Gimelshein, Online normalizer calculation for softmax, arXiv 1805.02867;
        Gumbel-max after Maddison, Tarlow and Minka, A* Sampling, arXiv 1411.0030; confidence as in
        Nie et al., LLaDA, arXiv 2502.09992, appendix A.3; Salmon et al., Philox, SC 2011.
    """
    return VocabStats(
        *_vocab_stats(logits, k, rows=rows, suppress=suppress, temperature=temperature, rng=rng)
    )


class TopTokens(NamedTuple):
    """The best ids of rows of logits, on the device of the logits; of a row that is not read none.

    The shape is that of the logits, with k in place of V.
    """

    ids: Tensor  # [.., k] int64: best first, equal logits by ascending id; -1 past the last one
    values: Tensor  # [.., k] float32: their logits; -inf past the last one


def vocab_top(logits: Tensor, k: int = 1, *, count: Tensor | None = None) -> TopTokens:
    """The k best ids of each row and their logits, and nothing else.

    `ids` and `values` are those of `vocab_stats`: NaN counts as -inf and is never among them, +inf
    as the largest finite float. Equivalent to `tokenburst.ref.vocab.vocab_top`.

    Args:
        logits: [R, V], or [B, L, V]; float32, float16 or bfloat16, any strides with a contiguous
            last dimension.
        k: how many, 1 <= k <= min(V, 64).
        count: [B] int32 or int64, with logits [B, L, V]: only the first count[b] rows of b are
            read. Default: all.

    Returns:
        `TopTokens` with ids and values [R, k] or [B, L, k].

    Raises:
        RuntimeError: wrong dtype, shape or device, k out of range, a count for logits [R, V]; on
            the CPU also counts outside 0 .. L. On a GPU a count above L is L, below 0 is 0.

    Source: Luo et al., Turning Trash into Treasure (Token Recycling), arXiv 2408.08696, section 3.2
        (the candidates that a step recycles); the first of them is the greedy token.
    """
    return TopTokens(*_vocab_top(logits, k, count=count))


class VocabDraws(NamedTuple):
    """Drafted tokens of N rows of logits, on the device of the logits."""

    ids: Tensor  # [N, k] int64: in draw order; -1 where the support ends, and in row -1
    logq: Tensor  # [N, k] float32: log softmax(logits / T) at the ids; -inf past the last one
    g: Tensor  # [N, k] float32: Gumbel value of each draw, descending; 0 with replacement
    lse: Tensor  # [N] float32: log of the sum of exp(logits / T)


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
) -> VocabDraws:
    """k tokens of each row drawn from softmax(logits / T), without or with replacement.

    Without replacement the order is that of k draws one after the other (Plackett-Luce), and g are
    the k largest values of logq(v) + Gumbel(v), descending: tokens arrive at rates q, so no token
    needs noise of its own. With `parent_g` and `parent_phi` the rows are beam items of stochastic
    beam search: g is phi + logq + Gumbel on condition that the largest is the parent's value. With
    replacement the k draws are independent. NaN counts as -inf, +inf as the largest finite float;
    probabilities are integers, exact to 2^-40 of the largest, and the same on every device. Draw i
    takes its numbers from Philox4x32-10 with key = seed and counter = (2^30 + i, position, step,
    sequence). T = 0 gives the k most likely ids, all probability on the first. Equivalent to
    `tokenburst.ref.vocab.vocab_sample`.

    Args:
        logits: [R, V], or [B, L, V] read as R = B * L rows; float32, float16 or bfloat16, any
            strides with a contiguous last dimension, V <= 2^22.
        k: draws per row, at most 64, without replacement also at most V.
        temperature: [N] float32, T of each result.
        rng: [N, 4] int32 or int64, (seed, sequence, step, position): no two draws of one
            generation may share all four.
        rows: [N] int32 or int64, rows to draw from, -1 = none. Default: all.
        parent_g: [N] float32, value of the beam item that each row extends; the root's is 0.
        parent_phi: [N] float32, its log probability; the root's is 0. Together with `parent_g`.
        replacement: independent draws.

    Returns:
        `VocabDraws`; with `rows=None`, N = R.

    Raises:
        RuntimeError: wrong dtype, shape or device, k out of range, one of parent_g and parent_phi
            alone or with replacement; on the CPU also rows out of range and temperatures that are
            negative or NaN. On a GPU such rows are none and such temperatures count as 0.

    Source: Kool, van Hoof and Welling, Stochastic Beams and Where to Find Them, arXiv 1903.06059,
        sections 3 and 4.1; Jeon et al., Recursive Speculative Decoding, arXiv 2402.14160.
    """
    return VocabDraws(
        *_vocab_sample(
            logits,
            k,
            temperature,
            rng,
            rows=rows,
            parent_g=parent_g,
            parent_phi=parent_phi,
            replacement=replacement,
        )
    )


_vocab_sample = torch.ops.tokenburst.vocab_sample.default
_vocab_stats = torch.ops.tokenburst.vocab_stats.default
_vocab_top = torch.ops.tokenburst.vocab_top.default


@torch.library.register_fake("tokenburst::vocab_top")
def _(logits, k=1, *, count=None):
    shape = (*logits.shape[:-1], k)
    return logits.new_empty(shape, dtype=torch.int64), logits.new_empty(shape, dtype=torch.float32)


@torch.library.register_fake("tokenburst::vocab_stats")
def _(logits, k=1, *, rows=None, suppress=None, temperature=None, rng=None):
    count = logits.shape[:-1].numel() if rows is None else rows.shape[0]

    def empty(dtype, *shape):
        return logits.new_empty((count, *shape), dtype=dtype)

    f32, i64 = torch.float32, torch.int64
    lse, confidence, margin, entropy = (empty(f32) for _ in range(4))
    ids, values, token = empty(i64, k), empty(f32, k), empty(i64)
    return ids, values, lse, token, confidence, margin, entropy, empty(torch.int32)


class VocabFiltered(NamedTuple):
    """What is drawn from N rows of logits, and how sure the model is of it; on their device.

    A row without a finite logit, and row -1, gives token -1, log_odds -inf and 0 elsewhere.
    """

    token: Tensor  # [N] int64
    confidence: Tensor  # [N] float32: probability of the token
    margin: Tensor  # [N] float32: probability of the best id minus that of the second
    entropy: Tensor  # [N] float32: in nats
    log_odds: Tensor  # [N] float32: log of confidence / (1 - confidence); inf = nothing else
    gap: Tensor  # [N] float32: best logit minus the second, unfiltered; inf without a second
    n_kept: Tensor  # [N] int32: ids that top_p and top_k leave
    n_nan: Tensor  # [N] int32: NaN logits in the row


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
) -> VocabFiltered:
    """A token of each row after guidance, biases, temperature, top-p and top-k, and its statistics.

    In this order: l = u + (1 + guidance) (logits - u) with u = `uncond`; biases are added;
    suppressed ids are out; z = l / T. Top-p keeps ids by descending z, then ascending id, until
    their probability first exceeds p; top-k keeps those at least as good as the k-th, ties
    included. The token is drawn from what is kept with the noise of `vocab_stats`, or is the best
    one where T = 0. Its statistics are those of softmax(l) over all ids, or with `tempered` of
    softmax(z) over the kept ones; `unranked` ids are left out of them, and have confidence 0.
    Equivalent to `tokenburst.ref.vocab.vocab_filter`.

    Args:
        logits: see `vocab_stats`.
        rows: see `vocab_stats`.
        uncond: logits without the condition, of the shape and dtype of `logits`. With `guidance`.
        guidance: [N] float32, scale w of classifier-free guidance; 0 = none.
        suppress: see `vocab_stats`.
        bias_ids: [E] int32 or int64, ids whose logits are shifted. With `bias`.
        bias: [E] float32.
        unranked: [U] int32 or int64, ids that may be chosen and do not count.
        temperature: see `vocab_stats`.
        rng: see `vocab_stats`.
        top_k: [N] int32 or int64, 0 = all.
        top_p: [N] float32, > 0, 1 = all.
        tempered: statistics of the distribution that is drawn from.

    Returns:
        `VocabFiltered`.

    Raises:
        RuntimeError: wrong dtype, shape or device, one of a pair alone; on the CPU also values out
            of range. On a GPU such rows are none, such ids are ignored and such filters are off.

    Source: Ho and Salimans, Classifier-free diffusion guidance, arXiv 2207.12598; Holtzman et al.,
        arXiv 1904.09751 (top-p); Ye et al., Dream, arXiv 2508.15487 (tempered scores); LLaDA,
        arXiv 2502.09992 (unranked ends).
    """
    return VocabFiltered(
        *_vocab_filter(
            logits,
            rows=rows,
            uncond=uncond,
            guidance=guidance,
            suppress=suppress,
            bias_ids=bias_ids,
            bias=bias,
            unranked=unranked,
            temperature=temperature,
            rng=rng,
            top_k=top_k,
            top_p=top_p,
            tempered=tempered,
        )
    )


_vocab_filter = torch.ops.tokenburst.vocab_filter.default


@torch.library.register_fake("tokenburst::vocab_filter")
def _(logits, *, rows=None, **options):
    count = logits.shape[:-1].numel() if rows is None else rows.shape[0]
    token = logits.new_empty((count,), dtype=torch.int64)
    floats = (logits.new_empty((count,), dtype=torch.float32) for _ in range(5))
    return token, *floats, *(torch.empty_like(token, dtype=torch.int32) for _ in range(2))


@torch.library.register_fake("tokenburst::vocab_sample")
def _(
    logits,
    k,
    temperature,
    rng,
    *,
    rows=None,
    parent_g=None,
    parent_phi=None,
    replacement=False,
):
    count = temperature.shape[0]
    ids = logits.new_empty((count, k), dtype=torch.int64)
    logq, g = (logits.new_empty((count, k), dtype=torch.float32) for _ in range(2))
    return ids, logq, g, logits.new_empty((count,), dtype=torch.float32)
