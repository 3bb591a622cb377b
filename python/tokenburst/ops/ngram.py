"""Drafts looked up in what was said before. Equivalent plain torch: `tokenburst.ref.ngram`."""

from typing import NamedTuple

import torch
from torch import Tensor


class NgramMatch(NamedTuple):
    """What followed the last tokens when they stood in the sequence before."""

    draft: Tensor  # [B, k] int64, -1 behind the last one
    n_draft: Tensor  # [B] int32
    match_len: Tensor  # [B] int32: tokens that agreed, 0 = no match


def ngram_match(
    tokens: Tensor,
    length: Tensor,
    k: int,
    *,
    most: int = 3,
    least: int = 1,
    whole: bool = False,
    latest: bool = False,
) -> NgramMatch:
    """Prompt lookup: finds the end of each sequence earlier in it and returns what came next.

    The match with the most agreeing tokens counts, at least `least`; more than `most` do not count
    more. Equivalent to `tokenburst.ref.ngram.ngram_match`.

    Args:
        tokens: [B, L] int32 or int64, the history of each sequence, packed to the left. Values are
            only compared.
        length: [B] int32 or int64, real tokens of each row.
        k: tokens to draft at most.
        most, least: tokens that have to agree.
        whole: a match counts for n tokens only if k tokens follow it and the first of them stands
            before the last n tokens; otherwise drafts are cut at the end of the history.
        latest: of equally long matches the last one; default the first one.

    Returns:
        `NgramMatch`.

    Raises:
        RuntimeError: wrong dtype, shape or device, least < 1, most < least, k < 0; on the CPU also
            lengths outside 0 .. L. On a GPU they are clamped.

    Source: Saxena, Prompt Lookup Decoding, github.com/apoorvumang/prompt-lookup-decoding (`whole`);
        transformers, `PromptLookupCandidateGenerator`; vLLM, `ngram_proposer`.
    """
    return NgramMatch(
        *_ngram_match(tokens, length, k, most=most, least=least, whole=whole, latest=latest)
    )


class NgramDraft(NamedTuple):
    """A tree filled from an n-gram table, and what its candidates were drawn from."""

    tokens: Tensor  # [B, N] int64, -1 = none
    drawn: Tensor  # [B, N, W] int64: what can follow each node, in draw order, -1 = none
    drawn_probs: Tensor  # [B, N, W] float32: their probabilities, which sum to 1, or to 0


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
) -> NgramDraft:
    """Fills a tree template with draws from what followed the same contexts before.

    A node's context is the longest one in the table among the last `most` .. `least` tokens up to
    and including the node. Its stored tokens, their probabilities raised to 1 / temperature and
    normalised, are drawn one after the other without replacement (Gumbel noise on the logarithms);
    a child of rank r takes the draw r. Nodes without children draw nothing. Equivalent to
    `tokenburst.ref.ngram.ngram_draft`.

    Args:
        key, ids, probs: the table, see `ngram_update_`.
        text: [B, L] int32 or int64, prompt and generated tokens.
        start: [B] int32 or int64, position of the root in the text.
        parent: [N] int32 or int64, topological: -1 at node 0, else 0 <= parent[i] < i.
        rank: [N] int32 or int64, which draw of its parent node i is; W or more gives no token.
        temperature: [B] float32, default 1; 0 takes the most probable tokens in their order.
        rng: [B, 3] int32 or int64: seed, sequence, step. Absent: as with temperature 0, though
            drawn_probs have the temperature.
        most, least: tokens of the longest and the shortest context.

    Returns:
        `NgramDraft`; tokens[b, i] = drawn[b, parent[i], rank[i]].

    Raises:
        RuntimeError: wrong dtype, shape, strides or device, a number of slots that is not 8 times a
            power of two, contexts outside 1 .. 8, more than 4096 nodes on a GPU; on the CPU also
            values of start, parent, rank or temperature out of range. On a GPU a start outside the
            text and nodes that hang nowhere give -1.

    Source: Song et al., Accelerated Test-Time Scaling with Model-Free Speculative Sampling (STAND),
        arXiv 2506.04708; Kool et al., Stochastic Beams, arXiv 1903.06059 (Gumbel top-k).
    """
    options = {"temperature": temperature, "rng": rng, "most": most, "least": least}
    return NgramDraft(*_ngram_draft(key, ids, probs, text, start, parent, rank, **options))


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
    """Learns what the target put after each node, under each of the node's contexts.

    A slot holds the running mean of the distributions seen, mean <- (count mean + new) / (count +
    1), of which the W most probable tokens are kept. Nodes are learned in (batch, node) order, the
    shortest context first, equal contexts one after the other. A new context takes an empty slot of
    its bucket of eight, else that of the context seen least often, the first of several.
    Equivalent to `tokenburst.ref.ngram.ngram_update_`.

    Args:
        key: [C] int64, hash of each slot's context, 0 = empty; C = 8, 16, 32, ... These four are
            contiguous and changed in place. An empty table is all 0 but ids, all -1.
        count: [C] int32, distributions seen.
        ids: [C, W] int32, tokens, W at most 16.
        probs: [C, W] float32, descending, 0 = no token.
        text: [B, L] int32 or int64, the text before the nodes.
        start: [B] int32 or int64, position of node 0 in it.
        tokens: [B, N] int32 or int64, token of each node; -1 = none, which ends its contexts.
        parent: [B, N] int32 or int64, topological: -1 at node 0, else 0 <= parent[i] < i.
        top_ids: [B, N, K] int32 or int64, the target's best tokens after each node, -1 = none. Of
            equal ones the first counts.
        top_probs: [B, N, K] float32, their probabilities; what is not above 0 does not count.
        n_nodes: [B] int32 or int64, nodes of each tree; all N if absent.
        most, least: tokens of the longest and the shortest context.

    Raises:
        RuntimeError: wrong dtype, shape, strides or device, a number of slots that is not 8 times a
            power of two, W outside 1 .. 16, contexts outside 1 .. 8; on the CPU also values of
            start, parent or n_nodes out of range.

    Source: Song et al., Accelerated Test-Time Scaling with Model-Free Speculative Sampling (STAND),
        arXiv 2506.04708.
    """
    table, where = (key, count, ids, probs), (text, start, tokens, parent)
    options = {"n_nodes": n_nodes, "most": most, "least": least}
    _ngram_update_(*table, *where, top_ids, top_probs, **options)


_ngram_match = torch.ops.tokenburst.ngram_match.default
_ngram_draft = torch.ops.tokenburst.ngram_draft.default
_ngram_update_ = torch.ops.tokenburst.ngram_update_.default


@torch.library.register_fake("tokenburst::ngram_match")
def _(tokens, length, k, *, most=3, least=1, whole=False, latest=False):
    batch = tokens.shape[0]
    count = tokens.new_empty((batch,), dtype=torch.int32)
    return tokens.new_empty((batch, k), dtype=torch.int64), count, torch.empty_like(count)


@torch.library.register_fake("tokenburst::ngram_draft")
def _(key, ids, probs, text, start, parent, rank, *, temperature=None, rng=None, most=4, least=2):
    shape = text.shape[0], parent.shape[0], ids.shape[1]
    tokens = key.new_empty(shape[:2], dtype=torch.int64)
    drawn = key.new_empty(shape, dtype=torch.int64)
    return tokens, drawn, torch.empty_like(drawn, dtype=torch.float32)


@torch.library.register_fake("tokenburst::ngram_update_")
def _(
    key,
    count,
    ids,
    probs,
    text,
    start,
    tokens,
    parent,
    top_ids,
    top_probs,
    *,
    n_nodes=None,
    most=4,
    least=2,
):
    return None
