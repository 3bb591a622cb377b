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


_ngram_match = torch.ops.tokenburst.ngram_match.default


@torch.library.register_fake("tokenburst::ngram_match")
def _(tokens, length, k, *, most=3, least=1, whole=False, latest=False):
    batch = tokens.shape[0]
    count = tokens.new_empty((batch,), dtype=torch.int32)
    return tokens.new_empty((batch, k), dtype=torch.int64), count, torch.empty_like(count)
