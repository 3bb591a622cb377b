"""Token Recycling: drafts from what followed before. In plain torch: `tokenburst.ref.recycle`."""

import torch
from torch import Tensor


def recycle_draft(
    adjacency: Tensor, root: Tensor, parent: Tensor, rank: Tensor, *, group: Tensor | None = None
) -> Tensor:
    """Fills a tree template with the tokens that followed before.

    tokens[b, 0] is root[b], and tokens[b, i] = adjacency[group[b], tokens[b, parent[i]], rank[i]];
    -1 where that entry is none, or the parent's token is. Equivalent to
    `tokenburst.ref.recycle.recycle_draft`.

    Args:
        adjacency: [V, K] or [G, V, K] int32, K contiguous; row t holds the tokens that followed
            token t, best first, -1 = none yet. Anything outside 0 .. V - 1 counts as none.
        root: [B] int32 or int64, last committed token of each sequence; -1 = no draft.
        parent: [N] int32 or int64, the template, topological: -1 at node 0, otherwise
            0 <= parent[i] < i.
        rank: [N] int32 or int64, 0 <= rank[i] < K, which successor of its parent's token node i is;
            rank[0] is not read.
        group: [B] int32 or int64, matrix of each sequence; given if and only if adjacency has G.

    Returns:
        tokens: [B, N] int64.

    Raises:
        RuntimeError: wrong dtype, shape or device; more than 4096 nodes on a GPU; on the CPU also
            values of root, parent, rank or group out of range. On a GPU these give -1 from the node
            concerned downwards, a group from the children of the root downwards.

    Source: Luo et al., Turning Trash into Treasure (Token Recycling), arXiv 2408.08696.
    """
    return _recycle_draft(adjacency, root, parent, rank, group=group)


def recycle_update_(
    adjacency: Tensor,
    tokens: Tensor,
    ids: Tensor,
    *,
    n_nodes: Tensor | None = None,
    group: Tensor | None = None,
) -> None:
    """Learns what the target put after each token of the verified trees, rejected ones included.

    adjacency[group[b], tokens[b, i], :] becomes ids[b, i, :K]. Nodes >= n_nodes, tokens outside
    0 .. V - 1 and nodes whose first id is -1 take no part. Among equal tokens of one group the last
    in (batch, node) order wins. Equivalent to `tokenburst.ref.recycle.recycle_update_`.

    Args:
        adjacency: [V, K] or [G, V, K] int32, K contiguous; changed in place.
        tokens: [B, N] int32 or int64, token of each node, drafted or committed.
        ids: [B, N, at least K] int32 or int64, the target's best tokens after each node, best
            first, -1 = none.
        n_nodes: [B] int32 or int64, nodes of each tree; all N if absent.
        group: [B] int32 or int64, matrix of each sequence; given if and only if adjacency has G.

    Raises:
        RuntimeError: wrong dtype, shape or device; on the CPU also ids outside -1 .. V - 1 and
            n_nodes or group out of range. On a GPU such ids count as -1, a sequence of no group or
            of fewer than 0 nodes takes no part, one of more than N nodes takes part with N.

    Source: Luo et al., Turning Trash into Treasure (Token Recycling), arXiv 2408.08696.
    """
    _recycle_update_(adjacency, tokens, ids, n_nodes=n_nodes, group=group)


_recycle_draft = torch.ops.tokenburst.recycle_draft.default
_recycle_update_ = torch.ops.tokenburst.recycle_update_.default


@torch.library.register_fake("tokenburst::recycle_draft")
def _(adjacency, root, parent, rank, *, group=None):
    return root.new_empty((root.shape[0], parent.shape[0]), dtype=torch.int64)


@torch.library.register_fake("tokenburst::recycle_update_")
def _(adjacency, tokens, ids, *, n_nodes=None, group=None):
    return None
