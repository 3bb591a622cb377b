"""What of a draft is kept: the target's word on every node, and the path that follows it."""

from typing import NamedTuple

from torch import Tensor

from tokenburst import ops
from tokenburst.decoders.drafting import Draft


class Verdict(NamedTuple):
    """What one verification decided."""

    path: Tensor  # [B, N] int32: accepted nodes from the root down, -1 after them
    n_accepted: Tensor  # [B] int32
    next_token: Tensor  # [B] int64: the target's token after the path
    tokens: Tensor  # [B, N] int64: the text after the root, n_accepted tokens of it
    ids: Tensor  # [B, N, k] int64: the target's best tokens after each node
    values: Tensor  # [B, N, k] float32: their logits


def verify_greedy(
    logits: Tensor, draft: Draft, count: Tensor, k: int, eos: Tensor | None
) -> Verdict:
    """The longest path that greedy decoding would have written.

    Args:
        logits: [B * N, V] after each node.
        draft: with tokens [B, N].
        count: [B] int32, nodes that count in each row.
        k: how many of the target's best tokens the drafter wants to see.
        eos: ids below which nothing is accepted.
    """
    batch, nodes = draft.tokens.shape
    stats = ops.vocab_stats(logits, max(1, k))
    ids = stats.ids.view(batch, nodes, -1)
    target = ids[:, :, 0]
    accepted = ops.tree_verify_greedy(draft.tokens, target, draft.tree.parents, count, eos=eos)
    # An accepted node's target is the next node's token or, at the end, the token beyond.
    tokens = target.gather(1, accepted.path.clamp(min=0).long())
    return Verdict(*accepted, tokens, ids, stats.values.view_as(ids))
